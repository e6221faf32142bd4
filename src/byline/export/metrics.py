"""byline's counters and gauges as OpenTelemetry metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from byline import internal_metrics

_METER: Final = "byline"
_SPANS: Final = ".spans."
_SUBMISSIONS: Final = ".submissions"

_is_registered = False


def register_otel_metrics() -> None:
    """Register observable instruments with the global meter provider; only the first call has an effect.

    ``byline.spans`` counts spans by ``destination`` and ``outcome`` (``sent``, ``spooled``, ``left_out``,
    ``dropped.<why>``), ``byline.submissions`` posts to a destination, and ``byline.calls`` LLM calls. The gauges
    ``byline.queue`` and ``byline.spool`` tell how many spans wait in memory, and how much waits on disk by ``unit``
    (``files``, ``spans``, ``bytes``).
    """
    global _is_registered
    if _is_registered:
        return
    _is_registered = True
    meter = metrics.get_meter(_METER)
    meter.create_observable_counter("byline.spans", [_observe_spans], unit="{span}", description="Spans by outcome")
    meter.create_observable_counter("byline.submissions", [_observe_submissions], unit="{request}", description="Posts")
    meter.create_observable_counter("byline.calls", [_observe_calls], unit="{call}", description="LLM calls seen")
    meter.create_observable_gauge(
        "byline.queue", [_observe_queues], unit="{span}", description="Spans that wait in memory"
    )
    meter.create_observable_gauge(
        "byline.spool", [_observe_spools], description="Files, spans and bytes that wait on disk"
    )


def _observe_spans(_: CallbackOptions) -> Iterator[Observation]:
    for name, count in internal_metrics.counter_values().items():
        destination, found, outcome = name.partition(_SPANS)
        if found:
            yield Observation(count, {"destination": destination, "outcome": outcome})


def _observe_submissions(_: CallbackOptions) -> Iterator[Observation]:
    counts = internal_metrics.counter_values()
    for name, count in counts.items():
        if name.endswith(_SUBMISSIONS):
            failed = counts.get(f"{name}.failed", 0)
            destination = name.removesuffix(_SUBMISSIONS)
            yield Observation(failed, {"destination": destination, "outcome": "failed"})
            yield Observation(count - failed, {"destination": destination, "outcome": "accepted"})


def _observe_calls(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(internal_metrics.counter_values().get("calls", 0))]


def _observe_queues(_: CallbackOptions) -> Iterator[Observation]:
    for name, level in internal_metrics.gauge_values().items():
        if name.endswith(".queue"):
            yield Observation(level, {"destination": name.removesuffix(".queue")})


def _observe_spools(_: CallbackOptions) -> Iterator[Observation]:
    for name, level in internal_metrics.gauge_values().items():
        destination, found, unit = name.partition(".spool.")
        if found:
            yield Observation(level, {"destination": destination, "unit": unit})
