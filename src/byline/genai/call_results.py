"""Results of LLM calls that arrive apart from their span, and which span carries tokens and cost of a response.

Some instrumentations make or end their span apart from the HTTP exchange, two instrumentations may each make a
span of one call, and a gateway may send a span of its own. Tokens and cost of a response belong on exactly one of
them. Every key of the table contains the key of the request: caches of gateways and some servers repeat response
ids, so that an id alone would join the results of different requests. The table holds response attributes only,
never a session, a user or any other attribution.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from byline.fork import fork_safe_lock
from byline.gateways import values
from byline.genai import classify
from byline.genai.attributes import CALL_RESULT, COST, COST_SOURCE, ERROR_TYPE, RESPONSE_ID, AttributeValue
from byline.genai.fast_attributes import peek_attributes
from byline.genai.span_state import SpanState, state_of
from byline.internal_metrics import increment

ResultAttributes = Mapping[str, AttributeValue]

MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 16 * 1024 * 1024
MAX_SECONDS: Final = 300.0
#: Approximate bytes of an entry and of each of its attributes, without their texts.
_ENTRY_BYTES: Final = 200
_ATTRIBUTE_BYTES: Final = 100

#: Instrumentations that end their span of a stream at the headers, and log a second span beside it with the tokens
#: when the stream is over.
_TWO_SPANS: Final = frozenset({"logfire.openai", "logfire.anthropic"})

#: Prefixes of tokens and cost in the spellings of all instrumentations.
_USAGE: Final = (
    "gen_ai.usage.",
    "gen_ai.cost.",
    "llm.token_count.",
    "llm.usage.",
    "llm.cost.",
    "litellm.cost.",
    "byline.cost.",
    "byline.cache.savings",
    "langfuse.observation.usage_details",
    "langfuse.observation.cost_details",
)
_CALL: Final = (
    "gen_ai.request.",
    "gen_ai.response.",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.prompt",
    "gen_ai.completion",
    "llm.",
)

#: Scopes of the spans of xAI's SDK, which speaks gRPC, and their own names of counts, after ``gen_ai.usage.``.
_XAI_SCOPE: Final = "xai_sdk."
_XAI_COUNTS: Final = {
    "reasoning_tokens": CALL_RESULT["reasoning_tokens"],
    "cached_prompt_text_tokens": CALL_RESULT["cache_read_tokens"],
    "prompt_image_tokens": CALL_RESULT["input_image_tokens"],
}
_XAI_SUMS: Final = ("input_tokens", "output_tokens", "total_tokens")

_Key = tuple[Any, ...]
#: In place of a request's key: a response of which a span of some request carries tokens and cost.
_ANY_REQUEST: Final = "any"


class _Entry:
    """The results of one response id within one request.

    Attributes:
        pending: Results that wait for a span, by call: the result of a stream is recorded more than once.
        assigned: Whether a span carries tokens and cost of the response.
        in_gateway: Whether the gateway's own span carries them.
    """

    __slots__ = ("added", "assigned", "in_gateway", "pending", "size")

    def __init__(self) -> None:
        #: With their sizes.
        self.pending: dict[object, tuple[ResultAttributes, int]] = {}
        self.assigned = False
        self.in_gateway = False
        self.added = 0.0
        self.size = _ENTRY_BYTES


class CallResults:
    """The bounded table of call results. The oldest entries are dropped first.

    At most 4,096 entries and about 16 MiB are kept, each for at most 300 seconds. Results that no span has taken by
    then are counted as ``results.over_budget`` and ``results.expired``.
    """

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, request_key: int, response_id: str, result: ResultAttributes, call: object = None) -> None:
        """Keep a result for the span of this request that will state the response id.

        Args:
            request_key: The key of the request.
            response_id: The id of the response.
            result: Response attributes.
            call: Stands for the call. A later result of the same call replaces an earlier one.
        """
        self._add((request_key, response_id), result, call or object())

    def add_for_second_span(self, span: Span, state: SpanState, result: ResultAttributes, call: object = None) -> None:
        """Keep a result for the second span of a stream, which has the parent and the scope of the first."""
        self._add(_second_span_key(span, state), result, call or object())

    def pop_for_second_span(self, span: Span, state: SpanState) -> ResultAttributes | None:
        """Return the result for a span that starts, if it is the second one of a stream."""
        if not self._entries or not logs_second_span(span):
            return None
        if peek_attributes(span).get("logfire.span_type") != "log":
            return None
        with self._lock:
            key = _second_span_key(span, state)
            entry = self._entries.get(key)
            if entry is None:
                return None
            result = self._take_pending(entry)
            if not entry.pending:
                del self._entries[key]
                self._size -= entry.size
        return result

    def assign(self, state: SpanState, response_id: str | None) -> None:
        """Note that this span carries tokens and cost of the response; model calls around it do not.

        A span around it that carries those of another response keeps them, also if its instrumentation then writes
        every call of an agent onto the agent's span, as OpenInference does with some versions of Google ADK.
        """
        state.carries_usage = True
        for ancestor in state.llm_ancestors():
            if not ancestor.is_model_call:
                continue
            if ancestor.carries_usage and ancestor.usage is None and ancestor.span is not None:
                ancestor.usage = select_usage(peek_attributes(ancestor.span))
            if not ancestor.usage:
                ancestor.usage_elsewhere = True
        if response_id is not None:
            request_key = state.request_key
            with self._lock:
                self._entry((request_key, response_id)).assigned = True
                if request_key:
                    self._entry((_ANY_REQUEST, response_id)).assigned = True
                self._make_room()

    def assign_to_gateway(self, state: SpanState | None, request_key: int, response_id: str | None) -> None:
        """Note that the gateway sends a span of its own, which carries tokens and cost of the response."""
        for each in () if state is None else (state, *state.llm_ancestors()):
            if each.is_model_call:
                each.usage_elsewhere = True
        if response_id is not None:
            with self._lock:
                self._entry((request_key, response_id)).in_gateway = True
                self._make_room()

    def claim(self, state: SpanState, response_id: str) -> None:
        """Give a finished span the result that waits for its response id, unless another span has taken it."""
        if not self._entries or state.carries_usage or state.result is not None:
            return
        with self._lock:
            entry = self._entries.get((state.request_key, response_id))
            if entry is None or not entry.pending:
                return
            state.result = self._take_pending(entry)
            state.carries_usage = entry.assigned = True
            state.usage_elsewhere = entry.in_gateway

    def is_duplicate(self, state: SpanState, response_id: object) -> bool:
        """Return whether another span carries tokens and cost of the call that this span stands for."""
        if state.usage_elsewhere:
            return True
        if not self._entries or not isinstance(response_id, str):
            return False
        entry = self._entries.get((state.request_key, response_id))
        if entry is None and not state.request_key:
            # A span that has lost its request, e.g. in a thread: it gets no values of any request, but its own tokens
            # would be counted twice.
            entry = self._entries.get((_ANY_REQUEST, response_id))
        if entry is None:
            return False
        return (entry.in_gateway or entry.assigned) and not state.carries_usage

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _add(self, key: _Key, result: ResultAttributes, call: object) -> None:
        size = _ENTRY_BYTES + sum(_ATTRIBUTE_BYTES + len(str(value)) for value in result.values())
        with self._lock:
            entry = self._entry(key)
            # A later result of the same call replaces the earlier one, and its size.
            size_before = entry.pending[call][1] if call in entry.pending else 0
            entry.pending[call] = (result, size)
            entry.size += size - size_before
            self._size += size - size_before
            self._make_room()

    def _take_pending(self, entry: _Entry) -> ResultAttributes | None:
        """Return the oldest result of an entry, which waits no longer."""
        call = next(iter(entry.pending), None)
        if call is None:
            return None
        result, size = entry.pending.pop(call)
        entry.size -= size
        self._size -= size
        return result

    def _entry(self, key: _Key) -> _Entry:
        """Return an entry, made if there is none; the lock is held, and `_make_room` follows."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            self._size += entry.size
        else:
            self._entries.move_to_end(key)
        entry.added = time.monotonic()
        return entry

    def _make_room(self) -> None:
        now = time.monotonic()
        while self._entries:
            oldest, entry = next(iter(self._entries.items()))
            fits = len(self._entries) <= MAX_ENTRIES and self._size <= MAX_BYTES
            if fits and (now - entry.added <= MAX_SECONDS or len(self._entries) == 1):
                break
            del self._entries[oldest]
            self._size -= entry.size
            if entry.pending:
                increment("results.expired" if fits else "results.over_budget", len(entry.pending))


