"""A call: one HTTP exchange with a model provider or a gateway, and its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import copy
from typing import Any, Final

import msgspec
from opentelemetry.sdk.trace import Span

from byline import deferred, errors, internal_metrics, request_context
from byline.apis import ApiParser, find_parser
from byline.call_result import CallResult
from byline.fork import fork_safe_lock
from byline.gateways.base import Gateway
from byline.gateways.json_splice import top_level_members
from byline.gateways.keys import key_hash_from_headers
from byline.genai import classify, span_correlation, unsampled, usage_ownership
from byline.http import call_config, fallback_span, gateway_exchange, in_flight, record_result
from byline.http.call_config import CallConfig
from byline.http.response_reader import ResponseBuffer, ResponseReader

#: One lock for all calls: it is held to see who ends one, and no longer.
_end_lock: Final = fork_safe_lock()


def begin_llm_request(
    host: str, port: int | None, path: str, headers: Callable[[], dict[str, str]], body: Callable[[], bytes | None]
) -> LLMRequest | None:
    """Begin a call if this request is one; ``None`` for every other request, and where anything fails.

    Headers (names in lower case) and body are asked for only once the place says that it is one.
    """
    in_force = call_config.current
    if in_force is None:
        return None
    parser = find_parser(path)
    if parser is None:
        return None
    if in_flight.is_in_flight(host, path):
        return None
    deferred.run_deferred()
    try:
        content = body()
        facts = CallResult(server_address=host, server_port=port)
        # Looked for once: a long prompt takes its time, and the gateway must know them too.
        members = top_level_members(content) if content else None
        fits = parser.parse_request(
            content or b"", facts, path=path, host=host, members=members or {}, capture=in_force.capture_content
        )
        gateway = in_force.known.find(host, port, path)
        if not fits and (gateway is None or parser.shares_path):
            # Many APIs have an end point that is called "messages".
            return None
        return LLMRequest(in_force, parser, gateway, facts, path, headers(), content, members)
    except Exception:
        errors.report_internal_error("call")
        return None


class LLMRequest:
    """One exchange. Every way in which it may end calls `end` or `fail`; the first one counts.

    Attributes:
        headers: Headers to be sent besides the app's own.
        body: The body to be sent in the place of the app's, ``None`` where it stays.
        content: The app's own body.
        span: The LLM span of this call.
    """

    def __init__(
        self,
        in_force: CallConfig,
        parser: ApiParser,
        gateway: Gateway | None,
        facts: CallResult,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        members: Mapping[str, msgspec.Raw] | None,
    ) -> None:
        self._rules = in_force
        self._parser = parser
        self._open = True
        self.facts = facts
        self.content = body
        self.facts.key_hash = key_hash_from_headers(headers)
        self._own = False
        self._invocation = record_result.genai_util_attributes()
        self.span = self._find_span()
        self.record = request_context.current_context() or (
            None if self.span is None else span_correlation.request_of_span(self.span)
        )
        self.headers, self.body = gateway_exchange.inject(
            gateway, path, headers, body, members, owner=self.record, span=self.span
        )
        if self.record is not None:
            # Now, for a stream that is dropped ends when the request may be long over.
            self.record.totals.add()
        self._has_read_partial = False
        self._path = path
        self._reader = ResponseReader(in_force.known, parser, gateway, facts, capture=in_force.capture_content)

    @property
    def buffer(self) -> ResponseBuffer:
        """The kept parts of the response body. Replaced when the response headers arrive."""
        return self._reader.buffer

    def _find_span(self) -> Span | None:
        found = span_correlation.find_llm_span()
        if (
            found is not None
            and classify.is_model_call(found.name, found.attributes or {})
            and not span_correlation.is_claimed(found)
        ):
            span_correlation.claim_span(found, self)
            span_correlation.await_llm_span(None, self._found)
            return found
        traced = self._invocation is not None and not unsampled.parent_is_unsampled()
        if not traced and fallback_span.wants_fallback_span(self._rules.llm_spans, self._parser.name):
            made = fallback_span.start_fallback_span(self._rules.tracer, self.facts)
            if made is not None:
                self._own = True
                span_correlation.claim_span(made, self)
            span_correlation.await_llm_span(None, self._found)
            return made
        span_correlation.await_llm_span(
            fallback_span.instrumentation_creates_span_later(self._parser.name), self._found
        )
        return None

    def restore_headers(self, headers: MutableMapping[str, Any]) -> None:
        """Take off what was written besides the app's own headers, where it still stands as it was written."""
        for name, value in self.headers.items():
            if headers.get(name) == value:
                del headers[name]

    def _found(self, span: Span) -> None:
        """Take the span that was made while the exchange was under way, or after it."""
        self.span = span
        if self._open:
            span_correlation.claim_span(span, self)
        else:
            self._put()

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make a span of ours current while the client is at work, so that its HTTP span hangs below.

        What goes wrong meanwhile ends the call.
        """
        below = self.span if self._own and self.span is not None and not unsampled.is_side_span(self.span) else None
        try:
            with in_flight.in_flight(self.facts.server_address or "", self._path, below):
                yield
        except BaseException as error:
            self.fail(error)
            raise

    def on_response(self, status: int, headers: Mapping[str, str]) -> None:
        """Read the status and the headers of the response."""
        try:
            self._reader.read_headers(status, headers)
        except Exception:
            errors.report_internal_error("reply headers")

    def on_chunk(self, chunk: bytes) -> bool:
        """Read a chunk of the body before the app does.

        Returns:
            True if the following chunks need only be appended to ``buffer.tail``.
        """
        try:
            reader = self._reader
            only_tail = reader.buffer.append(chunk)
            # Some SDKs end their span at the terminal event, before the body ends. If the app closes a stream
            # early, an instrumentation may end its span before this request ends.
            if reader.buffer.saw_terminal_event or (not self._has_read_partial and reader.is_stream and b"{" in chunk):
                self._has_read_partial = True
                reader.read_partial()
                self._put()
            return only_tail
        except Exception:
            errors.report_internal_error("stream")
            return False

    def end(self, body: bytes | None = None) -> None:
        """End the call; ``body`` where the client has read the whole of it already."""
        with _end_lock:
            if not self._open:
                return
            self._open = False
        try:
            self._reader.finish(body)
            self._put()
            self._count()
        except Exception:
            errors.report_internal_error("call")
        finally:
            self._let_go()

    def fail(self, error: BaseException) -> None:
        """End the call with what went wrong on the way."""
        if self.facts.error_type is None:
            self.facts.error_type = type(error).__name__
        self.end()

    def _put(self) -> None:
        shown, gateway = self.facts, self._reader.gateway
        if gateway is None or not gateway.broadcasts:
            record_result.record_result(shown, self.span, self.record, self._invocation, own=self._own)
            return
        shown = copy(shown)
        gateway.leave_usage_to_gateway(shown)
        record_result.record_result(shown, self.span, self.record, self._invocation, own=self._own)
        # An instrumentation writes tokens of its own.
        usage_ownership.assign_to_gateway(self.span, shown.response_id)

    def _count(self) -> None:
        facts = self.facts
        internal_metrics.increment("calls")
        if self.record is not None:
            self.record.totals.add(
                calls=0,
                input_tokens=facts.input_tokens or 0,
                output_tokens=facts.output_tokens or 0,
                cost=facts.cost,
                error=facts.error_type is not None,
            )

    def _let_go(self) -> None:
        self.buffer.clear()
        if self.span is None:
            return
        try:
            if self._own:
                fallback_span.end_fallback_span(self.span, self.facts)
            elif self.facts.error_type is None:
                span_correlation.mark_answered(self.span)
            else:
                span_correlation.unclaim_span(self.span)
        except Exception:
            errors.report_internal_error("call")
