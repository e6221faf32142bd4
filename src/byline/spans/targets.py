"""The LLM spans under way: which record a span belongs to, and which span a call belongs to."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span

from byline.record import Record

_owners: Final[weakref.WeakValueDictionary[int, Record]] = weakref.WeakValueDictionary()
_spans: Final[weakref.WeakValueDictionary[int, Span]] = weakref.WeakValueDictionary()

#: The LLM span that started last in this context; some instrumentations never make theirs current.
_last: Final[ContextVar[weakref.ref[Span] | None]] = ContextVar("byline_last_llm_span", default=None)


def adopt(span: Span, owner: Record) -> None:
    """Remember to which record a span belongs.

    A raw thread loses the record's ContextVar; where OpenTelemetry's context has been carried over,
    the parent span leads back to it.
    """
    _owners[span.get_span_context().span_id] = owner


def owner_of_parent(parent_context: otel_context.Context | None) -> Record | None:
    """Return the record of the parent span, ``None`` where there is none."""
    if not _owners:
        return None
    return _owners.get(trace.get_current_span(parent_context).get_span_context().span_id)


def register(span: Span) -> None:
    """Take note of an LLM span that has started."""
    _spans[span.get_span_context().span_id] = span
    _last.set(weakref.ref(span))


def forget(span: ReadableSpan) -> None:
    """Let go of a span that has ended."""
    context = span.get_span_context()
    if context is not None:
        _spans.pop(context.span_id, None)


def owner_of(span: ReadableSpan) -> Record | None:
    """Return the record to which a span belongs."""
    context = span.get_span_context()
    return None if context is None else _owners.get(context.span_id)


def find() -> Span | None:
    """Return the LLM span that a call made now belongs to, ``None`` where there is none.

    The current span where that is an LLM span; else the one that started last in this context, if
    it is still recording and in the same trace.
    """
    current = trace.get_current_span()
    context = current.get_span_context()
    span = _spans.get(context.span_id)
    if span is not None and span.is_recording():
        return span
    reference = _last.get()
    last = None if reference is None else reference()
    if last is None or not last.is_recording():
        return None
    if context.is_valid and last.get_span_context().trace_id != context.trace_id:
        return None
    return last
