"""The readers of foreign bytes, each with what has to hold for any input.

A target gets bytes of hypothesis, and raises if the reader raises or breaks its promise. Under pytest byline's hooks
raise their internal errors, so that a target also fails if a hook would have hidden one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext, TraceFlags

from byline import carrier
from byline.apis import PARSERS
from byline.attribution import (
    MAX_ID,
    MAX_METADATA,
    MAX_METADATA_KEY,
    MAX_METADATA_VALUE,
    MAX_TAGS,
    SCALARS,
    Attribution,
    is_printable,
    is_visible,
)
from byline.call_result import CallResult
from byline.export.delivery.batch import decode_spans, read_batch, split_batch
from byline.export.delivery.http_client import HttpResponse
from byline.export.langfuse_mapping.observation import map_span
from byline.export.redaction.minimize import Minimization, truncate_address
from byline.export.redaction.redactor import Redactor
from byline.export.span_copy import SpanCopy
from byline.gateways import ALL, Gateway, GatewayRegistry, GatewayRequest
from byline.gateways.json_splice import insert_into_member, insert_members, top_level_members
from byline.genai.attributes import call_attributes
from byline.http.response_reader import ResponseReader
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.inbound.request import AsgiRequest, WsgiRequest
from byline.request_context import RequestContext
from byline.secrets import scrub
from byline.urls import split_url, without_credentials

_READERS: Final = (
    ClaimReader(),
    ClaimReader(public=True, identity=lambda _: {"user_id": "ada"}, trust={"session", "labels", "metadata", "trace"}),
    ClaimReader(
        fields={
            "session_id": ["body:a.b", "query:s", "cookie:s", "path:/*/{id}"],
            "user_id": "header:X-Account",
            "tags": "header:x-tags",
            "metadata": "query:m",
        }
    ),
)
_HEADER_NAMES: Final = (
    b"x-session-id", b"trace", b"baggage", b"cookie", b"x-byline", b"x-account", b"x-tags", b"langfuse-tags",
    b"langfuse-metadata", b"x-portkey-metadata", b"cf-aig-metadata", b"langfuse_trace_metadata", b"traceparent",
    b"x-litellm-tags",
)  # fmt: skip
_SIGNING: Final = carrier.Signing((b"0123456789abcdef",), "fuzz")
_GATEWAYS: Final = tuple(kind("http://gateway.example") for kind in ALL)
_SPAN: Final = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))


def check_attribution(attribution: Attribution) -> None:
    """Fail if a value is outside the documented limits."""
    for field in SCALARS:
        value = getattr(attribution, field)
        if value is not None:
            assert type(value) is str
            assert 0 < len(value) <= MAX_ID
            assert is_visible(value) if field.endswith("_id") else is_printable(value)
    assert len(attribution.tags) <= MAX_TAGS
    assert all(0 < len(tag) <= MAX_ID and is_printable(tag) for tag in attribution.tags)
    assert len(attribution.metadata) <= MAX_METADATA
    for key, value in attribution.metadata.items():
        assert 0 < len(key) <= MAX_METADATA_KEY
        assert is_visible(key)
        assert type(value) in (str, int, float, bool)
        assert type(value) is not str or (len(value) <= MAX_METADATA_VALUE and is_visible(value))


def body_claims(data: bytes) -> None:
    """Read a JSON body of a caller, in one pass and with care, at once and in pieces."""
    for reader in _READERS:
        for pieces in ([data], [data[:7], data[7:]]):
            scope = {
                "type": "http", "method": "POST", "path": "/a/b", "query_string": b"",
                "headers": [(b"content-type", b"application/json")],
            }  # fmt: skip
            context = RequestContext(reader, scope)
            context.body = BodyBuffer(1 << 20, len(data))
            for piece in pieces:
                context.body.append(piece, last=piece is pieces[-1])
            check_attribution(context.attribution())
            assert len(context.rejected) <= 50


def header_claims(data: bytes) -> None:
    """Read headers, query, cookies and path of a caller, from ASGI and from WSGI."""
    name = _HEADER_NAMES[data[0] % len(_HEADER_NAMES)] if data else b"trace"
    value = data[1:].replace(b"\r", b"").replace(b"\n", b"")
    headers = [(name, value), (name, value[::-1])] if len(data) % 2 else [(name, value)]
    text = value.decode("latin-1")
    scope = {
        "type": "websocket", "path": "/" + text, "query_string": value, "headers": headers,
        "client": (text, 1),
    }  # fmt: skip
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/" + text, "QUERY_STRING": text, "REMOTE_ADDR": text,
        "HTTP_" + name.decode().upper().replace("-", "_"): text, "wsgi.input": io.BytesIO(),
    }  # fmt: skip
    for reader in _READERS:
        for request, raw in ((AsgiRequest(scope), dict(scope)), (WsgiRequest(environ), dict(environ))):
            claims = reader.read(request, raw, None)
            check_attribution(claims.attribution)
            assert len(claims.rejected) <= 50


def carried_attribution(data: bytes) -> None:
    """Decode the header of an own service: nothing unsigned is ever verified."""
    text = data.decode("latin-1")
    for value in (text, f"1.{text}", f"1.e30.{text}"):
        carried = carrier.decode(value, _SIGNING, 300.0)
        assert not carried.verified


def request_bodies(data: bytes) -> None:
    """Add ids to the body of a call: what was valid JSON stays so, and no member of the app's is lost."""
    try:
        before = json.loads(data)
    except (ValueError, RecursionError):
        before = None
    top_level_members(data)
    for changed in (insert_members(data, {"user": "ada"}), insert_into_member(data, "trace", {"k": "v"})):
        check_body(before, data, changed)
    attribution = Attribution(session_id="s", user_id="ada", tags=("t",), metadata={"k": "v"})
    for gateway in _GATEWAYS:
        request = GatewayRequest(
            attribution=attribution, headers={}, body=data, path="/v1/chat/completions", trace_id="1" * 32,
            span_id="2" * 16, sampled=True,
        )  # fmt: skip
        gateway.inject(request)
        check_body(before, data, request.body or b"")
        for name, value in request.headers.items():
            assert (name + value).isascii()
            assert (name + value).isprintable()


