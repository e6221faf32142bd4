"""The span processor that writes the attribution of the request onto LLM spans as they start."""

from __future__ import annotations

import functools
import operator
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanKind, Status, StatusCode

from byline import deferred, errors
from byline.attribution import EMPTY, Attribution, is_printable
from byline.fork import after_fork_while_alive
from byline.gateways import values
from byline.gateways.keys import hash_key, is_guessable, key_settings
from byline.genai import attributes as names
from byline.genai import call_spans, classify, server_span
from byline.genai.attributes import (
    AFTER_RESPONSE,
    ATTRIBUTION,
    GENERATION_NAME,
    METADATA,
    REJECTED,
    VOUCHED,
    AttributeValue,
    context_attributes,
)
from byline.genai.call_results import is_unseen_call, results, unseen_usage
from byline.genai.fast_attributes import peek_attributes, set_attributes
from byline.genai.setup_check import InstrumentationCheck
from byline.genai.span_correlation import on_llm_span_start
from byline.genai.span_state import SpanListener, SpanState, SpanStateProcessor, start_state, state_of
from byline.inbound.request import HeaderNames
from byline.request_context import RequestContext
from byline.settings import SettingError

Stamp = Literal["llm", "all"]
STAMPS: Final = ("llm", "all")

_INHERITED: Final = frozenset(name for attributes in ATTRIBUTION.values() for name in attributes)
_MAX_CLIENT_VALUE: Final = 200
_MAX_WATCHED: Final = 1000
_CLIENT_HEADERS: Final = HeaderNames(
    {name: name for name in ("user-agent", "x-request-id", "x-api-key", "api-key", "authorization")}
)
_FIELDS: Final = Attribution.__struct_fields__


