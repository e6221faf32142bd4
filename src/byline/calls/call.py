"""A call: one HTTP exchange with a model provider or a gateway, and its facts."""

from __future__ import annotations

import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import Tracer

from byline import counters, guard, record
from byline.attribution import EMPTY
from byline.calls import own
from byline.calls.limits import read_limits
from byline.calls.own import LLMSpans
from byline.calls.prices import estimate
from byline.calls.wire import Wire, read_error, recognise
from byline.facts import Facts
from byline.gateways.gateway import Gateway, Outgoing, Reply
from byline.gateways.keys import key_of
from byline.gateways.known import Known
from byline.spans import late, recognition, targets
from byline.spans.attributes import of_facts
from byline.spans.processor import refresh

_HEAD: Final = 16 * 1024
_TAIL_CHUNKS: Final = 64
_MAX_WHOLE: Final = 8 * 1024 * 1024


class Rules:
    """What `byline.instrument` said of calls."""

    def __init__(self, tracer: Tracer, gateways: Sequence[Gateway], llm_spans: LLMSpans, capture_content: bool) -> None:
        self.tracer = tracer
        self.known = Known(gateways)
        self.llm_spans: LLMSpans = llm_spans
        self.capture_content = capture_content


#: The rules in force, ``None`` while byline is not instrumented.
rules: Rules | None = None


def set_rules(new: Rules | None) -> None:
    """Put rules in force, or none."""
    global rules
    rules = new


def begin(
    host: str, port: int | None, path: str, headers: Callable[[], dict[str, str]], body: Callable[[], bytes | None]
) -> Call | None:
    """Begin a call if this request is one; ``None`` for every other request, and where anything fails.

    Headers (names in lower case) and body are asked for only once the place says that it is one.
    """
    in_force = rules
    if in_force is None:
        return None
    wire = recognise(path)
    if wire is None:
        return None
    try:
        return Call(in_force, wire, host, port, path, headers(), body())
    except Exception:
        guard.report("call")
        return None


