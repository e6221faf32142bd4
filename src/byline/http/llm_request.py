"""One LLM request: an HTTP exchange with a model provider or a gateway, and its result."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, MutableMapping
from copy import copy
from types import FrameType
from typing import Any, Final

import msgspec
from opentelemetry.sdk.trace import Span

from byline import deferred, errors, internal_metrics
from byline.apis import ApiParser, find_form_fields, form_members, is_retrieved
from byline.call_result import CallResult
from byline.fork import fork_safe_lock
from byline.gateways.base import Gateway
from byline.gateways.json_splice import top_level_members
from byline.gateways.keys import key_hash_from_headers
from byline.genai.attributes import AttributeValue, call_attributes
from byline.genai.call_results import results
from byline.genai.call_spans import mark_as_own
from byline.genai.pricing import estimate_cost, prices
from byline.genai.record_result import genai_util_attributes, record_result
from byline.genai.server_span import add_late_totals
from byline.genai.setup_check import InstrumentationCheck
from byline.genai.span_correlation import PendingSpan, await_llm_span, find_llm_span
from byline.genai.span_state import SpanState, request_of_call, state_of
from byline.http import fallback_span, gateway_exchange
from byline.http.call_config import CallConfig, configs
from byline.http.response_reader import ResponseBuffer, ResponseReader
from byline.secrets import scrub

#: One lock for all requests: it is held only to find out who ends a request first.
_end_lock: Final = fork_safe_lock()
_SUSPENDABLE: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE
#: Modules that work under locks which the end of a request takes too.
_WITH_LOCKS: Final = (
    "byline.export.",
    "byline.genai.",
    "byline.http.",
    "byline.internal_metrics",
    "byline.request_",
    "opentelemetry.sdk.",
)


def begin_llm_request(
    parser: ApiParser,
    host: str,
    port: int | None,
    path: str,
    headers: Callable[[], Mapping[str, str]],
    body: Callable[[], bytes | None],
    method: str = "POST",
    form: Callable[[], Mapping[str, str]] | None = None,
) -> LLMRequest | None:
    """Begin an LLM request to the API that `find_api` has found by method and path.

    ``None`` if the body is none of that API's, if a hooked client around this one sends the request, or if byline
    fails. ``form`` returns the text fields of a form that the client encodes while it sends.
    """
    config = configs.current()
    if config is None or fallback_span.is_in_flight(host, path):
        return None
    if method != "POST":
        return _begin_retrieval(config, parser, host, port, path, headers)
    deferred.run_deferred()
    try:
        content = body()
        result = CallResult(server_address=host, server_port=port)
        # Searched once, for a long prompt takes its time; the gateway needs the members as well.
        members = top_level_members(content) if content else None
        fields = members or {}
        if parser.takes_form and not fields:
            fields = form_members(find_form_fields(content) if content else {} if form is None else form())
        fits = parser.parse_request(
            content or b"",
            result,
            path=path,
            host=host,
            members=fields,
            capture=config.capture_content,
            media=config.media,
        )
        gateway = config.registry.find(host, port, path)
        if not fits and (gateway is None or parser.shares_path):
            # Other APIs have paths like "/messages" too.
            return None
        gateway_exchange.name_provider(gateway, result)
        return LLMRequest(config, parser, gateway, result, path, headers(), content, members)
    except Exception:
        errors.report_internal_error("call")
        return None


def _begin_retrieval(
    config: CallConfig,
    parser: ApiParser,
    host: str,
    port: int | None,
    path: str,
    headers: Callable[[], Mapping[str, str]],
) -> LLMRequest | None:
    try:
        result = CallResult(server_address=host, server_port=port)
        parser.parse_request(b"", result, path=path, host=host, members={}, capture=False)
        gateway = config.registry.find(host, port, path)
        return Retrieval(config, parser, gateway, result, path, headers(), None, {})
    except Exception:
        errors.report_internal_error("call")
        return None


class LLMRequest:
    """One HTTP exchange. However the exchange ends, `end`, `abandon` or `fail` is called; the first call counts.

    Attributes:
        headers: Headers to send besides the app's own.
        body: The body to send instead of the app's, ``None`` if the app's body stays.
        content: The app's own body.
        span: The LLM span of the call, ``None`` while there is none.
        context: The request context of the call, ``None`` outside a request.
        is_reading: Whether the client is reading the body. urllib3 closes a response before it raises an error.
    """

    def __init__(
        self,
        config: CallConfig,
        parser: ApiParser,
        gateway: Gateway | None,
        result: CallResult,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        members: Mapping[str, msgspec.Raw] | None,
    ) -> None:
        if config.on_first_call is not None:
            config.on_first_call()
        if not prices.is_loaded:
            # While the model works.
            prices.load_in_thread()
        self._config = config
        self._parser = parser
        self._is_open = True
        self.is_reading = False
        self.result = result
        self.content = body
        result.key_hash, result.key_is_guessable = key_hash_from_headers(headers)
        self._key_hash = result.key_hash
        self._is_fallback_span = False
        self._call = object()
        #: The attributes of the result, ``None`` before they are recorded.
        self._recorded: dict[str, AttributeValue] | None = None
        self._invocation = genai_util_attributes()
        context = request_of_call()
        self._request_key = 0 if context is None else context.key
        self.span = self._find_span()
        state = self._state
        if state is not None and state.request_key and state.request_key != self._request_key:
            # A thread without the request's context, or a span whose parent is of another request.
            context, self._request_key = state.request_context, state.request_key
        self.context = context
        self.headers, self.body = self._begin(gateway, path, headers, body, members)
        self._has_read_partial = False
        self._path = path
        self._reader = ResponseReader(
            config.registry, parser, gateway, result, capture=config.capture_content, media=config.media
        )

    def _begin(
        self,
        gateway: Gateway | None,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        members: Mapping[str, msgspec.Raw] | None,
    ) -> tuple[dict[str, str], bytes | None]:
        """Count the call, and return the headers to add and the body to send instead of the app's."""
        added = gateway_exchange.inject(gateway, path, headers, body, members, context=self.context, span=self.span)
        if self.context is None:
            InstrumentationCheck.report_call_without_request()
        else:
            # Counted now: a stream that is abandoned may end long after its request.
            self.context.totals.add()
        return added

    @property
    def buffer(self) -> ResponseBuffer:
        """The kept parts of the response body. Replaced when the response headers arrive."""
        return self._reader.buffer

    @property
    def _state(self) -> SpanState | None:
        return None if self.span is None else state_of(self.span)

    def _find_span(self) -> Span | None:
        llm_span = find_llm_span()
        state = None if llm_span is None else state_of(llm_span)
        if llm_span is not None and state is not None and state.takes_result and not state.is_claimed:
            state.claim(self)
            await_llm_span(None)
            return llm_span
        traced_by_utilities = self._invocation is not None and not self._config.records_unsampled()
        if not traced_by_utilities and fallback_span.wants_fallback_span(self._config, self._parser.name):
            made = fallback_span.start_fallback_span(self._config, self.result)
            if made is not None:
                self._is_fallback_span = True
                made_state = state_of(made)
                if made_state is not None:
                    made_state.claim(self)
                    mark_as_own(made_state, other_may_follow=fallback_span.langsmith_creates_spans())
            await_llm_span(None)
            return made
        later = fallback_span.instrumentation_creates_span_later(self._config, self._parser.name)
        await_llm_span(None if later is None else PendingSpan(*later, self._on_span_found, self._request_key))
        return None

    def restore_headers(self, headers: MutableMapping[str, Any]) -> None:
        """Remove the headers that byline added, unless somebody has changed them since."""
        for name, value in self.headers.items():
            if headers.get(name) == value:
                del headers[name]

    def _on_span_found(self, span: Span) -> None:
        """Take the span that an instrumentation made during the exchange, or after it."""
        self.span = span
        state = self._state
        if self._is_open:
            if state is not None:
                state.claim(self)
        else:
            self._record()

    def begin_sending(self) -> fallback_span.InFlight:
        """Make byline's own span current while the client sends, so that HTTP spans become its children."""
        parent = None
        if self._is_fallback_span:
            state = self._state
            parent = None if state is None or state.is_side_span else self.span
        return fallback_span.InFlight(self.result.server_address or "", self._path, parent)

    def on_response(self, status: int, headers: Mapping[str, str]) -> None:
        """Read the status and the headers of the response (names in lower case)."""
        try:
            self._reader.read_headers(status, headers)
        except Exception:
            errors.report_internal_error("reply headers")

    def on_chunk(self, chunk: bytes) -> bool:
        """Read a chunk of the body just before the app receives it.

        Returns:
            True if the following chunks need only be appended to ``buffer.tail``.
        """
        try:
            if not self._is_open:
                if chunk and self.buffer.saw_terminal_event:
                    internal_metrics.increment("replies.after_end")
                return False
            reader = self._reader
            only_tail = reader.buffer.append(chunk)
            if reader.buffer.saw_terminal_event:
                # Some SDKs and instrumentations do not read past this event.
                self.end()
            elif not self._has_read_partial and reader.is_stream and b"{" in chunk:
                # If the app closes a stream early, an instrumentation may end its span before this request ends.
                self._has_read_partial = True
                reader.read_partial()
                self._record()
            return only_tail
        except Exception:
            errors.report_internal_error("stream")
            return False

    def end_if_done(self) -> None:
        """End the request if the last chunk of ``buffer.tail`` is the last event of the stream."""
        try:
            if self._is_open and self.buffer.tail_is_done():
                self.end()
        except Exception:
            errors.report_internal_error("stream")

    def end(self, body: bytes | None = None) -> None:
        """End the request after its response; ``body`` if the client has read the body already."""
        self._end(body)

    def abandon(self) -> None:
        """End the request because the app closed or released the response, perhaps before the end of its body."""
        if self.is_reading or not self._is_open:
            return
        if _closes_at_collection():
            deferred.defer(functools.partial(self._end, cut="app"))
        else:
            self._end(cut="app")

    def fail(self, error: BaseException) -> None:
        """End the request because sending it or reading its response raised an error.

        If the error is no `Exception` (GeneratorExit, CancelledError), the app left the stream; that is no failure.
        """
        if self._is_open and isinstance(error, GeneratorExit) and _closes_at_collection():
            deferred.defer(functools.partial(self._fail, error))
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._reader.is_stream and not isinstance(error, Exception):
            self._end(cut="app" if isinstance(error, GeneratorExit) else "cancelled")
            return
        if self._is_open and self.result.error_type is None:
            self.result.error_type = type(error).__name__
        self._end(cut="network")

    def _end(self, body: bytes | None = None, *, cut: str | None = None) -> None:
        with _end_lock:
            if not self._is_open:
                return
            self._is_open = False
        try:
            self._reader.finish(body, cut=cut)
            self._record()
            self._count()
            if self._reader.awaits_prices and self._recorded is not None:
                prices.when_loaded(self._add_estimate)
        except Exception:
            errors.report_internal_error("call")
        finally:
            self._release()

    def _record(self) -> None:
        result, gateway = self.result, self._reader.gateway
        if result.error_message is not None:
            # Providers quote prompts and keys in their errors.
            result.error_message = scrub(result.error_message) if self._config.capture_content else None
        broadcasts = gateway is not None and gateway.broadcasts
        if gateway is not None and broadcasts:
            result = copy(result)
            gateway.leave_usage_to_gateway(result)
        self._recorded = record_result(
            result,
            span=self.span,
            context=self.context,
            request_key=self._request_key,
            invocation=self._invocation,
            is_fallback_span=self._is_fallback_span,
            call=self._call,
        )
        if broadcasts:
            # An instrumentation's span states tokens of its own, which the gateway's span states too.
            results.assign_to_gateway(self._state, self._request_key, result.response_id)
            # The cost is on the gateway's own span.
            self._recorded = {}

    def _count(self) -> None:
        result = self.result
        internal_metrics.increment("calls")
        self._add_to_totals()
        if result.response_id and is_retrieved(self._parser):
            note = self._config.count_response if _states_usage(result) else self._config.expect_response
            note(result.server_address or "", self._key_hash, result.response_id)

    def _add_to_totals(self) -> None:
        result = self.result
        if self.context is not None:
            self.context.totals.add(
                calls=0,
                input_tokens=result.input_tokens or 0,
                output_tokens=result.output_tokens or 0,
                cost=result.cost,
                error=result.error_type is not None,
            )

    def _add_estimate(self) -> None:
        """Add the cost of a response that came before the price list was loaded. Not on the app's threads."""
        result = self.result
        estimate_cost(result)
        if result.cost is None or self._recorded is None:
            return
        self._recorded.update(call_attributes(result))
        if self.context is not None:
            self.context.totals.add(calls=0, cost=result.cost)
            add_late_totals(self.context.root())

    def _release(self) -> None:
        self._reader.clear()
        if self.span is None:
            return
        try:
            state = self._state
            if self._is_fallback_span:
                fallback_span.end_fallback_span(self.span, self.result)
            elif state is None:
                return
            elif self.result.error_type is None:
                state.mark_answered()
            else:
                state.unclaim()
            if state is not None and not self._is_fallback_span and _ended_abnormally(self.result):
                self._config.watch(self.span, state)
        except Exception:
            errors.report_internal_error("call")