class AttributionSpanProcessor(SpanStateProcessor):
    """Sets the attribution of the request on every LLM span that starts, from any instrumentation.

    Args:
        stamp: ``"llm"`` for LLM spans only, ``"all"`` for every span of a request.

    Raises:
        SettingError: ``byline.E021`` for another value of ``stamp``.
    """

    def __init__(self, stamp: Stamp = "llm") -> None:
        super().__init__()
        if stamp not in STAMPS:
            raise SettingError("byline.E021", f"stamp={stamp!r}", 'pass "llm" or "all"')
        self.stamp = stamp
        self.enabled = True
        self.listeners: tuple[SpanListener, ...] = ()
        #: The listeners, as bits.
        self._destinations = 0
        #: Whether the end of most spans concerns no listener.
        self._selects_llm_only = True
        #: Spans whose call has ended abnormally, by the identity of their states.
        self._watched: dict[int, weakref.ref[Span]] = {}
        after_fork_while_alive(self.forget_watched)
        InstrumentationCheck.pending = False

    def switch_on(self, stamp: Stamp, listeners: Sequence[SpanListener] = ()) -> None:
        """Start to set attributes and to hand spans to the destinations; the provider has this processor already.

        Args:
            stamp: As for the class.
            listeners: The span processors of the destinations. They are not added to the provider, which could
                never remove them.
        """
        self.stamp = stamp
        self.listeners = tuple(listeners)
        self._destinations = functools.reduce(operator.or_, [each.destination_id for each in listeners], 0)
        self._selects_llm_only = all(each.selects_llm_only for each in listeners)
        self.enabled = True

    def switch_off(self) -> None:
        """Do nothing until switched on again."""
        self.enabled = False
        self.listeners = ()
        self._destinations = 0

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        """Make the state of the span and set the attribution, if the span is one to be attributed."""
        if not self.enabled:
            return
        try:
            state = start_state(span, parent_context)
            context = state.request_context
            if state.is_llm:
                if context is not None:
                    _set_attribution(span, context, rename=True)
                elif not state.is_outside_request and span.kind is not SpanKind.SERVER:
                    copy_from_parent(span, parent_context)
                on_llm_span_start(span)
                result = results.pop_for_second_span(span, state)
                if result is not None:
                    span.set_attributes(result)
            elif context is not None and self.stamp == "all":
                _set_attribution(span, context, rename=False)
            if self._destinations:
                call_spans.start_span(state, span, self._destinations)
        except Exception:
            errors.report_internal_error("processor")

    def _on_ending(self, span: Span) -> None:
        """Keep the state for `on_end`."""
        if self.enabled:
            super()._on_ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Hand the span to the destinations; add the totals to a server span that ends before the middleware does."""
        if not self.enabled:
            self._count_after_shutdown(span)
            return
        deferred.run_deferred()
        try:
            state = self.take_ended(span)
            if state is None:
                return
            if state.is_llm:
                context = state.request_context
                if context is not None:
                    if not state.carries_usage and not state.is_counted:
                        _add_unseen_call(span, state, context)
                    if context.root().server_span_ends_first:
                        server_span.set_request_attributes(context.root())
            elif self._selects_llm_only and not state.decisions and state.ends_request is None:
                if state.has_llm_descendant:
                    state.leave_out(self._destinations)
                return
            if not self.listeners:
                return
            call_spans.end_span(state, span)
        except Exception:
            errors.report_internal_error("processor")
        else:
            if not self._hand_over(span, state) and state.has_llm_descendant and not state.is_llm:
                state.leave_out(self._destinations)

    def _hand_over(self, span: ReadableSpan, state: SpanState) -> bool:
        """Return whether a destination may export the span."""
        is_wanted = False
        for listener in self.listeners:
            # The failure of one destination is not that of the others.
            try:
                is_wanted |= listener.on_span_end(span, state)
            except Exception:
                is_wanted = True
                errors.report_internal_error("processor")
        return is_wanted

    def _count_after_shutdown(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        # Present if the processor was switched off after `_on_ending`.
        state = self._ending.pop(id(context), None)
        if self.listeners and context is not None:
            state = state or SpanState(span, context, None)
            state.ended = state.ended or span
            self._hand_over(span, state)

    def watch(self, span: Span, state: SpanState) -> None:
        """Send a span although the instrumentation may never end it, once the app has released it or the process ends.

        Some instrumentations forget the span of a call that fails, or of a stream that is not read to its end. Only
        byline's destinations get such a span.
        """
        key, fields = id(state), vars(span)
        if key in self._watched or len(self._watched) >= _MAX_WATCHED:
            return

        def on_release(_: weakref.ref[Span]) -> None:
            # A finalizer. The span is gone, its attributes are not.
            self._watched.pop(key, None)
            if state.ended is None:
                deferred.defer(functools.partial(self._end_unended, state, fields, time.time_ns()))

        self._watched[key] = weakref.ref(span, on_release)

    def _end_unended(self, state: SpanState, fields: Mapping[str, Any], end_time: int) -> None:
        # A provider that does not call `_on_ending` tells the state nothing of the end.
        has_ended = state.ended is not None or fields["_end_time"] is not None
        if not self.enabled or has_ended or state.is_exporting:
            return
        attributes, status = dict(fields["_attributes"]), fields["_status"]
        if names.ERROR_TYPE in attributes and status.is_unset:
            status = Status(StatusCode.ERROR, str(attributes.get(names.ERROR_MESSAGE) or attributes[names.ERROR_TYPE]))
        state.ended = span = ReadableSpan(
            name=fields["_name"],
            context=state.span_context,
            parent=fields["_parent"],
            resource=fields["_resource"],
            attributes=attributes,
            events=tuple(fields["_events"]),
            links=tuple(fields["_links"]),
            kind=fields["_kind"],
            status=status,
            start_time=fields["_start_time"],
            end_time=end_time,
            instrumentation_scope=fields["_instrumentation_scope"],
        )
        call_spans.end_span(state, span)
        self._hand_over(span, state)

    def forget_watched(self) -> None:
        """Leave the watched spans to the parent process."""
        self._watched.clear()

    def end_watched(self) -> None:
        """Send the watched spans that are still open, because the process ends."""
        try:
            deferred.run_deferred()
            for reference in list(self._watched.values()):
                span = reference()
                state = state_of(span)
                if span is not None and state is not None:
                    self._end_unended(state, vars(span), time.time_ns())
            self._watched.clear()
        except Exception:
            errors.report_internal_error("processor")

    def shutdown(self) -> None:
        """Set no further attributes, and stop the destinations, which count later spans as dropped."""
        self.end_watched()
        self.enabled = False
        for listener in self.listeners:
            listener.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send the waiting spans of all destinations."""
        sent = [listener.force_flush(timeout_millis) for listener in self.listeners if self.enabled]
        return all(sent)


def _add_unseen_call(span: ReadableSpan, state: SpanState, context: RequestContext) -> None:
    """Add a call of which byline has seen no HTTP request to the totals of its request."""
    if not is_unseen_call(span.instrumentation_scope):
        return
    attributes = peek_attributes(span)
    if not classify.model_call_or_none(span.name, attributes):
        return
    # The provider may have two processors of byline.
    state.is_counted = True
    stated = {**attributes, **unseen_usage(attributes)}
    context.totals.add(
        input_tokens=values.count(stated.get(names.CALL_RESULT["input_tokens"])) or 0,
        output_tokens=values.count(stated.get(names.CALL_RESULT["output_tokens"])) or 0,
        cost=values.cost(stated.get(names.COST)),
        error=span.status.status_code is StatusCode.ERROR,
    )
    server_span.add_late_totals(context.root())


