"""Counters and gauges of byline itself, also as OpenTelemetry metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from byline.fork import after_fork_in_child, fork_safe_lock

_SPANS: Final = ".spans."
_SUBMISSIONS: Final = ".submissions"


class InternalMetrics:
    """All counters and gauges of this process."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._counters: Counter[str] = Counter()
        self._gauges: dict[str, Callable[[], dict[str, int]]] = {}
        self._is_registered = False
        # The parent process reports its own counts.
        after_fork_in_child(self._counters.clear)

    def increment(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name] += amount

    def register_gauges(self, name: str, read: Callable[[], dict[str, int]]) -> None:
        """Register gauges, e.g. the length of a queue, that `gauge_values` reads until `unregister_gauges`."""
        self._gauges[name] = read

    def unregister_gauges(self, name: str) -> None:
        """Stop to read the gauges of this name."""
        self._gauges.pop(name, None)

    def gauge_values(self) -> dict[str, int]:
        """Return the current values of all gauges."""
        gauges = sorted(self._gauges.items())
        return {f"{name}.{gauge}": value for name, read in gauges for gauge, value in read().items()}

    def counter_values(self) -> dict[str, int]:
        """Return the current values of all counters."""
        with self._lock:
            return dict(sorted(self._counters.items()))

    def clear(self) -> None:
        """Set all counters to zero."""
        with self._lock:
            self._counters.clear()

    def register_otel_metrics(self) -> None:
        """Let the global meter provider read all counters and gauges, once in the life of the process.

        ``byline.spans`` counts spans by ``destination`` and ``outcome`` (``sent``, ``spooled``, ``left_out``,
        ``dropped.<why>``), ``byline.submissions`` the posts to a destination, ``byline.calls`` the LLM calls.
        ``byline.queue`` and ``byline.spool`` are gauges: the spans that wait in memory, and the content of the
        spool by ``unit`` (``files``, ``spans``, ``bytes``).
        """
        if self._is_registered:
            return
        self._is_registered = True
        meter = metrics.get_meter("byline")
        meter.create_observable_counter("byline.spans", [self._spans], unit="{span}", description="Spans by outcome")
        meter.create_observable_counter(
            "byline.submissions", [self._submissions], unit="{request}", description="Posts"
        )
        meter.create_observable_counter("byline.calls", [self._calls], unit="{call}", description="LLM calls")
        meter.create_observable_gauge("byline.queue", [self._queues], unit="{span}", description="Waiting spans")
        meter.create_observable_gauge("byline.spool", [self._spools], description="Content of the spool")

    def _spans(self, _: CallbackOptions) -> Iterator[Observation]:
        for name, count in self.counter_values().items():
            destination, separator, outcome = name.partition(_SPANS)
            if separator:
                yield Observation(count, {"destination": destination, "outcome": outcome})

    def _submissions(self, _: CallbackOptions) -> Iterator[Observation]:
        counts = self.counter_values()
        for name, count in counts.items():
            if name.endswith(_SUBMISSIONS):
                failed = counts.get(f"{name}.failed", 0)
                destination = name.removesuffix(_SUBMISSIONS)
                yield Observation(failed, {"destination": destination, "outcome": "failed"})
                yield Observation(count - failed, {"destination": destination, "outcome": "accepted"})

    def _calls(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.counter_values().get("calls", 0))]

    def _queues(self, _: CallbackOptions) -> Iterator[Observation]:
        for name, value in self.gauge_values().items():
            if name.endswith(".queue"):
                yield Observation(value, {"destination": name.removesuffix(".queue")})

    def _spools(self, _: CallbackOptions) -> Iterator[Observation]:
        for name, value in self.gauge_values().items():
            destination, separator, unit = name.partition(".spool.")
            if separator and unit in ("files", "spans", "bytes"):
                yield Observation(value, {"destination": destination, "unit": unit})


_metrics: Final = InternalMetrics()
increment: Final = _metrics.increment
register_gauges: Final = _metrics.register_gauges
unregister_gauges: Final = _metrics.unregister_gauges
gauge_values: Final = _metrics.gauge_values
counter_values: Final = _metrics.counter_values
clear: Final = _metrics.clear
register_otel_metrics: Final = _metrics.register_otel_metrics