def check_body(before: Any, data: bytes, changed: bytes) -> None:
    """Fail if a changed body is no JSON, or lacks a member."""
    if changed == data or before is None:
        # Not every byte of a body is looked at: what was no JSON may stay so.
        return
    after = json.loads(changed)
    assert isinstance(before, dict)
    assert before.keys() <= after.keys()


def responses(data: bytes) -> None:
    """Read a response of a provider or gateway, whole and as a stream, with and without content."""
    registry = GatewayRegistry()
    kinds = (("application/json", ""), ("text/event-stream", ""), ("text/event-stream", "gzip"))
    for parser in {id(parser): parser for parser in PARSERS.values()}.values():
        for content_type, encoding in kinds:
            for status in (200, 400):
                result = CallResult()
                parser.parse_request(data, result, path="/v1/chat/completions", host="h", capture=True)
                headers = {"content-type": content_type, "content-encoding": encoding, "x-litellm-call-id": "1"}
                reader = ResponseReader(registry, parser, None, result, capture=True)
                reader.read_headers(status, headers)
                for piece in (data[:9], data[9:]):
                    reader.buffer.append(piece)
                reader.finish()
                check_result(result)


def check_result(result: CallResult) -> None:
    """Fail if a value could not stand on a span."""
    for value in call_attributes(result).values():
        assert isinstance(value, str | bool | int | float | tuple)
        assert not isinstance(value, int) or isinstance(value, bool) or abs(value) < 1 << 63


def gateway_headers(data: bytes) -> None:
    """Read the response headers and the body of each gateway."""
    text = data.decode("latin-1")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    for gateway in _GATEWAYS:
        result = CallResult()
        headers = _AnyHeader(text)
        gateway.matches_response(headers)
        extract(gateway, headers, body, result)
        check_result(result)


class _AnyHeader(dict[str, str]):
    """Headers that have one value under every name."""

    def __init__(self, value: str) -> None:
        super().__init__({"x-ratelimit-remaining-requests": value, "x-litellm-key-remaining-requests-gpt": value})
        self._value = value

    def get(self, key: str, default: Any = None) -> Any:
        return self._value

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return self._value


def extract(gateway: Gateway, headers: Mapping[str, str], body: Any, result: CallResult) -> None:
    """Read a response, whole and streamed."""
    from byline.gateways import GatewayResponse

    for streamed in (False, True):
        response = GatewayResponse(
            status=200, headers=headers, body=body if isinstance(body, dict) else None, streamed=streamed
        )
        gateway.extract(response, result)


def exported_spans(data: bytes) -> None:
    """Redact, minimize and map a span with this text under names of all kinds."""
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    names = (
        "gen_ai.input.messages", "gen_ai.output.messages", "langfuse.observation.input", "input.value",
        "gen_ai.request.stop_sequences", "url.full", "http.target", "client.address", "user.id", "session.id",
        "byline.caller.address", "error.message", "gen_ai.tool.definitions", "llm.invocation_parameters", text[:40],
    )  # fmt: skip
    for redactor in (Redactor(private=True), Redactor(private=False, mask=lambda _, value: value)):
        span = SpanCopy(
            text[:50] or "chat", _SPAN, parent=None, attributes=dict.fromkeys(names, text), start_time=1, end_time=2,
            resource=Resource({}), scope=None, state=None, attribution=Attribution(user_id="ada", session_id="s"),
        )  # fmt: skip
        Minimization("truncated", user_agent=False, url_paths=False, key=b"k").apply(span)
        redactor.redact(span)
        map_span(span)
        span.to_readable_span()
        str(span.attributes).encode()


def texts(data: bytes) -> None:
    """Scrub a text, and read URLs and addresses."""
    text = data.decode("latin-1")
    scrub(text)
    truncate_address(text)
    for url in (text, f"http://{text}", f"https://{text}/v1"):
        parts = split_url(url)
        without_credentials(url)
        if parts is not None:
            assert parts.hostname
            assert "\\" not in parts.netloc


def spool_files(data: bytes) -> None:
    """Read a file of a spool that somebody else may have written."""
    batch = read_batch(data)
    if batch is not None:
        split_batch(batch)
        decode_spans(batch)


def backend_responses(data: bytes) -> None:
    """Read the response of a backend."""
    text = data.decode("latin-1")
    for content_type in ("application/x-protobuf", "text/html", text):
        response = HttpResponse(200, text, {"content-type": content_type, "retry-after": text}, data)
        assert response.rejected_spans >= 0
        wait = response.retry_after
        assert wait is None or 0 <= wait <= 3600
        assert isinstance(response.summary, str)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        body_claims,
        header_claims,
        carried_attribution,
        request_bodies,
        responses,
        gateway_headers,
        exported_spans,
        texts,
        spool_files,
        backend_responses,
    )
}