def request_attributes(context: RequestContext) -> dict[str, AttributeValue]:
    """Return the attributes that spans of this request carry, made once for equal attributions."""
    attribution = context.attribution()
    cached = context.span_attributes
    if cached is None or cached[0] is not attribution:
        rejected = context.rejected
        # The server span has the rejected claims too, but not every destination receives the server span.
        rejection: dict[str, AttributeValue] = {REJECTED: tuple(rejected)} if rejected else {}
        cached = (
            attribution,
            {
                **client_attributes(context),
                **rejection,
                **vouched_attribute(context, attribution),
                **context_attributes(context, attribution),
            },
        )
        context.span_attributes = cached
    return cached[1]


def vouched_attribute(context: RequestContext, attribution: Attribution) -> dict[str, AttributeValue]:
    """Return the names of the fields whose values the app itself has stated; all others are claims of the caller.

    Empty in a job, which has no caller.
    """
    vouched = context.vouched()
    if vouched is EMPTY or context.request() is None:
        return {}
    fields = [field for field in _FIELDS if (value := getattr(vouched, field)) and value == getattr(attribution, field)]
    return {VOUCHED: tuple(fields)} if fields else {}


def client_attributes(context: RequestContext) -> dict[str, AttributeValue]:
    """Return the attributes of the HTTP client: address, user agent, route, request id, hash of the API key.

    Empty in a job, which has no client.
    """
    request = context.request()
    if request is None:
        return {}
    attributes: dict[str, AttributeValue] = {}
    found_keys: set[str] = set()
    is_public = context.is_public
    for name, value in request.pick_headers(_CLIENT_HEADERS):
        if name == "user-agent":
            if is_printable(value):
                attributes.setdefault(names.CALLER_USER_AGENT, value[:_MAX_CLIENT_VALUE])
        elif name == "x-request-id" and not is_public:
            if 0 < len(value) <= _MAX_CLIENT_VALUE and is_printable(value):
                attributes.setdefault(names.REQUEST_ID, value)
        elif name in ("x-api-key", "api-key") and value:
            found_keys.add(value)
        elif name == "authorization" and value[:7].lower() == "bearer " and len(value) > 7:
            found_keys.add(value[7:].strip())
    # Of two keys the app may have checked either one.
    key = found_keys.pop() if len(found_keys) == 1 else None
    alias = None
    if context.root().caller_key or is_public:
        # The key in the headers may be another one than the key that the app has checked.
        key, alias = context.root().caller_key or (None, None)
    if key:
        shown, known_alias = key_settings.describe_key(hash_key(key), guessable=is_guessable(key))
        alias = alias or known_alias
        if shown is not None:
            attributes[names.KEY_HASH] = shown
    if alias is not None:
        attributes[names.KEY_ALIAS] = alias
    # Behind a proxy that passes X-Forwarded-For on as it comes, servers take the client's text for its address.
    address = request.address()
    if isinstance(address, str) and 0 < len(address) <= _MAX_CLIENT_VALUE and is_printable(address):
        attributes[names.CALLER_ADDRESS] = address
    route = request.route() or request.path()
    if is_printable(route):
        attributes[names.ROUTE] = route[:_MAX_CLIENT_VALUE]
    return attributes


def reapply(span: Span, context: RequestContext, *, is_own: bool = False) -> None:
    """Set the attribution again, so that the SDK's attribute limit does not drop these attributes first.

    The SDK drops the oldest attributes; setting an attribute again makes it the youngest. A value that the app or
    the instrumentation has set since the start stays.

    Args:
        span: The span.
        context: The request of the span.
        is_own: Whether byline made the span, so that nobody adds further attributes.
    """
    if not span.is_recording():
        return
    present = peek_attributes(span)
    attributes = request_attributes(context)
    if not attributes.items() <= present.items():
        attributes = {key: value for key, value in attributes.items() if present.get(key, value) == value}
    elif is_own:
        return
    set_attributes(span, attributes)


def copy_from_parent(span: Span, parent_context: otel_context.Context | None) -> None:
    """Copy the attribution of the parent onto a span that starts after its request, e.g. at garbage collection."""
    parent = trace.get_current_span(parent_context)
    if not isinstance(parent, Span):
        return
    present = peek_attributes(span)
    inherited = {
        key: value
        # A copy, because another thread may set attributes of the parent.
        for key, value in dict(peek_attributes(parent)).items()
        if (key in _INHERITED or key.startswith(METADATA)) and key not in present
    }
    if inherited:
        set_attributes(span, inherited)


def _set_attribution(span: Span, context: RequestContext, *, rename: bool) -> None:
    attributes = request_attributes(context)
    if context.is_after_response():
        attributes = {AFTER_RESPONSE: True, **attributes}
    if not attributes:
        return
    present = peek_attributes(span)
    if not attributes.keys().isdisjoint(present):
        attributes = {key: value for key, value in attributes.items() if key not in present}
    set_attributes(span, attributes)
    name = attributes.get(GENERATION_NAME) if rename else None
    # A span without attributes may still turn out to be an agent's; it is renamed when its response arrives.
    if name is not None and not classify.KEYS.isdisjoint(present) and classify.is_model_call(span.name, present):
        span.update_name(str(name))
