"""byline's counters and levels as OpenTelemetry metrics, for whoever collects those anyway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from byline import internal_metrics

_METER: Final = "byline"
_SPANS: Final = ".spans."
_SUBMISSIONS: Final = ".submissions"

_offered = False


def register_otel_metrics() -> None:
    """Let the global meter provider read the counters; once for the whole process.

    ``byline.spans`` counts spans by ``destination`` and ``outcome`` (``sent``, ``spooled``,
    ``left_out``, ``dropped.<why>``), ``byline.submissions`` the posts to a destination,
    ``byline.calls`` the LLM calls. ``byline.queue`` and ``byline.spool`` are levels: the spans that
    wait in memory, and what waits on disk by ``unit`` (``files``, ``spans``, ``bytes``).
    """
    global _offered
    if _offered:
        return
    _offered = True
    meter = metrics.get_meter(_METER)
    meter.create_observable_counter("byline.spans", [_spans], unit="{span}", description="Spans by what became of them")
    meter.create_observable_counter("byline.submissions", [_submissions], unit="{request}", description="Posts")
    meter.create_observable_counter("byline.calls", [_calls], unit="{call}", description="LLM calls seen")
    meter.create_observable_gauge("byline.queue", [_queues], unit="{span}", description="Spans that wait in memory")
    meter.create_observable_gauge("byline.spool", [_spools], description="What waits on disk")


def _spans(_: CallbackOptions) -> Iterator[Observation]:
    for name, count in internal_metrics.counter_values().items():
        destination, found, outcome = name.partition(_SPANS)
        if found:
            yield Observation(count, {"destination": destination, "outcome": outcome})


def _submissions(_: CallbackOptions) -> Iterator[Observation]:
    counts = internal_metrics.counter_values()
    for name, count in counts.items():
        if name.endswith(_SUBMISSIONS):
            failed = counts.get(f"{name}.failed", 0)
            destination = name.removesuffix(_SUBMISSIONS)
            yield Observation(failed, {"destination": destination, "outcome": "failed"})
            yield Observation(count - failed, {"destination": destination, "outcome": "accepted"})


def _calls(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(internal_metrics.counter_values().get("calls", 0))]


def _queues(_: CallbackOptions) -> Iterator[Observation]:
    for name, level in internal_metrics.gauge_values().items():
        if name.endswith(".queue"):
            yield Observation(level, {"destination": name.removesuffix(".queue")})


def _spools(_: CallbackOptions) -> Iterator[Observation]:
    for name, level in internal_metrics.gauge_values().items():
        destination, found, unit = name.partition(".spool.")
        if found:
            yield Observation(level, {"destination": destination, "unit": unit})
