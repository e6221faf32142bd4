"""Spans of a test, in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from byline.spans.processor import BylineSpanProcessor


class _Collector(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.open = True

    def on_end(self, span: ReadableSpan) -> None:
        if self.open:
            self.spans.append(span)


@contextmanager
def capture_spans(tracer_provider: TracerProvider | None = None) -> Iterator[list[ReadableSpan]]:
    """Sign spans and gather them in a list for the length of a block, without any backend.

    Args:
        tracer_provider: By default the global one, which is made and set where there is none.

    Example:
        >>> import byline
        >>> from opentelemetry import trace
        >>> with capture_spans() as spans, byline.bound(session_id="s-1"):
        ...     trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        >>> spans[0].attributes["session.id"]
        's-1'
    """
    provider: Any = tracer_provider or trace.get_tracer_provider()
    if not hasattr(provider, "add_span_processor"):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    # The SDK cannot take processors away again: both are switched off after the block.
    signing, collector = BylineSpanProcessor(), _Collector()
    provider.add_span_processor(signing)
    provider.add_span_processor(collector)
    try:
        yield collector.spans
    finally:
        signing.switch_off()
        collector.open = False


def assert_signed(span: ReadableSpan, **fields: Any) -> None:
    """Assert that a span carries these attribution fields.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> span = TracerProvider().get_tracer("app").start_span("chat", attributes={"session.id": "s-1"})
        >>> assert_signed(span, session_id="s-1")
    """
    from byline.spans.attributes import ATTRIBUTION

    attributes = span.attributes or {}
    for field, expected in fields.items():
        name = ATTRIBUTION[field][0]
        found = attributes.get(name)
        assert found == expected, f"{field}: {name} is {found!r}, not {expected!r}"
