"""Captures the spans of a test in memory, and asserts their attribution."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from byline.genai.attributes import ATTRIBUTION, METADATA
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.tracer_provider import get_or_add_processor
from byline.testing.receiver import ReceivedSpan

_lock: Final = threading.Lock()
_PROCESSOR_ATTRIBUTE: Final = "_byline_collector"


class _CapturingProcessor(SpanProcessor):
    """Sets the attribution on spans and appends ended spans to the list of each open block."""

    def __init__(self) -> None:
        self.attribution = AttributionSpanProcessor()
        self.lists: list[list[ReadableSpan]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.lists:
            self.attribution.on_start(span, parent_context)

    def _on_ending(self, span: Any) -> None:
        self.attribution._on_ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.attribution.on_end(span)
        for spans in list(self.lists):
            spans.append(span)


@contextmanager
def capture_spans(tracer_provider: TracerProvider | None = None) -> Iterator[list[ReadableSpan]]:
    """Set the attribution on spans of a block and collect the ended ones in a list, without a backend.

    Works with and without `byline.instrument`. Spans of all threads are collected, except those that
    are still open when the block ends.

    Args:
        tracer_provider: The provider of the spans; by default the global one, which is created if
            none is set.

    Yields:
        The list, in the order in which spans end.

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
    with _lock:
        processor = get_or_add_processor(provider, _PROCESSOR_ATTRIBUTE, _CapturingProcessor())
    spans: list[ReadableSpan] = []
    processor.lists.append(spans)
    try:
        yield spans
    finally:
        # list.remove() compares by equality and could remove another block's list.
        processor.lists[:] = [other for other in processor.lists if other is not spans]


def assert_signed(span: ReadableSpan | ReceivedSpan, **fields: Any) -> None:
    """Assert that a span has the attributes of these attribution fields, with these values.

    Args:
        span: A captured span, or a span of a `Receiver`.
        **fields: Fields of `byline.Attribution` and the expected values. ``None`` means that the
            attribute must be missing. ``metadata`` may be a part of the span's metadata.

    Raises:
        AssertionError: An attribute differs; the message lists all that do.
        TypeError: A name is not an attribution field.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> span = TracerProvider().get_tracer("app").start_span("chat", attributes={"user.id": "ada"})
        >>> assert_signed(span, user_id="ada", session_id=None)
    """
    __tracebackhide__ = True
    attributes = span.attributes or {}
    expected: dict[str, tuple[str, Any]] = {}
    for field, value in fields.items():
        if field == "metadata":
            expected.update({f"metadata {key}": (METADATA + key, item) for key, item in value.items()})
        elif field in ATTRIBUTION:
            expected.update({f"{field} in {name}": (name, value) for name in ATTRIBUTION[field]})
        else:
            raise TypeError(f"{field} is no field of an attribution; fields are: {', '.join(ATTRIBUTION)}, metadata")
    wrong = [
        f"{label}: {_as_list(attributes.get(name))!r}, not {_as_list(value)!r}"
        for label, (name, value) in expected.items()
        if _as_list(attributes.get(name)) != _as_list(value)
    ]
    assert not wrong, f"span {span.name!r} is not signed as expected: {'; '.join(wrong)}"


def _as_list(value: Any) -> Any:
    # Tags are a tuple on a captured span and a list on a received one.
    return list(value) if isinstance(value, tuple) else value