def _closes_at_collection() -> bool:
    """Return whether a generator is closed within code of byline or the SDK that may hold a lock.

    Apps close the bodies of responses from code of their own, of their client or of their server. The garbage collector
    closes the generators that read them anywhere, also while this thread holds a lock that the end of a request needs.
    """
    frame: FrameType | None = sys._getframe(1)
    is_generator = False
    while frame is not None:
        above_generator, is_generator = is_generator, bool(frame.f_code.co_flags & _SUSPENDABLE)
        is_caller = above_generator and not is_generator
        if is_caller and str(frame.f_globals.get("__name__")).startswith(_WITH_LOCKS):
            return True
        frame = frame.f_back
    return False


def _ended_abnormally(result: CallResult) -> bool:
    return result.error_type is not None or result.stream_cut is not None


def _states_usage(result: CallResult) -> bool:
    return result.input_tokens is not None or result.compute_seconds is not None


class Retrieval(LLMRequest):
    """A request for a response that was created before. It is no call of a model, and has no ids added.

    Only the final reply of a response that was created in the background states what the model has used. That is
    recorded once, however often the app asks: on the span of an instrumentation if there is one, else on a span that
    byline makes then.
    """

    def _find_span(self) -> Span | None:
        span = find_llm_span()
        state = None if span is None else state_of(span)
        if span is None or state is None or state.is_claimed:
            return None
        state.claim(self)
        return span

    def _begin(self, *_: Any) -> tuple[dict[str, str], bytes | None]:
        return {}, None

    def _record(self) -> None:
        result = self.result
        if self._is_open or not _states_usage(result) or not result.response_id:
            return
        if not self._config.count_response(
            result.server_address or "",
            self._key_hash,
            result.response_id,
            only_expected=self._parser.is_asked_for_later,
        ):
            return
        if self.span is None and fallback_span.wants_fallback_span(self._config, self._parser.name):
            self.span = fallback_span.start_fallback_span(self._config, result)
            self._is_fallback_span = self.span is not None
            state = self._state
            if state is not None:
                mark_as_own(state)
        super()._record()
        self._add_to_totals()

    def _count(self) -> None:
        """Count no call."""
