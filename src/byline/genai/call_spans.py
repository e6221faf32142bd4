"""Which spans stand for one model call: byline's own span yields to an instrumentation's span of the same call.

Whether an instrumentation has a span of a call may show only after byline has made one: some set their attributes as
they end (Google ADK), never make the span current (LangChain with OpenInference), or make all spans later in a
thread of their own (LangSmith). byline's own span is therefore provisional until the spans that may stand for its
call have ended. The other way round, the instrumentation's span of a stream that the app has left may end long before
byline's own, which ends when the garbage collector closes the response (LiteLLM with OpenInference): then that span
waits for the result. Spans are compared only within one part of a request; outside requests only below one local root.
"""

from __future__ import annotations

import functools
import re
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanKind

from byline.fork import fork_safe_lock
from byline.genai import classify
from byline.genai.attributes import CALL_RESULT, COST, ERROR_MESSAGE, ERROR_TYPE, RESPONSE_ID
from byline.genai.call_results import results, select_usage, strip_usage
from byline.genai.fast_attributes import peek_attributes
from byline.genai.span_state import SpanState, receive_end

#: Calls of one part of a request that are remembered, the latest.
_MAX_CALLS: Final = 256
#: Seconds that byline's own span waits for the end of an LLM span that may stand for its call, and that span for it.
_TIMEOUT: Final = 30.0
#: The same for a span around the call that has no sign of an LLM span yet, and for one that may be made later.
_TIMEOUT_UNKNOWN: Final = 5.0
_MAX_DEPTH: Final = 64

