"""The readers of foreign bytes, each with what has to hold for any input.

A target gets bytes of hypothesis, and raises if the reader raises or breaks its promise. Under pytest byline's hooks
raise their internal errors, so that a target also fails if a hook would have hidden one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from unittest import mock

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, TraceFlags

import byline
from byline import carrier, mcp_servers
from byline.apis import PARSERS
from byline.asgi import AttributionMiddleware
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
from byline.export import openinference
from byline.export.delivery.batch import decode_spans, read_batch, split_batch
from byline.export.delivery.http_client import HttpClient, HttpResponse
from byline.export.delivery.messages import ProxyError
from byline.export.delivery.transport import find_proxy
from byline.export.langfuse_mapping.observation import map_span
from byline.export.redaction.minimize import Minimization, truncate_address
from byline.export.redaction.redactor import Redactor
from byline.export.span_copy import SpanCopy
from byline.gateways import ALL, Gateway, GatewayRegistry, GatewayRequest
from byline.gateways.json_splice import insert_into_member, insert_members, top_level_members
from byline.genai.attributes import call_attributes
from byline.http.propagation import OwnServices
from byline.http.response_reader import ResponseReader
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.inbound.request import AsgiRequest, WsgiRequest
from byline.logging import AttributionFilter
from byline.media import MediaBudget
from byline.request_context import RequestContext
from byline.secrets import scrub
from byline.setting_table import SETTINGS
from byline.settings import ConfigFile, SettingError
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


_SEPARATOR: Final = b"\r\n"
_HEADER_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_PROVIDER: Final = TracerProvider()


def whole_requests(data: bytes) -> None:
    """Send a request with these headers and this body through the middleware, trusting and public."""
    head, _, body = data.partition(_SEPARATOR * 2)
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    for line in head.split(_SEPARATOR)[:50]:
        name, colon, value = line.partition(b":")
        headers.append((name, value) if colon else (_HEADER_NAMES[len(line) % len(_HEADER_NAMES)], line))
    scope: dict[str, Any] = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": "/chat", "raw_path": b"/chat",
        "query_string": b"", "scheme": "http", "server": ("h", 80), "client": ("203.0.113.7", 1), "headers": headers,
    }  # fmt: skip
    for app in _APPS:
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in (body[:9], body[9:])]
        messages.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[Any] = []
        asyncio.run(app(dict(scope), _receiver(messages), _sender(sent)))
        for name, value in sent[0]["headers"]:
            assert re.fullmatch(rb"[a-z-]+", name)
            assert _HEADER_VALUE.fullmatch(value)


def _receiver(messages: list[dict[str, Any]]) -> Any:
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting)

    return receive


def _sender(sent: list[Any]) -> Any:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


async def _call_model(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["more_body"]:
        pass
    check_attribution(byline.current())
    record = logging.makeLogRecord({"msg": ""})
    AttributionFilter().filter(record)
    assert "\n" not in f"{record.session_id}{record.user_id}{record.trace_id}"  # type: ignore[attr-defined]
    tracer = _PROVIDER.get_tracer("fuzz")
    with tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _ada(_: Any) -> dict[str, str]:
    return {"user_id": "ada"}


_APPS: Final = (
    AttributionMiddleware(_call_model, respond={"session", "trace"}),
    AttributionMiddleware(_call_model, public=True, identity=_ada, respond={"session", "trace"}),
    AttributionMiddleware(_call_model, trust={"session"}, respond={"session"}),
)


def messages_of_queues(data: bytes) -> None:
    """Run a job of a message that somebody else may have written, and a message of an MCP client."""
    text = data.decode("latin-1")
    try:
        decoded = json.loads(data)
    except (ValueError, RecursionError):
        decoded = None
    carriers: list[Any] = [
        {"x-byline": data, "traceparent": text, "tracestate": text},
        [("X-Byline", data), (data, "traceparent"), ("traceparent", None)],
        decoded if isinstance(decoded, dict) else {},
    ]
    for headers in carriers:
        for key in ("", "0123456789abcdef"):
            with mock.patch.dict(os.environ, {"BYLINE_SIGNING_KEY": key}):
                check_attribution(byline.extract(headers))
                with byline.carried(headers):
                    check_attribution(byline.current())
                if key:
                    assert not byline.extract(headers)
                if isinstance(headers, dict):
                    meta = {**headers, "baggage": text}
                    with mcp_servers._context_of(None, functools.partial(dict, meta)):
                        check_attribution(byline.current())


_CONFIG: Final = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)) / "byline.toml"


def configuration(data: bytes) -> None:
    """Read a configuration file, and a variable of each setting: nothing but a `SettingError` that shows no value."""
    _CONFIG.write_bytes(data)
    with mock.patch.dict(os.environ, {"BYLINE_CONFIG": str(_CONFIG)}):
        file = ConfigFile()
        with contextlib.suppress(SettingError):
            file.load()
        for name, text in file.values().items():
            assert isinstance(name, str)
            assert isinstance(text, str)
    text = data.decode("latin-1").replace("\0", "")
    for setting in SETTINGS:
        try:
            setting.parse(text)
        except ValueError as error:
            assert len(text) < 8 or text not in str(error)  # noqa: PT017
    with contextlib.suppress(SettingError):
        OwnServices([text]).include(text, 80)


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


_PARSERS: Final = tuple({id(parser): parser for parser in PARSERS.values()}.values())
_KINDS: Final = (("application/json", ""), ("text/event-stream", ""), ("text/event-stream", "gzip"))


def responses(data: bytes) -> None:
    """Read a response of a provider or gateway, whole and as a stream, with content. The first bytes choose the API."""
    choice, cut, data = sum(data[:2]), sum(data[2:3]), data[3:]
    for parser in {_PARSERS[choice % len(_PARSERS)], PARSERS["/chat/completions"], PARSERS["/responses"]}:
        content_type, encoding = _KINDS[choice // 8 % 3]
        result = CallResult()
        parser.parse_request(data, result, path="/v1/chat/completions", host="h", capture=True)
        headers = {"content-type": content_type, "content-encoding": encoding, "x-litellm-call-id": "1"}
        reader = ResponseReader(_REGISTRY, parser, None, result, capture=True, media=_MEDIA)
        reader.read_headers(400 if choice % 7 == 0 else 200, headers)
        for piece in (data[:9], data[9 : cut + 9], data[cut + 9 :]):
            reader.buffer.append(piece)
        if cut % 2:
            reader.read_partial()
        reader.finish()
        check_result(result)


_REGISTRY: Final = GatewayRegistry()
_MEDIA: Final = MediaBudget()


def check_result(result: CallResult) -> None:
    """Fail if a value could not stand on a span."""
    for name, value in call_attributes(result).items():
        assert isinstance(value, str | bool | int | float | tuple)
        assert len(str(value)) <= (300_000 if name in _CONTENT else 4000)
        assert not isinstance(value, int) or isinstance(value, bool) or abs(value) < 1 << 63


_CONTENT: Final = (
    "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions",
)  # fmt: skip


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
        "gen_ai.operation.name", "gen_ai.request.stop_sequences", "url.full", "http.target",
        "client.address", "user.id", "session.id",
        "byline.caller.address", "error.message", "gen_ai.tool.definitions", "llm.invocation_parameters", text[:40],
        "request_data", "events", "gen_ai.tool.call.arguments", "gen_ai.system_instructions", "output.value",
    )  # fmt: skip
    for map_to, redactor in (
        (map_span, Redactor(private=True)),
        (openinference.map_span, Redactor(private=False)),
        (map_span, Redactor(private=False, mask=lambda _, value: value)),
    ):
        span = SpanCopy(
            text[:50] or "chat", _SPAN, parent=None, attributes=dict.fromkeys(names, text), start_time=1, end_time=2,
            resource=Resource({}), scope=None, state=None, attribution=Attribution(user_id="ada", session_id="s"),
        )  # fmt: skip
        Minimization("truncated", user_agent=False, url_paths=False, key=b"k").apply(span)
        redactor.redact(span)
        map_to(span)
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
            with mock.patch.dict(
                os.environ, {"https_proxy": text.replace("\0", ""), "http_proxy": "h", "no_proxy": "a/b"}
            ):
                with contextlib.suppress(ProxyError):
                    find_proxy(parts)
                HttpClient(url, {"authorization": "a"})


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
        whole_requests,
        messages_of_queues,
        configuration,
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