class Call:
    """One exchange. Every way in which it may end calls `end` or `fail`; the first one counts.

    Attributes:
        headers: Headers to be sent besides the app's own.
        body: The body to be sent in the place of the app's, ``None`` where it stays.
        length: How long the app's own body is.
        span: The LLM span of this call.
    """

    def __init__(
        self,
        in_force: Rules,
        wire: Wire,
        host: str,
        port: int | None,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> None:
        self._rules = in_force
        self._wire = wire
        self._lock = threading.Lock()
        self._open = True
        self._gateway = in_force.known.find(host, port, path)
        self.facts = Facts(server_address=host, server_port=port)
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        self.length = len(body or b"")
        wire.read_request(body or b"", self.facts, path=path, host=host)
        self.facts.key_hash = key_of(headers)
        self._own = False
        self.span = self._find_span()
        self.record = record.get() or (None if self.span is None else targets.owner_of(self.span))
        if self._gateway is not None:
            self._write(self._gateway, path, headers, body)
        self._reply_headers: Mapping[str, str] = {}
        self._read_from: Gateway | None = self._gateway
        self._stream: bool = False
        self._head: list[bytes] = []
        self._head_size = 0
        self._tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        self._whole_size = 0
        self._decompress: Any = None
        self._unreadable = False
        self._started = time.perf_counter()

    def _find_span(self) -> Span | None:
        found = targets.find()
        if found is not None and recognition.is_leaf(found.name, found.attributes or {}):
            return found
        if own.is_wanted(self._rules.llm_spans, self._wire.name):
            made = own.start(self._rules.tracer, self.facts)
            self._own = made is not None
            return made
        return None

    def _write(self, gateway: Gateway, path: str, headers: Mapping[str, str], body: bytes | None) -> None:
        mine = dict(headers)
        context = None if self.span is None else self.span.get_span_context()
        outgoing = Outgoing(
            attribution=EMPTY if self.record is None else self.record.attribution(),
            headers=mine,
            body=body,
            path=path,
            trace_id=None if context is None else f"{context.trace_id:032x}",
            span_id=None if context is None else f"{context.span_id:016x}",
            sampled=context is not None and context.trace_flags.sampled,
        )
        try:
            gateway.write(outgoing)
        except Exception:
            guard.report(f"gateway {gateway.name}")
            return
        self.headers = {name: value for name, value in mine.items() if headers.get(name) != value}
        if outgoing.body is not body:
            self.body = outgoing.body

    def current(self) -> AbstractContextManager[Any]:
        """Make a span of ours current while the client is at work, so that its HTTP span hangs below."""
        if not self._own or self.span is None:
            return nullcontext()
        return trace.use_span(self.span, record_exception=False, set_status_on_exception=False)

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Take note of the reply's status and headers (names in lower case)."""
        try:
            self.facts.status_code = status
            self._reply_headers = headers
            if self._read_from is None:
                self._read_from = self._rules.known.answered(headers)
            kind = headers.get("content-type", "")
            self._stream = "event-stream" in kind or "ndjson" in kind or (self.facts.streamed and status < 400)
            self.facts.streamed = self._stream
            encoding = headers.get("content-encoding", "identity").lower()
            if encoding in ("gzip", "deflate"):
                self._decompress = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
            elif encoding != "identity":
                self._unreadable = True
            read_limits(headers, self.facts, time.time())
        except Exception:
            guard.report("reply headers")

    def is_decoded(self) -> None:
        """Say that the client hands out chunks whose Content-Encoding is undone."""
        self._decompress = None
        self._unreadable = False

    def see(self, chunk: bytes) -> None:
        """See a chunk of the body just before the app does."""
        try:
            self._see(chunk)
        except Exception:
            guard.report("stream")

    def _see(self, chunk: bytes) -> None:
        if self.facts.time_to_first_chunk is None:
            self.facts.time_to_first_chunk = time.perf_counter() - self._started
        if self._unreadable or not chunk:
            return
        if self._decompress is not None:
            try:
                chunk = self._decompress.decompress(chunk)
            except zlib.error:
                self._unreadable = True
                return
        if not self._stream:
            self._whole_size += len(chunk)
            if self._whole_size <= _MAX_WHOLE:
                self._head.append(chunk)
            else:
                self._head.clear()
            return
        if self._head_size < _HEAD:
            self._head_size += len(chunk)
            self._head.append(chunk)
        else:
            self._tail.append(chunk)
        mark = self._wire.end_mark
        # Some SDKs end their span at the terminal event, before the body is at its end.
        if mark and mark in chunk:
            self._settle_stream()

    def end(self, body: bytes | None = None) -> None:
        """End the call; ``body`` where the client has read the whole of it already."""
        with self._lock:
            if not self._open:
                return
            self._open = False
        try:
            self.facts.duration = time.perf_counter() - self._started
            status = self.facts.status_code or 0
            if self._stream and body is None:
                self._read_stream()
            elif body is not None or self._whole_size <= _MAX_WHOLE:
                self._read_whole(b"".join(self._head) if body is None else body, status)
            self._put()
            self._count()
        except Exception:
            guard.report("call")
        finally:
            self._let_go()

    def fail(self, error: BaseException) -> None:
        """End the call with what went wrong on the way."""
        if self.facts.error_type is None:
            self.facts.error_type = type(error).__name__
        self.end()

    def _read_whole(self, body: bytes, status: int) -> None:
        if status >= 400:
            read_error(status, body, self.facts)
        decoded = self._wire.read_reply(body, self.facts) if body else None
        self._read_gateway(decoded)

    def _read_stream(self) -> None:
        whole = self._head_size < _HEAD or not self._tail
        head, tail = b"".join(self._head), b"".join(self._tail)
        if whole:
            head, tail = b"", head + tail
        # The reasons of a stream that is read again would stand there twice.
        self.facts.finish_reasons = ()
        self._read_gateway(self._wire.read_stream(head, tail, self.facts) if tail else None)

    def _read_gateway(self, decoded: Mapping[str, Any] | None) -> None:
        gateway = self._read_from
        if gateway is not None:
            if not gateway.is_provider:
                self.facts.gateway = gateway.name
            self.facts.key_alias = gateway.alias_of(self.facts.key_hash)
            reply = Reply(
                status=self.facts.status_code or 0,
                headers=self._reply_headers,
                body=decoded,
                streamed=self._stream,
            )
            try:
                gateway.read(reply, self.facts)
            except Exception:
                guard.report(f"gateway {gateway.name}")
        estimate(self.facts)

    def _settle_stream(self) -> None:
        try:
            self._read_stream()
            self._put()
        except Exception:
            guard.report("stream")

    def _put(self) -> None:
        """Put the facts onto the LLM span, or keep them for one that comes late."""
        shown = self.facts
        if self._read_from is not None and self._read_from.broadcasts:
            shown = copy(shown)
            self._read_from.settle(shown)
        attributes = of_facts(shown)
        span = self.span
        if span is not None and span.is_recording():
            span.set_attributes(attributes)
            if self.record is not None:
                refresh(span, self.record)
                name = self.record.attribution().generation_name
                if name is not None and span.name != name:
                    span.update_name(name)
        elif self.facts.response_id is not None and not self._own:
            late.keep(self.facts.response_id, attributes)

    def _count(self) -> None:
        facts = self.facts
        counters.count("calls")
        if self.record is not None:
            self.record.totals.add(
                input_tokens=facts.input_tokens or 0,
                output_tokens=facts.output_tokens or 0,
                cost=facts.cost,
                error=facts.error_type is not None,
            )

    def _let_go(self) -> None:
        self._head.clear()
        self._tail.clear()
        if self._own and self.span is not None:
            try:
                own.end(self.span, self.facts)
            except Exception:
                guard.report("call")