#: The table of this process: a call and its span may belong to different runtimes.
results: Final = CallResults()


def logs_second_span(span: Span) -> bool:
    """Return whether the instrumentation of a span logs a second span with the tokens of a stream."""
    scope = span.instrumentation_scope
    return scope is not None and scope.name in _TWO_SPANS


def expects_second_span(scope: str, attributes: Mapping[str, Any]) -> bool:
    """Return whether a finished span is the first one of a stream, so that a second span states the tokens."""
    stated = (RESPONSE_ID, ERROR_TYPE, CALL_RESULT["input_tokens"])
    is_second = attributes.get("logfire.span_type") == "log"
    return scope in _TWO_SPANS and not is_second and not any(key in attributes for key in stated)


def select_usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tokens and cost among attributes, in any spelling."""
    return {key: value for key, value in attributes.items() if key.startswith(_USAGE)}


def strip_usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes without tokens and cost in any spelling."""
    return {key: value for key, value in attributes.items() if not key.startswith(_USAGE)}


def strip_call(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a server or framework span without those that a library wrote of a single LLM call."""
    return {
        key: value
        for key, value in strip_usage(attributes).items()
        if key not in classify.KEYS and not key.startswith(_CALL)
    }


def is_unseen_call(scope: InstrumentationScope | None) -> bool:
    """Return whether the spans of a scope stand for calls of which byline sees no HTTP request: those of xAI's SDK."""
    return scope is not None and scope.name.startswith(_XAI_SCOPE)


def unseen_usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of a span of xAI's SDK under the names of the conventions.

    The SDK counts reasoning tokens beside the output.
    """
    usage: dict[str, Any] = {}
    counts = {name: attributes.get(f"gen_ai.usage.{name}") for name in (*_XAI_COUNTS, *_XAI_SUMS)}
    for name, attribute in _XAI_COUNTS.items():
        if counts[name]:
            usage[attribute] = counts[name]
    parts = [values.count(counts[name]) or 0 for name in ("input_tokens", "output_tokens", "reasoning_tokens")]
    if counts["output_tokens"] is not None and sum(parts) == counts["total_tokens"]:
        usage[CALL_RESULT["output_tokens"]] = parts[1] + parts[2]
    cost = values.ticks(attributes.get("gen_ai.usage.cost_in_usd_ticks"))
    if cost is not None and COST not in attributes:
        usage.update({COST: cost, COST_SOURCE: "response"})
    return usage


def _second_span_key(span: Span, state: SpanState) -> _Key:
    scope = span.instrumentation_scope
    parent_id = 0 if span.parent is None else span.parent.span_id
    return (state.request_key, state.trace_id, parent_id, "" if scope is None else scope.name)


def keep_result(
    result: ResultAttributes, *, span: Span | None, request_key: int, response_id: str | None, call: object = None
) -> None:
    """Keep a result whose span has ended, or is not there yet.

    Args:
        result: Response attributes.
        span: The span of the call if that has ended before its response.
        request_key: The key of the request that made the call.
        response_id: The id by which a span that is made later is found.
        call: Stands for the call. A later result of the same call replaces an earlier one.
    """
    state = None if span is None else state_of(span)
    if span is not None and state is not None:
        if logs_second_span(span):
            results.add_for_second_span(span, state, result, call)
        else:
            state.result = result
            # Other calls of the request may have a response of the same id.
            state.carries_usage = True
    elif response_id is not None:
        results.add(request_key, response_id, result, call)
