"""Finds the LLM span that an HTTP request to a model belongs to, also if the span is made after the request."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import Span

from byline.genai import classify
from byline.genai.fast_attributes import peek_attributes
from byline.genai.span_state import current_request, state_of

#: The LLM span that started last in this context: some instrumentations never make their span current.
_last_llm_span: Final[ContextVar[weakref.ref[Span] | None]] = ContextVar("byline_last_llm_span", default=None)


class PendingSpan:
    """A span that an instrumentation will make for an LLM request while, or after, that is under way.

    Contexts are copied by tasks and threads; all copies share this object, so that the span is found once.

    Args:
        scope: The instrumentation scope of the span.
        name: The name of the span, if the same scope makes other spans before.
        callback: Called once, with the span.
        request_key: The key of the request that sent the LLM request.
    """

    __slots__ = ("callback", "name", "request_key", "scope")

    def __init__(self, scope: str, name: str | None, callback: Callable[[Span], None], request_key: int) -> None:
        self.scope = scope
        self.name = name
        self.request_key = request_key
        self.callback: Callable[[Span], None] | None = callback

    def offer(self, span: Span) -> None:
        """Take a span that has started, if it is the awaited one."""
        callback, scope = self.callback, span.instrumentation_scope
        if callback is None or scope is None or scope.name != self.scope or self.name not in (None, span.name):
            return
        state = state_of(span)
        if state is None or state.request_key != self.request_key:
            # A worker that the request has started has a copy of its context.
            return
        if classify.is_model_call(span.name, peek_attributes(span)):
            self.callback = None
            callback(span)


_pending_span: Final[ContextVar[PendingSpan | None]] = ContextVar("byline_pending_llm_span", default=None)


def await_llm_span(pending: PendingSpan | None) -> None:
    """Set the span that the latest LLM request of this context waits for, ``None`` if there is none."""
    if pending is not None or _pending_span.get() is not None:
        _pending_span.set(pending)


def on_llm_span_start(span: Span) -> None:
    """Remember an LLM span that starts in this context, and offer the span to the request that waits for one."""
    _last_llm_span.set(weakref.ref(span))
    pending = _pending_span.get()
    if pending is not None:
        pending.offer(span)


def find_llm_span() -> Span | None:
    """Return the LLM span that an HTTP request sent now belongs to, ``None`` if there is none.

    The current span if that is a model call; else the LLM span that started last in this context, if it is still
    recording and in the same trace. Within an agent's or a tool's span only a direct child of that span counts.
    """
    current = trace.get_current_span()
    reference = _last_llm_span.get()
    last = None if reference is None else reference()
    if last is not None and not is_of_current_request(last):
        last = None
    state = state_of(current)
    # A thread without the request's context is led back to the request by the current span.
    in_request = current_request() is None or is_of_current_request(current)
    if in_request and state is not None and state.is_llm and isinstance(current, Span) and current.is_recording():
        if last is None or not last.is_recording() or state.is_model_call:
            return current
        last_state = state_of(last)
        return last if last_state is not None and last_state.parent is state else current
    if last is None or not last.is_recording():
        return None
    context = current.get_span_context()
    if context.is_valid and last.get_span_context().trace_id != context.trace_id:
        return None
    return last


def is_of_current_request(span: trace.Span) -> bool:
    """Return whether a span started in the current request, or before the current job.

    A request that an app sends to itself, without a server, runs in the context of the outer request.
    """
    state = state_of(span)
    if state is None:
        return False
    context = current_request()
    if context is None:
        return not state.started_in
    if not state.started_in:
        return context.request() is None
    return state.started_in == context.key
