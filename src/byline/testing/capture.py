"""Spans of a test, in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from byline.genai.attributes import ATTRIBUTION, METADATA
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.provider_processors import get_or_add_processor
from byline.testing.otlp import ReceivedSpan

_lock: Final = threading.Lock()
_COLLECTOR: Final = "_byline_collector"


class _Collector(SpanProcessor):
    """Signs spans and hands the ended ones to all blocks that are open."""

    def __init__(self) -> None:
        self.signing = AttributionSpanProcessor()
        self.lists: list[list[ReadableSpan]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.lists:
            self.signing.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        self.signing.on_end(span)
        for spans in list(self.lists):
            spans.append(span)


@contextmanager
def capture_spans(tracer_provider: TracerProvider | None = None) -> Iterator[list[ReadableSpan]]:
    """Sign spans and gather the ended ones in a list for the length of a block, without any backend.

    Whether `byline.instrument` has been called makes no difference to it. Spans of all threads are
    gathered; one that is still open when the block ends is not.

    Args:
        tracer_provider: By default the global one, which is made and set where there is none.

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
        collector = get_or_add_processor(provider, _COLLECTOR, _Collector())
    spans: list[ReadableSpan] = []
    collector.lists.append(spans)
    try:
        yield spans
    finally:
        # By identity: lists of equal spans are equal.
        collector.lists[:] = [other for other in collector.lists if other is not spans]


def assert_signed(span: ReadableSpan | ReceivedSpan, **fields: Any) -> None:
    """Assert that a span carries these fields of an attribution, and as these values.

    Args:
        span: A captured span, or one that a `Receiver` got.
        **fields: Fields of `byline.Attribution` and their values. ``metadata`` names the keys that
            must be there, other keys may be there too. ``None`` says that a field must be missing.

    Raises:
        AssertionError: Names every field that differs.
        TypeError: A name that is no field.

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
            raise TypeError(f"{field} is no field of an attribution; these are: {', '.join(ATTRIBUTION)}, metadata")
    wrong = [
        f"{what}: {_plain(attributes.get(name))!r}, not {_plain(value)!r}"
        for what, (name, value) in expected.items()
        if _plain(attributes.get(name)) != _plain(value)
    ]
    assert not wrong, f"span {span.name!r} is not signed as expected: {'; '.join(wrong)}"


def _plain(value: Any) -> Any:
    # Tags are a tuple in memory and a list in what arrives.
    return list(value) if isinstance(value, tuple) else value
