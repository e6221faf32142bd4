"""The LLM spans under way: which record a span belongs to, and which span a call belongs to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span

from byline.genai import classify
from byline.genai.fast_attributes import peek_attributes
from byline.request_context import RequestContext

#: Names under which a span of the SDK remembers what it is to byline. No registry has to be kept, and
#: nothing outlives the span.
_OWNER: Final = "_byline_owner"
_IS_LLM: Final = "_byline_is_llm"
_PARENT: Final = "_byline_parent"
_CALL: Final = "_byline_call"
_MAX_DEPTH: Final = 16

#: Records by span id, for those alone that are asked for when nothing but the ended copy is left.
_owners: Final[weakref.WeakValueDictionary[int, RequestContext]] = weakref.WeakValueDictionary()

#: The LLM span that started last in this context; some instrumentations never make theirs current.
_last: Final[ContextVar[weakref.ref[Span] | None]] = ContextVar("byline_last_llm_span", default=None)


class _PendingSpan:
    """A call whose span is yet to be made. Contexts are copied; all copies share that it was found."""

    __slots__ = ("found", "name", "scope")

    def __init__(self, scope: str, name: str | None, found: Callable[[Span], None]) -> None:
        self.scope = scope
        self.name = name
        self.found: Callable[[Span], None] | None = found


_pending_span: Final[ContextVar[_PendingSpan | None]] = ContextVar("byline_seeking_call", default=None)


def link_to_request(span: Span, owner: RequestContext) -> None:
    """Remember to which record a span belongs.

    A raw thread loses the record's ContextVar; where OpenTelemetry's context has been carried over,
    the parent span leads back to it.
    """
    setattr(span, _OWNER, weakref.ref(owner))
    if owner.root().app_span_ends_first:
        _owners[span.get_span_context().span_id] = owner


def request_of_parent(parent_context: otel_context.Context | None) -> RequestContext | None:
    """Return the record of the parent span, ``None`` where there is none."""
    return _owner(trace.get_current_span(parent_context))


def on_llm_span_start(span: Span, parent_context: otel_context.Context | None = None) -> None:
    """Take note of an LLM span that has started."""
    setattr(span, _IS_LLM, True)
    parent = trace.get_current_span(parent_context)
    if getattr(parent, _IS_LLM, False):
        setattr(span, _PARENT, weakref.ref(parent))
    _last.set(weakref.ref(span))
    seeker = _pending_span.get()
    if seeker is not None and seeker.found is not None:
        _offer_span(span, seeker)


def await_llm_span(late: tuple[str, str | None] | None, found: Callable[[Span], None]) -> None:
    """Wait for the span of a call in this context, ``None`` for a call that has one or gets none.

    Args:
        late: The scope of the instrumentation that makes it while, or after, the exchange is under
            way, and the span's name where others of that scope are made before theirs.
        found: What to do with it, once.
    """
    if late is not None:
        _pending_span.set(_PendingSpan(*late, found))
    elif _pending_span.get() is not None:
        _pending_span.set(None)


def _offer_span(span: Span, seeker: _PendingSpan) -> None:
    scope = span.instrumentation_scope
    if scope is None or scope.name != seeker.scope or seeker.name not in (None, span.name):
        return
    if not classify.is_model_call(span.name, peek_attributes(span)):
        return
    found, seeker.found = seeker.found, None
    if found is not None:
        found(span)


def llm_ancestors(span: Span) -> Iterator[Span]:
    """Yield the LLM spans around one, from the inside outwards."""
    for _ in range(_MAX_DEPTH):
        reference = getattr(span, _PARENT, None)
        outer = None if reference is None else reference()
        if outer is None:
            return
        yield outer
        span = outer


def claim_span(span: Span, call: object) -> None:
    """Note that a call under way has its facts on this span, so that no other one takes it."""
    span.__dict__[_CALL] = weakref.ref(call)


def unclaim_span(span: Span) -> None:
    """Let the span be taken by another call, as by the next attempt of an SDK whose last one has failed."""
    span.__dict__.pop(_CALL, None)


def mark_answered(span: Span) -> None:
    """Note that the span has its answer: what is called beside it is another call."""
    span.__dict__[_CALL] = _is_settled


def is_claimed(span: Span) -> bool:
    """Whether a call under way has taken this span, or one has been answered on it."""
    reference = getattr(span, _CALL, None)
    return reference is not None and reference() is not None


def _is_settled() -> bool:
    return True


def request_of_span(span: ReadableSpan) -> RequestContext | None:
    """Return the record to which a span belongs."""
    found = _owner(span)
    if found is None and _owners:
        context = span.get_span_context()
        found = None if context is None else _owners.get(context.span_id)
    return found


def _owner(span: object) -> RequestContext | None:
    reference = getattr(span, _OWNER, None)
    return None if reference is None else reference()


def find_llm_span() -> Span | None:
    """Return the LLM span that a call made now belongs to, ``None`` where there is none.

    The current span where that is a model call's; else the one that started last in this context, if
    it is still recording and in the same trace; within an agent's or a tool's span only one right below.
    """
    current = trace.get_current_span()
    reference = _last.get()
    last = None if reference is None else reference()
    if isinstance(current, Span) and getattr(current, _IS_LLM, False) and current.is_recording():
        if classify.is_model_call(current.name, peek_attributes(current)) or last is None or not last.is_recording():
            return current
        parent = getattr(last, _PARENT, None)
        return last if parent is not None and parent() is current else current
    context = current.get_span_context()
    if last is None or not last.is_recording():
        return None
    if context.is_valid and last.get_span_context().trace_id != context.trace_id:
        return None
    return last
