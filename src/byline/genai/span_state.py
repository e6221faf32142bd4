"""The state of one span: all that byline knows of a span from its start until its export.

A span of the SDK has one private attribute of byline's, its `SpanState`. `SpanProcessor.on_end` receives a copy
of the span without that attribute, so each of byline's span processors takes the state over in `_on_ending`
(OpenTelemetry SDK 1.40 and later), when the span itself is still at hand.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import INVALID_SPAN, SpanContext, SpanKind

from byline import errors
from byline.fork import fork_safe_lock
from byline.genai import classify
from byline.genai.fast_attributes import peek_attributes
from byline.request_context import DEFAULT_AFTER_RESPONSE, RequestContext, current_context
from byline.request_spans import RequestSpans

_STATE: Final = "_byline_state"
#: Attributes that identify an LLM span. Long conversations push them out of the SDK's attribute limit.
_IDENTIFYING: Final = classify.KEYS | {"gen_ai.request.model", "gen_ai.response.model", "llm.model_name"}
#: Stands for every destination in `SpanState.destinations`.
_EVERY_DESTINATION: Final = -1
#: States between `_on_ending` and `on_end`, as many as threads end spans at once, and a few forgotten ones.
_MAX_ENDING: Final = 256
_MAX_DEPTH: Final = 16
#: Ancestors outside requests that are kept at least, and the seconds after their end in which all are kept.
_MAX_CHAIN: Final = 512
_CHAIN_SECONDS: Final = 60.0
_lock: Final = fork_safe_lock()
_NESTED_REQUEST: Final = otel_context.create_key("byline-nested-request")


class SpanState:
    """State of one span.

    Attributes:
        span_context: The span's context in the app's own traces.
        parent: The state of the parent span, ``None`` for a root and below a remote parent.
        is_llm: Whether the span stands for a model call, an agent step or a tool call.
        identifying_attributes: The attributes by which that was known at the start.
        has_llm_descendant: Whether the span is an LLM span or has one below it.
        is_outside_request: Whether the span started so long after the request of its parent that it is no part of it.
        started_in: The key of the request in whose context the span started, 0 outside requests.
        is_side_span: Whether byline's own provider recorded the span because the app's sampler dropped its request.
        attempt_failed: Whether an earlier attempt of the same call left an error on the span.
        cost: The cost in USD as byline found it; some instrumentations overwrite the attribute as they end.
        result: Response attributes that arrived after the span had ended.
        carries_usage: Whether tokens and cost of a response belong on this span.
        usage: Tokens and cost that the span had when a call below it had its response, ``None`` if there is no such
            call. Whatever the instrumentation states later is not of the span's own call.
        usage_elsewhere: Whether another span, or the gateway's own, carries tokens and cost of this span's call.
        late_totals: Of a server span, the usage totals of the request when the cost of a call became known late.
        recorded: The response attributes that byline has set on the span, perhaps of the beginning of its response.
        own_result: The result of the call of a span that byline made itself, ``None`` for all other spans.
        is_counted: Whether the span's call, of which byline has seen no HTTP request, is in the request's totals.
        is_superseded: Whether an instrumentation's span of the same call replaces this span of byline's own.
        is_exporting: Whether a destination has begun to export the span.
        is_compared: Whether `byline.genai.call_spans` has looked for other spans of the call of this ended LLM span.
        awaited: Of an ended span of an instrumentation, byline's own span of the same call, which was under way then.
        other_may_follow: Of a span of byline's own, whether an instrumentation may make a span of the call when that is
            over.
        other_is_exported: Of a span of byline's own, whether an instrumentation's span of the same call, which states
            no tokens and no cost, left before this span had ended.
        model_calls_below: How many model calls have ended below the span.
        ended: The span as it ended, without attributes if no destination exports it.
        is_left_out: Whether no destination exports the span.
        destinations: The destinations that receive `on_end` for the span, as bits.
        after_response: Of a server span, see `RequestContext.after_response`; ``None`` for other spans.
        decisions: Whether a destination exports the span, by destination, once that is decided.
        call_spans: The spans of model calls below a root outside requests, see `byline.genai.call_spans`.
        exported_trace_ids: The trace in which a destination exports the span, by destination.
    """

    is_llm = False
    identifying_attributes: Mapping[str, Any] = {}
    has_llm_descendant = False
    is_outside_request = False
    started_in = 0
    is_side_span = False
    attempt_failed = False
    cost: float | None = None
    result: Mapping[str, Any] | None = None
    carries_usage = False
    late_totals: Mapping[str, Any] = {}
    usage: Mapping[str, Any] | None = None
    usage_elsewhere = False
    recorded: Mapping[str, Any] = {}
    own_result: Mapping[str, Any] | None = None
    is_counted = False
    is_superseded = False
    is_exporting = False
    is_compared = False
    awaited: weakref.ref[SpanState] | None = None
    other_may_follow = False
    other_is_exported = False
    model_calls_below = 0
    ended: ReadableSpan | None = None
    is_left_out = False
    destinations = 0
    decisions: Mapping[int, bool] = {}
    exported_trace_ids: Mapping[int, int] = {}
    after_response: float | None = None
    call_spans: Any = None
    _context: weakref.ref[RequestContext] | None = None
    _request_spans: RequestSpans | None = None
    _ends_request: weakref.ref[RequestSpans] | None = None
    _request_key = 0
    _call: weakref.ref[Any] | None = None
    _is_answered = False
    _is_refreshed = False

    # Most spans need few of the attributes above: setting the others for each span would take longer than all the rest.
    def __init__(self, span: ReadableSpan, context: SpanContext, parent: SpanState | None) -> None:
        self.span_context = context
        self.parent = parent
        self._span: weakref.ref[ReadableSpan] | None = weakref.ref(span)

    @property
    def span_id(self) -> int:
        """The span id."""
        return self.span_context.span_id

    @property
    def trace_id(self) -> int:
        """The trace id in the app's own traces."""
        return self.span_context.trace_id

    @property
    def is_sampled(self) -> bool:
        """Whether the app's sampler lets the span be exported."""
        return self.span_context.trace_flags.sampled

    @property
    def span(self) -> ReadableSpan | None:
        """The span as it ended, else the live span; ``None`` if the app released the span without ending it."""
        return self.ended or (None if self._span is None else self._span())

    @property
    def request_context(self) -> RequestContext | None:
        """The context of the span's request, ``None`` outside a request and once the context is released."""
        return None if self._context is None else self._context()

    def link_to_request(self, context: RequestContext) -> None:
        """Make the span one of this request's spans.

        A raw thread loses the context variable of the request. If OpenTelemetry's context was carried over,
        the parent span leads back to the request.
        """
        self._context = weakref.ref(context)
        self._request_spans = None
        self._request_key = context.key

    @property
    def request_key(self) -> int:
        """The key of the span's request, 0 outside requests; known also when the context is released."""
        state: SpanState | None = self
        while state is not None:
            if state._request_key or state.is_outside_request:
                return state._request_key
            state = state.parent
        return 0

    @property
    def request_spans(self) -> RequestSpans | None:
        """The values that the spans of the request share, ``None`` outside a request."""
        if self._request_spans is None:
            context = None if self._context is None else self._context()
            if context is not None:
                self._request_spans = request_spans = context.spans()
                server_span = getattr(context.server_span, _STATE, None)
                if request_spans.has_server_span and server_span is not None and server_span._ends_request is None:
                    server_span._ends_request = weakref.ref(request_spans)
                    # The server span may end when nothing is left of the context.
                    server_span._request_spans = request_spans
            elif self._context is None and self.parent is not None and not self.is_outside_request:
                # Another server span within the request, which has no context of its own, is part of it.
                linked = self._linked_ancestor()
                return None if linked is None else linked.request_spans
        return self._request_spans

    def _linked_ancestor(self) -> SpanState | None:
        """Return the nearest ancestor that belongs to a request, or is known to belong to none."""
        state, depth = self.parent, 0
        while state is not None and state._context is None and not state.is_outside_request:
            depth += 1
            if depth % _MAX_CHAIN == 0 and state.parent is not None and state._ended_long_ago():
                # In a context that is never detached each span is the child of the span before, for ever.
                state.parent = None
            state = state.parent
        return state

    def _ended_long_ago(self) -> bool:
        span = self.ended
        return span is not None and span.end_time is not None and time.time_ns() - span.end_time > _CHAIN_SECONDS * 1e9

    def is_request_over(self) -> bool:
        """Return whether the request of a span, of which nothing is kept, has been over for too long.

        Measured from the end of the span, because the request context is gone.
        """
        linked = self if self._context is not None else self._linked_ancestor()
        span = None if linked is None else linked.span
        if linked is None or linked._context is None or span is None or span.end_time is None:
            return False
        state: SpanState | None = linked
        while state is not None and state.after_response is None:
            state = state.parent
        limit = DEFAULT_AFTER_RESPONSE if state is None or state.after_response is None else state.after_response
        return time.time_ns() - span.end_time > limit * 1e9

    @property
    def ends_request(self) -> RequestSpans | None:
        """The request that is over when this span ends, ``None`` for all but server spans."""
        return None if self._ends_request is None else self._ends_request()

    def refresh_request(self) -> bool:
        """Copy the attribution of the request for the export of this ended span.

        Returns:
            ``False`` if that was done already, for another destination.
        """
        if self._is_refreshed:
            return False
        self._is_refreshed = True
        request_spans = self.request_spans
        if request_spans is not None:
            request_spans.refresh()
        ended = self.ends_request
        if ended is not None:
            ended.refresh()
        return True

    def leave_out(self, destinations: int) -> None:
        """Keep no more of an ended span than LLM spans below need: none of these destinations exports it."""
        span = self.ended
        if span is None or self.destinations & ~destinations:
            return
        self.is_left_out = True
        # Without attributes, events and links: ten objects, which wait for the export of the spans below.
        self.ended = ReadableSpan(
            span.name,
            self.span_context,
            span.parent,
            span.resource,
            kind=span.kind,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def decide(self, destination: int, *, exports: bool) -> None:
        """Note whether a destination exports the span."""
        # Each destination has a thread of its own.
        with _lock:
            self.decisions = {**self.decisions, destination: exports}

    def place(self, destination: int, trace_id: int) -> None:
        """Note the trace in which a destination exports the span."""
        with _lock:
            self.exported_trace_ids = {**self.exported_trace_ids, destination: trace_id}

    def mark_as_llm(self, attributes: Mapping[str, Any]) -> None:
        """Note that the span is an LLM span, for itself and for the spans above it."""
        self.is_llm = True
        self.identifying_attributes = {key: attributes[key] for key in filter(_IDENTIFYING.__contains__, attributes)}
        state: SpanState | None = self
        while state is not None and not state.has_llm_descendant:
            state.has_llm_descendant = True
            state = state.parent

    def llm_ancestors(self) -> Iterator[SpanState]:
        """Yield the LLM spans directly around this one, from the inside outwards."""
        state = self.parent
        for _ in range(_MAX_DEPTH):
            if state is None or not state.is_llm:
                return
            yield state
            state = state.parent

    def claim(self, call: object) -> None:
        """Note that this LLM request writes its result onto the span, so that no other request does."""
        self._call = weakref.ref(call)
        self._is_answered = False

    def unclaim(self) -> None:
        """Release the span for another LLM request, e.g. for an SDK's next attempt after a failed one."""
        self._call = None
        self._is_answered = False

    def mark_answered(self) -> None:
        """Note that the span has its response: a further request beside it is another call."""
        self._is_answered = True

    @property
    def is_claimed(self) -> bool:
        """Whether an LLM request under way, or an answered one, has this span."""
        return self._is_answered or (self._call is not None and self._call() is not None)

    @property
    def is_model_call(self) -> bool:
        """Whether the span is a model call, by the attributes that are set so far."""
        span = self.span
        return self.is_llm and span is not None and classify.is_model_call(span.name, peek_attributes(span))

    @property
    def takes_result(self) -> bool:
        """Whether the result of a call that is made within the span is set on it: the span is a model call for sure."""
        span = self.span
        if not self.is_model_call or span is None:
            return False
        scope = span.instrumentation_scope
        return scope is None or not classify.states_kind_at_end(scope.name, peek_attributes(span))


class SpanListener(Protocol):
    """Receives the ended spans of a provider together with their states.

    Attributes:
        destination_id: One bit that stands for the listener in `SpanState.destinations`.
        selects_llm_only: Whether only LLM spans and the ends of requests concern the listener.
    """

    @property
    def destination_id(self) -> int:
        """See the class."""

    @property
    def selects_llm_only(self) -> bool:
        """See the class."""

    def on_span_end(self, span: ReadableSpan, state: SpanState) -> bool:
        """Receive the copy of a span that has ended, after `call_spans.end_span`. Returns whether that is needed."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send all waiting spans."""

    def shutdown(self) -> None:
        """Send all waiting spans and stop."""


class SpanStateProcessor(SpanProcessor):
    """Base of byline's span processors: makes the state of each span and takes the state over as the span ends."""

    def __init__(self) -> None:
        #: States between `_on_ending` and `on_end`, which `Span.end` calls one after the other.
        #: By the identity of the span context, which a span and its ended copy share.
        self._ending: dict[int, SpanState] = {}

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        """Make the state of the span, unless another processor has done so."""
        start_state(span, parent_context)

    def _on_ending(self, span: Span) -> None:
        """Keep the state for `on_end`; a span that started before byline gets one here."""
        try:
            state: SpanState | None = getattr(span, _STATE, None)
            if state is None:
                state = start_state(span, None, is_ending=True)
            self._ending[id(span.get_span_context())] = state
            if len(self._ending) > _MAX_ENDING:
                self._drop_forgotten()
        except Exception:
            errors.report_internal_error("processor")

    def _drop_forgotten(self) -> None:
        """Drop the states of spans for which `on_end` was not called: another processor raised an error."""
        for key, state in list(self._ending.items()):
            if state.span is None:
                self._ending.pop(key, None)

    def take_ended(self, span: ReadableSpan) -> SpanState | None:
        """Return the state of an ended span. Call once, in `on_end`."""
        context = span.get_span_context()
        if context is None:
            return None
        state = self._ending.pop(id(context), None) or self.find_started(context)
        if state is None or state.span_context is not context:
            # A provider that does not call `_on_ending`.
            state = SpanState(span, context, None)
        if state.ended is None:
            if not state.is_llm and classify.is_llm(span, attributes := peek_attributes(span)):
                # The instrumentation set its attributes after the start.
                state.mark_as_llm(attributes)
            # Last: the workers of destinations look at ended LLM spans.
            state.ended = span
            state._span = None
        return state

    def find_started(self, context: SpanContext) -> SpanState | None:  # noqa: ARG002 - for subclasses
        """Return the state of a span for which `_on_ending` was not called, if the processor knows the state."""
        return None


def state_of(span: object) -> SpanState | None:
    """Return the state of a span that is under way, ``None`` for spans that byline has not seen start."""
    return getattr(span, _STATE, None)


def start_state(
    span: Span, parent_context: otel_context.Context | None = None, *, is_ending: bool = False
) -> SpanState:
    """Return the state of a span that starts, made by the first processor that asks."""
    state: SpanState | None = getattr(span, _STATE, None)
    if state is not None:
        return state
    parent_span = trace.get_current_span(parent_context)
    parent = getattr(parent_span, _STATE, None)
    if (
        parent is None
        and parent_span is not INVALID_SPAN
        and parent_span.is_recording()
        and isinstance(parent_span, Span)
        and parent_span is not span
    ):
        # The parent started before byline's processors were added.
        parent = SpanState(parent_span, parent_span.get_span_context(), None)
        if share_provider(parent_span, span):
            parent.destinations = _EVERY_DESTINATION
        setattr(parent_span, _STATE, parent)
    own_context = span.get_span_context()
    context = current_request(parent_context)
    if is_ending:
        # The context in which a span ends may not be its own, and then says nothing about parent or request.
        current = parent_span.get_span_context()
        own_parent = span.parent
        if own_parent is None or (current.span_id, current.trace_id) != (own_parent.span_id, own_parent.trace_id):
            parent = None
        if current.is_valid and current.trace_id != own_context.trace_id:
            context = None
    state = SpanState(span, own_context, parent)
    setattr(span, _STATE, state)
    if context is not None:
        state.started_in = context.key
    if parent is None:
        # In a context of its own, or with the remote parent that a message of a queue names.
        if (
            context is not None
            and (parent_context is not None or span.parent is not None)
            and context.has_left_trace(own_context)
        ):
            state.is_outside_request, context = True, None
    elif context is None or parent._request_key != context.key:
        context, state.is_outside_request = _choose_request(context, parent, parent_context)
    if context is not None and (span.kind is not SpanKind.SERVER or belongs_to_request(context, span)):
        state._context = weakref.ref(context)
        state._request_key = context.key
    attributes = peek_attributes(span)
    if classify.is_llm(span, attributes):
        state.mark_as_llm(attributes)
    return state


def _choose_request(
    context: RequestContext | None, parent: SpanState, otel: otel_context.Context | None
) -> tuple[RequestContext | None, bool]:
    """Return the request of work that starts without a request context, or below a span of another request.

    Returns:
        The request, and whether the work is known to belong to none.
    """
    if context is None:
        return _request_of_parent(parent)
    if parent.is_outside_request and parent.started_in == context.key:
        return None, True
    if parent.request_key in (0, context.key):
        return context, False
    if otel is not None:
        # A worker that one request has started makes spans for others, and names the parent (LangChain, LiteLLM).
        current = trace.get_current_span().get_span_context()
        if (current.trace_id, current.span_id) != (parent.trace_id, parent.span_id):
            return _request_of_parent(parent)
    if context.scope_or_environ is None or _nested_request(otel) is context:
        return context, False
    # A worker that one request has started has attached the OpenTelemetry context of another one.
    return _request_of_parent(parent)


def _request_of_parent(parent: SpanState) -> tuple[RequestContext | None, bool]:
    context = parent.request_context
    request_spans = parent.request_spans if context is None else None
    if context is not None:
        is_over = context.is_expired()
    else:
        is_over = parent.is_request_over() if request_spans is None else request_spans.is_expired()
    return None if is_over else context, is_over or parent.is_outside_request


def request_of_call() -> RequestContext | None:
    """Return the request of a call that is made now, the same that a span would get."""
    context = current_request()
    span = trace.get_current_span()
    parent = state_of(span)
    if parent is None:
        return None if context is not None and context.has_left_trace(span.get_span_context()) else context
    if context is None or parent._request_key != context.key:
        return _choose_request(context, parent, None)[0]
    return context


def current_request(otel: otel_context.Context | None = None) -> RequestContext | None:
    """Return the current request context, also in a thread that has only OpenTelemetry's context."""
    context = current_context()
    if context is not None:
        return context
    context = _nested_request(otel)
    return None if context is None or context.is_expired() else context


def _nested_request(otel: otel_context.Context | None) -> RequestContext | None:
    nested: Any = otel_context.get_value(_NESTED_REQUEST, otel)
    return None if nested is None else nested()


def is_below_other_request(context: RequestContext, current: trace.Span) -> bool:
    """Return whether the current span belongs to another request than this one, which has no server span."""
    state = state_of(current)
    return state is not None and state.request_key not in (0, context.key)


def attach_nested_request(context: RequestContext) -> Any:
    """Carry a request that runs within another one in OpenTelemetry's context; returns the token to detach with.

    The request may have no span of its own, so that the current span would lead a thread to the outer request.
    """
    return otel_context.attach(otel_context.set_value(_NESTED_REQUEST, weakref.ref(context)))


def refuse_server_span(outer: RequestContext) -> None:
    """Let no server span that starts become the one of this request: it is that of a request within this one."""
    root = outer.root()
    if root.server_span is None:
        root.server_span = INVALID_SPAN


def accept_server_span(outer: RequestContext) -> None:
    """Undo `refuse_server_span`, because the server span of the inner request has started."""
    root = outer.root()
    if root.server_span is INVALID_SPAN:
        root.server_span = None


def set_server_span(context: RequestContext, span: trace.Span | None) -> None:
    """Make a span the server span of a request, which also leads raw threads to the request."""
    context.server_span = span
    state: SpanState | None = getattr(span, _STATE, None)
    if state is None:
        if not isinstance(span, Span) or not span.is_recording():
            return
        state = SpanState(span, span.get_span_context(), None)
        state.destinations = _EVERY_DESTINATION
        setattr(span, _STATE, state)
    state.link_to_request(context)
    after_response = context.after_response
    if after_response != DEFAULT_AFTER_RESPONSE:
        state.after_response = after_response


def belongs_to_request(context: RequestContext, span: ReadableSpan) -> bool:
    """Return whether a span of kind SERVER that starts in the context of a request belongs to that request.

    A second server span does not: that is another request, which the server or the app started in the context
    of this one. The first server span that the app makes becomes the server span of the request.
    """
    if context.server_span is not None:
        return context.server_span.get_span_context() == span.get_span_context()
    if isinstance(span, Span):
        context.adopt_server_span(span)
    return True


def receive_end(state: SpanState, span: Span, destinations: int) -> None:
    """Note that destinations receive `on_end` for the span, and for its open ancestors of the same provider.

    Args:
        state: The state of the span.
        span: A span that starts.
        destinations: The destinations, as bits.
    """
    state.destinations |= destinations
    request_spans = state.request_spans
    if request_spans is not None and request_spans.root.first_span is None:
        request_spans.root.first_span = state.span_context
    ancestor = state.parent
    while ancestor is not None and ancestor.destinations & destinations != destinations:
        if share_provider(ancestor.span, span):
            ancestor.destinations |= destinations
        ancestor = ancestor.parent


def share_provider(other: object, span: Span) -> bool:
    """Return whether a span records and comes from the same provider, so that the same processors receive its end."""
    if not isinstance(other, Span) or not other.is_recording():
        return False
    return getattr(other, "_span_processor", None) is getattr(span, "_span_processor", None)