_MODELS: Final = (
    "gen_ai.request.model",
    "gen_ai.response.model",
    "llm.model_name",
    "llm.request.model",
    "llm.response.model",
)
_INPUT_TOKENS: Final = (CALL_RESULT["input_tokens"], "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT_TOKENS: Final = (CALL_RESULT["output_tokens"], "gen_ai.usage.completion_tokens", "llm.token_count.completion")
_MODEL_NAMES: Final = frozenset(_MODELS)
_TOKENS: Final = frozenset({*_INPUT_TOKENS, *_OUTPUT_TOKENS})
_ERRORS: Final = frozenset({ERROR_TYPE, ERROR_MESSAGE, CALL_RESULT["status_code"]})
_DATE: Final = re.compile(r"[-@]\d{4}-?\d\d-?\d\d$")
_lock: Final = fork_safe_lock()
_Item = TypeVar("_Item")


class _Call:
    """The call that an ended span stands for; the state of the span is held weakly."""

    __slots__ = ("end", "failed", "models", "response_id", "start", "state", "tokens")

    def __init__(self, state: SpanState, span: ReadableSpan) -> None:
        attributes = peek_attributes(span)
        self.state = weakref.ref(state)
        self.start = span.start_time or 0
        self.end = span.end_time or 0
        self.models = frozenset([_plain_model(str(attributes[name])) for name in _MODELS if name in attributes])
        self.tokens = (_first_of(attributes, _INPUT_TOKENS), _first_of(attributes, _OUTPUT_TOKENS))
        self.response_id = attributes.get(RESPONSE_ID)
        self.failed = ERROR_TYPE in attributes or not span.status.is_ok


class _CallSpans:
    """The spans of the model calls of one part of a request.

    Attributes:
        own: Calls of byline's own spans that have no other span.
        own_open: Own spans under way.
        others: Ended spans of instrumentations that byline has no result for.
        open: LLM spans that have started; they may have ended since.
        response_ids: Ids of the responses of which a span with tokens has ended.
    """

    __slots__ = ("open", "others", "own", "own_open", "response_ids")

    # Tuples, because most requests make one call: empty ones are no objects for the garbage collector.
    def __init__(self) -> None:
        self.own: tuple[_Call, ...] = ()
        self.own_open: tuple[weakref.ref[SpanState], ...] = ()
        self.others: tuple[weakref.ref[SpanState], ...] = ()
        self.open: tuple[weakref.ref[SpanState], ...] = ()
        self.response_ids: tuple[Any, ...] = ()


class _Owner(Protocol):
    """The part of a request, or the local root outside requests, to which the spans of model calls belong."""

    call_spans: _CallSpans | None


def start_span(state: SpanState, span: Span, destinations: int) -> None:
    """Note what destinations have to know of a span that starts.

    Args:
        state: The state of the span.
        span: The span.
        destinations: The destinations that receive the end of the span, as bits.
    """
    if state.is_llm and not state.destinations:
        # The span may stand for a call that byline makes a span of.
        with _lock:
            spans = _call_spans(state)
            spans.open = _added(spans.open, weakref.ref(state))
    receive_end(state, span, destinations)


def mark_as_own(state: SpanState, *, other_may_follow: bool = False) -> None:
    """Note that byline has made a span that has started.

    Args:
        state: The state of the span.
        other_may_follow: Whether an instrumentation may make a span of the call when that is over.
    """
    state.own_result = {}
    if other_may_follow:
        state.other_may_follow = True
    if state.destinations:
        with _lock:
            spans = _call_spans(state)
            spans.own_open = _added(spans.own_open, weakref.ref(state))


def end_span(state: SpanState, span: ReadableSpan) -> None:
    """Find out what destinations have to know of an ended span, once for all of them."""
    if state.refresh_request() and state.is_llm:
        _compare_spans(state, span)
        state.is_compared = True
        request_spans = state.request_spans
        if request_spans is not None and request_spans.root.route is None:
            request_spans.root.note_llm_span()


def _compare_spans(state: SpanState, span: ReadableSpan) -> None:
    """Find the other span of the call that an ended LLM span stands for."""
    attributes = peek_attributes(span)
    if state.own_result is not None:
        with _lock:
            spans = _call_spans(state)
            spans.own_open = _without(spans.own_open, state)
            if state.other_is_exported and not select_usage(state.own_result):
                state.is_superseded = True
            if not state.is_superseded:
                _count_call(state, 1)
                _find_other_span(_Call(state, span), state, spans)
        return
    known = classify.model_call_or_none(span.name, attributes)
    if known is False:
        return
    response_id = attributes.get(RESPONSE_ID)
    with _lock:
        spans = _call_spans(state)
        if known is None and response_id is not None and response_id in spans.response_ids:
            # E.g. an operation that fetches a stored response once more.
            state.usage_elsewhere = True
            return
        if not state.carries_usage and (known or not _MODEL_NAMES.isdisjoint(attributes)):
            _find_own_span(state, span, spans, attributes, known=known)
        if known or state.carries_usage:
            _count_call(state, 1)
            if response_id is not None and not _TOKENS.isdisjoint(attributes):
                spans.response_ids = _added(spans.response_ids, response_id)


def begin_export(state: SpanState) -> bool:
    """Note that a destination exports an ended span. Returns ``False`` if another span has replaced the span."""
    if state.is_exporting:
        return True
    with _lock:
        if state.is_superseded:
            return False
        if state.awaited is not None:
            _replace_open_span(state, state.awaited())
        state.is_exporting = True
    return True


def is_provisional(state: SpanState | None, *, flushing: bool = False) -> bool:
    """Return whether the end of another span of the same call may still change how this ended span is exported.

    Args:
        state: The state of the span.
        flushing: Whether a flush waits for the export. Then byline's own span waits only for LLM spans under way, and
            an instrumentation's span for nothing: it takes what is known of its call by now.
    """
    if state is None:
        return False
    awaited = state.awaited
    if state.own_result is None and (awaited is None or flushing):
        return False
    if state.is_superseded or state.is_exporting or state.ended is None:
        return False
    start, end = state.ended.start_time or 0, state.ended.end_time or 0
    # The end of the span lies in the future if the clock was set back, or as an instrumentation states it.
    age = abs(time.time_ns() - end) / 1e9
    if age > _TIMEOUT:
        return False
    if state.own_result is None:
        return awaited is not None and _is_open(awaited())
    if state.other_may_follow and not flushing and age <= _TIMEOUT_UNKNOWN:
        return True
    parent = state.parent
    if (
        parent is not None
        and not parent.is_llm
        and not flushing
        and age <= _TIMEOUT_UNKNOWN
        and _is_open(parent)
        and _may_become_call(parent)
    ):
        return True
    if any(_is_open(ancestor) and _may_be_call(ancestor) for ancestor in _ancestors(state) if ancestor.is_llm):
        return True
    with _lock:
        candidates = [reference() for reference in _call_spans(state).open]
    return any(
        candidate is not None and _is_open(candidate) and _may_be_call(candidate) and _start_of(candidate) <= start
        for candidate in candidates
    )


def _replace_open_span(state: SpanState, own_state: SpanState | None) -> None:
    """Let an instrumentation's span, which is exported now, take what byline's own open span of the call has by now."""
    state.awaited = None
    span = state.ended
    if span is None or own_state is None or not _is_open(own_state):
        return
    spans = _call_spans(state)
    spans.others = _without(spans.others, state)
    # Tokens and cost may grow until the call is over.
    state.result = strip_usage(own_state.own_result or {})
    if select_usage(peek_attributes(span)):
        own_state.is_superseded = True
        state.usage_elsewhere = own_state.usage_elsewhere
        results.assign(state, None)
    else:
        own_state.other_is_exported = state.usage_elsewhere = True


def is_model_call(state: SpanState) -> bool:
    """Return whether a span whose attributes do not tell is a model call: there is none below or above the span."""
    if state.carries_usage:
        return True
    if state.usage_elsewhere or state.model_calls_below:
        return False
    return not any(ancestor.is_llm and _is_known_call(ancestor) for ancestor in _ancestors(state))


def _find_other_span(own: _Call, own_state: SpanState, spans: _CallSpans) -> None:
    """Let an instrumentation's span of the same call, which has ended before, take the result of byline's own."""
    # Only spans that can match are read: a request may hold hundreds of others.
    ended = [(state, state.ended) for reference in spans.others if (state := reference()) is not None]
    others = [_Call(state, span) for state, span in ended if span is not None and _may_match(span, own)]
    other = _best_match(own, others, is_own=True)
    other_state = None if other is None else other.state()
    if other_state is None or other_state.is_exporting:
        spans.own = _added(spans.own, own)
    else:
        spans.others = _without(spans.others, other_state)
        _supersede(own, own_state, other_state)


def _find_own_span(
    state: SpanState, span: ReadableSpan, spans: _CallSpans, attributes: Mapping[str, Any], *, known: bool | None
) -> None:
    """Take the result of byline's own span of the same call, if there is one."""
    states_operation = known is None and classify.states_operation(attributes)
    if not spans.own:
        if not states_operation:
            _add_other(state, span, spans)
        return
    call = _Call(state, span)
    # An unknown operation may be an agent's: only a response of the same id proves the same call.
    needs_same_id = states_operation or (known is None and _has_calls(call, spans))
    own = _best_match(call, spans.own, is_own=False, needs_same_id=needs_same_id)
    if own is None and known and call.tokens != (None, None):
        # OpenInference ends the span of LlamaIndex's streams at the time at which the stream began.
        call.end = time.time_ns()
        own = _best_match(call, [each for each in spans.own if each.tokens == call.tokens], is_own=False)
    if own is None:
        if not needs_same_id:
            _add_other(state, span, spans)
        return
    spans.own = tuple([each for each in spans.own if each is not own])
    own_state = own.state()
    if own_state is None or own_state.is_exporting:
        # Too late: tokens and cost of the call have been exported.
        state.usage_elsewhere = True
        return
    _supersede(own, own_state, state)
    for attempt in [each for each in spans.own if each.failed and _match(call, each) and each.end <= own.start]:
        # The SDK tried again within the same span.
        failed = attempt.state()
        if failed is not None and not failed.is_exporting:
            spans.own = tuple([each for each in spans.own if each is not attempt])
            failed.is_superseded = True
            _count_call(failed, -1)


def _add_other(state: SpanState, span: ReadableSpan, spans: _CallSpans) -> None:
    """Keep an instrumentation's span for the end of byline's own span of the same call, which may be under way."""
    spans.others = _added(spans.others, weakref.ref(state))
    if spans.own_open:
        own = [each for reference in spans.own_open if (each := reference()) is not None and not each.is_superseded]
        open_calls = [_Call(each, live) for each in own if (live := each.span) is not None]
        best = _best_match(_Call(state, span), open_calls, is_own=False)
        state.awaited = None if best is None else best.state


def _added(calls: tuple[_Item, ...], call: _Item) -> tuple[_Item, ...]:
    return (*calls[1 - _MAX_CALLS :], call)


def _without(references: tuple[weakref.ref[SpanState], ...], state: SpanState) -> tuple[weakref.ref[SpanState], ...]:
    return tuple([each for each in references if each() is not state])


def _has_calls(call: _Call, spans: _CallSpans) -> bool:
    """Return whether several calls succeeded within a span, so that the span stands for none of them."""
    return sum(not own.failed and _match(call, own) > 0 for own in spans.own) > 1


def _supersede(own: _Call, own_state: SpanState, state: SpanState) -> None:
    own_state.is_superseded = True
    _count_call(own_state, -1)
    result = own_state.own_result or {}
    span = state.ended
    if own.failed and span is not None and span.status.is_ok and _states_response(peek_attributes(span)):
        # The SDK tried again in a way that byline does not see.
        result = {key: value for key, value in result.items() if key not in _ERRORS}
    state.result = result
    cost = result.get(COST)
    if isinstance(cost, int | float):
        state.cost = float(cost)
    # Set on the spans around byline's own span, of which this one may be one; or for a gateway's own span.
    state.usage_elsewhere = own_state.usage_elsewhere
    results.assign(state, None)


def _best_match(call: _Call, candidates: Iterable[_Call], *, is_own: bool, needs_same_id: bool = False) -> _Call | None:
    best, best_score = None, 0
    for each in candidates:
        score = _match(each, call) if is_own else _match(call, each)
        if score > best_score and (not needs_same_id or each.response_id == call.response_id):
            best, best_score = each, score
    return best


def _may_match(other: ReadableSpan, own: _Call) -> bool:
    """Return whether `_match` can be above 0 for an instrumentation's ended span."""
    start, end = other.start_time or 0, other.end_time or 0
    if start <= own.start < max(end, start + 1):
        return True
    return own.response_id is not None and peek_attributes(other).get(RESPONSE_ID) == own.response_id


def _match(other: _Call, own: _Call) -> int:
    """Return how well an instrumentation's span and one of byline's own fit as spans of one call, 0 if not at all."""
    inner, outer = own.state(), other.state()
    if inner is not None and outer is not None and not _reaches_destinations(outer, inner):
        return 0
    if other.response_id is not None and own.response_id is not None:
        return 100 if other.response_id == own.response_id else 0
    if not other.start <= own.start < max(other.end, other.start + 1):
        return 0
    if other.models and own.models:
        if not other.models & own.models:
            return 0
    elif inner is None or outer is None or all(ancestor is not outer for ancestor in _ancestors(inner)):
        return 0
    return 1 + 8 * (other.tokens == own.tokens) + 4 * (own.end <= other.end) + 2 * (not own.failed)


def _reaches_destinations(other: SpanState, own: SpanState) -> bool:
    """Return whether every destination that receives byline's own span receives the other span as well."""
    return not own.destinations & ~other.destinations and (other.is_sampled or not own.is_sampled)


def _call_spans(state: SpanState) -> _CallSpans:
    owner: _Owner | None = state.request_spans
    if owner is None:
        owner = state
        for ancestor in _ancestors(state):
            if state.is_outside_request and not ancestor.is_outside_request:
                # Each job of a worker that a request left behind is apart from the others.
                break
            owner = ancestor
    if owner.call_spans is None:
        owner.call_spans = _CallSpans()
    return owner.call_spans


def _count_call(state: SpanState, number: int) -> None:
    # Not by `_ancestors`: the generator takes twice as many bytecodes, for each LLM span that ends.
    ancestor = state.parent
    for _ in range(_MAX_DEPTH):
        if ancestor is None:
            return
        ancestor.model_calls_below += number
        ancestor = ancestor.parent


def _ancestors(state: SpanState) -> Iterator[SpanState]:
    ancestor = state.parent
    for _ in range(_MAX_DEPTH):
        if ancestor is None:
            return
        yield ancestor
        ancestor = ancestor.parent


def _is_open(state: SpanState | None) -> bool:
    """Return whether a span is under way, or has ended just now and is about to be compared with others."""
    # A span that is garbage never ends.
    if state is None or state.span is None:
        return False
    return state.ended is None or (state.is_llm and not state.is_compared)


def _start_of(state: SpanState) -> int:
    span = state.span
    return 0 if span is None else span.start_time or 0


def _may_be_call(state: SpanState) -> bool:
    """Return whether an LLM span of an instrumentation may be a model call that has no result yet."""
    span = state.span
    if span is None or state.carries_usage or state.is_claimed or state.own_result is not None:
        return False
    return classify.model_call_or_none(span.name, peek_attributes(span)) is not False


def _may_become_call(state: SpanState) -> bool:
    span = state.span
    return span is not None and span.kind in (SpanKind.INTERNAL, SpanKind.CLIENT)


def _is_known_call(state: SpanState) -> bool:
    span = state.span
    if state.carries_usage or span is None:
        return state.carries_usage
    return classify.model_call_or_none(span.name, peek_attributes(span)) is True


@functools.lru_cache(maxsize=1000)
def _plain_model(model: str) -> str:
    """Return a model's name without the provider and the date, which instrumentations leave out."""
    return _DATE.sub("", model.rsplit("/", 1)[-1]).lower()


def _states_response(attributes: Mapping[str, Any]) -> bool:
    return RESPONSE_ID in attributes or not _TOKENS.isdisjoint(attributes)


def _first_of(attributes: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((attributes[name] for name in names if name in attributes), None)
