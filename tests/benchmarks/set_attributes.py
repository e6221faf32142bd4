"""Setting twelve attributes on a span, beside OpenTelemetry's BaggageSpanProcessor."""

from __future__ import annotations

from typing import Final

from opentelemetry import baggage, context
from opentelemetry.processor.baggage import ALLOW_ALL_BAGGAGE_KEYS, BaggageSpanProcessor
from opentelemetry.sdk.trace import TracerProvider

from byline.bound import bound
from byline.genai.attribution_processor import AttributionSpanProcessor
from tests.benchmarks.measure import Row, costs

FIELDS: Final = {
    "session_id": "session_abc",
    "user_id": "user_12345",
    "trace_id": "workflow_12345",
    "trace_name": "Document Processing Pipeline",
    "parent_span_id": "span_1",
    "environment": "production",
    "release": "2.1.0",
    "version": "7",
    "tags": ["a", "b"],
    "metadata": {"pipeline": "x", "stage": "y"},
}
_CHAT: Final = {"gen_ai.operation.name": "chat"}


def rows() -> list[Row]:
    """Return the time that each processor adds to a recorded span."""
    plain, stamped, baggaged = (TracerProvider(shutdown_on_exit=False) for _ in range(3))
    stamped.add_span_processor(AttributionSpanProcessor())
    baggaged.add_span_processor(BaggageSpanProcessor(ALLOW_ALL_BAGGAGE_KEYS))
    tracers = {
        "plain": plain.get_tracer("bench"),
        "ours": stamped.get_tracer("bench"),
        "theirs": baggaged.get_tracer("bench"),
    }

    def run(name: str, loops: int) -> None:
        start = tracers[name].start_span
        for _ in range(loops):
            start("chat", attributes=_CHAT).end()

    within = context.get_current()
    for number in range(12):
        within = baggage.set_baggage(f"key.{number}", "value_12345", within)
    with bound(**FIELDS):
        token = context.attach(within)
        try:
            span = tracers["ours"].start_span("chat", attributes=_CHAT)
            count = len(getattr(span, "attributes", ())) - 1
            span.end()
            assert count == 12, count
            taken = costs(
                {name: lambda loops, name=name: run(name, loops) for name in tracers},  # type: ignore[misc]
                loops=300,
                rounds=25,
            )
        finally:
            context.detach(token)
    theirs = taken["theirs"] - taken["plain"]
    return [Row("12 attributes on a span", "BaggageSpanProcessor", theirs, taken["ours"] - taken["plain"], 0.30)]
