"""Captures the spans of a test in memory, and asserts their attribution."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from byline.genai.attributes import ATTRIBUTION, METADATA, OPERATION_NAME, SESSION_ID, USER_ID
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.classify import is_llm_scope, is_llm_span
from byline.genai.pricing import prices
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
    # Captured spans get no values after their end.
    prices.load()
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
        f"  {label}: {_as_list(attributes.get(name))!r}, not {_as_list(value)!r}"
        for label, (name, value) in expected.items()
        if _as_list(attributes.get(name)) != _as_list(value)
    ]
    if wrong:
        raise AssertionError("\n".join([f"span {span.name!r} is not signed as expected:", *wrong]))


SpanT = TypeVar("SpanT", ReadableSpan, ReceivedSpan)


def find_llm_span(spans: Sequence[SpanT], **fields: Any) -> SpanT:
    """Return the one LLM span that has these attribution fields.

    Args:
        spans: Captured spans, or those of a `Receiver`.
        **fields: As for `assert_signed`; without them the only LLM span is returned.

    Raises:
        AssertionError: None or several match; the message lists the LLM spans with their session and user.

    Example:
        >>> import byline
        >>> from opentelemetry import trace
        >>> with capture_spans() as spans, byline.bound(session_id="s-1"):
        ...     trace.get_tracer("app").start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
        >>> find_llm_span(spans, session_id="s-1").name
        'chat'
    """
    __tracebackhide__ = True
    llm_spans = [span for span in spans if _is_llm(span)]
    found = [span for span in llm_spans if _is_signed(span, fields)]
    if len(found) != 1:
        wanted = ", ".join(f"{name}={value!r}" for name, value in fields.items()) or "any attribution"
        lines: list[str] = [f"  {span.name!r}: {_describe(span)}" for span in llm_spans]
        others: list[str] = [f"  and {len(spans) - len(lines)} other spans"] if len(spans) > len(lines) else []
        problem = f"{len(found)} LLM spans have {wanted}, not one. The LLM spans are:"
        advice: list[str] = [] if spans else ["No span has arrived: byline.flush() sends a receiver those that wait."]
        raise AssertionError("\n".join([problem, *(lines or ["  none"]), *others, *advice]))
    return found[0]


def _is_llm(span: ReadableSpan | ReceivedSpan) -> bool:
    if isinstance(span, ReadableSpan):
        return is_llm_span(span)
    return is_llm_scope(span.scope) or OPERATION_NAME in span.attributes


def _is_signed(span: ReadableSpan | ReceivedSpan, fields: dict[str, Any]) -> bool:
    try:
        assert_signed(span, **fields)
    except AssertionError:
        return False
    return True


def _describe(span: ReadableSpan | ReceivedSpan) -> str:
    attributes = span.attributes or {}
    return ", ".join(f"{name}={attributes.get(name)!r}" for name in (SESSION_ID, USER_ID))


def _as_list(value: Any) -> Any:
    # Tags are a tuple on a captured span and a list on a received one.
    return list(value) if isinstance(value, tuple) else value
