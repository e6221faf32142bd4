"""Bad input: the app sees and answers exactly what it would without the middleware.

Every row is sent to six apps, each once bare and once behind its door. What the app received, what
it answered and how it failed must be equal, message for message and byte for byte; good claims
survive, and the bad ones are named.
"""

from __future__ import annotations

import asyncio
import gzip
import inspect
import io
import itertools
import json
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI
from flask import Flask, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from byline import asgi, errors, request_context, wsgi
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.setup_check import InstrumentationCheck
from byline.settings import SettingError
from tests import support
from tests.support import Heard, Sent, call_model, run_asgi, run_wsgi, spy

HEADER = [("x-session-id", "h")]
UNREADABLE = ["body: cannot be decoded"]


def sent(body: Any, **request: Any) -> Sent:
    """Return a request of the given bytes with a good session in its headers."""
    return Sent(body, headers=[*HEADER, *request.pop("headers", ())], **request)


def deep(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


#: name: request, attribution besides the header's session, dropped claims
BAD: dict[str, tuple[Sent, dict[str, Any], list[str]]] = {
    "good": (sent(b'{"user": "u"}'), {"user_id": "u"}, []),
    "empty": (sent(b""), {}, []),
    "cut JSON": (sent(b'{"user": "u", "tra'), {}, UNREADABLE),
    "two objects": (sent(b'{"user": "u"}{"user": "v"}'), {}, UNREADABLE),
    "single quotes": (sent(b"{'user': 'u'}"), {}, UNREADABLE),
    "binary": (sent(bytes(range(256))), {}, UNREADABLE),
    "a list": (sent(b'[{"user": "u"}]'), {}, []),
    "a text": (sent(b'"user"'), {}, []),
    "null": (sent(b"null"), {}, []),
    "spaces": (sent(b" \n "), {}, UNREADABLE),
    "trace is a list": (sent(b'{"user": "u", "trace": ["w"]}'), {"user_id": "u"}, ["trace: not an object"]),
    "trace is a number": (sent(b'{"user": "u", "trace": 5}'), {"user_id": "u"}, ["trace: not an object"]),
    "trace is a switch": (sent(b'{"user": "u", "trace": false}'), {"user_id": "u"}, ["trace: not an object"]),
    "trace is null": (sent(b'{"user": "u", "trace": null}'), {"user_id": "u"}, []),
    "metadata is a text": (sent(b'{"user": "u", "metadata": "x"}'), {"user_id": "u"}, ["metadata: not an object"]),
    "metadata is a list": (sent(b'{"user": "u", "metadata": []}'), {"user_id": "u"}, ["metadata: not an object"]),
    "wrong types": (
        sent(
            b'{"session_id": [1], "user": {"id": "u"}, "end_user": "e", "trace": {"trace_id": 1.5, "trace_name": true,'
            b' "environment": {}, "tags": 5, "span_name": "S"}}'
        ),
        {"user_id": "e", "span_name": "S"},
        [
            "session_id: not text",
            "user_id: not text",
            "trace_id: not text",
            "trace_name: not text",
            "environment: not text",
            "tags: not a list",
        ],
    ),
    "10 MB, claims at the end": (
        sent(b'{"messages": ["' + b"x" * 10_000_000 + b'"], "user": "u"}'),
        {"user_id": "u"},
        [],
    ),
    "17 MB": (sent(b'{"user": "u", "messages": ["' + b"x" * 17_000_000 + b'"]}'), {}, ["body: too long"]),
    "17 MB of unknown length": (
        sent([b'{"user": "u", "messages": ["', *[b"x" * 1_000_000] * 17, b'"]}'], content_length=False),
        {},
        ["body: too long"],
    ),
    "100 deep elsewhere": (sent(b'{"messages": %s, "user": "u"}' % deep(100)), {"user_id": "u"}, []),
    "100 deep in the trace": (
        sent(b'{"trace": {"k": %s, "trace_id": "w"}, "user": "u"}' % deep(100)),
        {"user_id": "u", "trace_id": "w", "metadata": {"k": deep(100).decode()}},
        [],
    ),
    "300 deep in the trace": (
        sent(b'{"trace": {"k": %s, "trace_id": "w"}, "user": "u"}' % deep(300)),
        {"user_id": "u", "trace_id": "w"},
        ["metadata.k: too long"],
    ),
    "100 deep in the place of an id": (sent(b'{"user": %s}' % deep(100)), {}, ["user_id: not text"]),
    "100,000 deep elsewhere": (sent(b'{"user": "u", "messages": %s}' % deep(100_000)), {}, UNREADABLE),
    "100,000 deep and unfinished": (sent(b'{"user": "u", "messages": ' + b"[" * 100_000), {}, UNREADABLE),
    "NaN elsewhere": (sent(b'{"temperature": NaN, "top_p": -Infinity, "user": "u"}'), {"user_id": "u"}, []),
    "NaN in the place of an id": (
        sent(b'{"user": NaN, "trace": {"trace_id": "w"}}'),
        {"trace_id": "w"},
        ["user_id: not text"],
    ),
    "huge integer elsewhere": (sent(b'{"seed": %s, "user": "u"}' % (b"9" * 3000)), {"user_id": "u"}, []),
    "huger integer elsewhere": (sent(b'{"seed": %s, "user": "u"}' % (b"9" * 6000)), {"user_id": "u"}, []),
    "huge integer in the place of an id": (
        sent(b'{"user": %s, "trace": {"trace_id": "w"}}' % (b"9" * 3000)),
        {"trace_id": "w"},
        ["user_id: too long"],
    ),
    "integer of 201 digits": (sent(b'{"user": %s}' % (b"9" * 201)), {}, ["user_id: too long"]),
    "integer of 30 digits": (sent(b'{"user": %s}' % (b"9" * 30)), {"user_id": "9" * 30}, []),
    "huge integers in the trace": (
        sent(b'{"trace": {"k": %s, "l": %s, "trace_id": "w"}}' % (b"9" * 6000, b"9" * 30)),
        {"trace_id": "w"},
        ["metadata.k: not JSON", "metadata.l: number out of range"],
    ),
    "byte order mark": (sent('{"user": "u"}'.encode("utf-8-sig")), {"user_id": "u"}, []),
    "UTF-16": (sent('{"user": "ü"}'.encode("utf-16")), {"user_id": "ü"}, []),
    "UTF-32": (sent('{"user": "ü"}'.encode("utf-32-le")), {"user_id": "ü"}, []),
    "lone surrogate elsewhere": (sent(b'{"messages": "\\ud800", "user": "u"}'), {"user_id": "u"}, []),
    "lone surrogate in the trace": (
        sent(b'{"trace": {"k": "\\ud800", "trace_id": "w"}}'),
        {"trace_id": "w"},
        ["metadata.k: not printable"],
    ),
    "lone surrogate in an id": (
        sent(b'{"user": "\\udfff", "trace": {"trace_id": "w"}}'),
        {"trace_id": "w"},
        ["user_id: not printable"],
    ),
    "invalid UTF-8 elsewhere": (sent(b'{"user": "u", "messages": "\xff\xfe"}'), {"user_id": "u"}, []),
    "invalid UTF-8 in an id": (
        sent(b'{"user": "\xff", "trace": {"trace_id": "w"}}'),
        {"trace_id": "w"},
        ["user_id: not text"],
    ),
    "invalid UTF-8 in the trace": (
        sent(b'{"user": "u", "trace": {"trace_id": "\xc3"}}'),
        {"user_id": "u"},
        ["trace: not an object"],
    ),
    "Latin-1": (sent('{"user": "ü"}'.encode("latin-1")), {}, ["user_id: not text"]),
    "keys twice": (sent(b'{"user": "u", "user": "v"}'), {"user_id": "v"}, []),
    "control characters": (
        sent(b'{"user": "a\\nb", "trace": {"trace_id": "\\u0000", "trace_name": "\\u001b[31m", "span_name": "S"}}'),
        {"span_name": "S"},
        ["user_id: not printable", "trace_id: not printable", "trace_name: not printable"],
    ),
    "raw control characters": (sent(b'{"user": "a\nb"}'), {}, UNREADABLE),
    "5,000 characters": (
        sent(b'{"user": "%s", "trace": {"trace_id": "w", "k": "%s"}}' % (b"x" * 5000, b"y" * 5000)),
        {"trace_id": "w"},
        ["user_id: too long", "metadata.k: too long"],
    ),
    "5,000 characters in a header": (
        sent(b"{}", headers=[("trace", "x" * 5000)]),
        {},
        ["trace_id: too long"],
    ),
    "repeated headers": (
        sent(b'{"user": "u"}', headers=[("trace", "w"), ("Trace", "v"), ("x-session-id", "h")]),
        {"user_id": "u"},
        ["trace_id: repeated"],
    ),
    "control characters in headers": (
        sent(b'{"user": "u"}', headers=[("trace", b"a\x01b"), ("baggage", "user.id=%0A")]),
        {"user_id": "u"},
        ["trace_id: not printable", "user_id: not printable"],
    ),
    "bytes of no encoding in headers": (sent(b"{}", headers=[("trace", b"\xff\x80")]), {}, ["trace_id: not printable"]),
    "deep JSON in a header": (
        sent(b"{}", headers=[("trace", b'{"k": ' + deep(30_000) + b"}")]),
        {},
        ["trace: not an object"],
    ),
    "huge integer in a header": (
        sent(b"{}", headers=[("trace", b'{"trace_id": "w", "k": %s}' % (b"9" * 6000))]),
        {"trace_id": "w"},
        ["metadata.k: not JSON"],
    ),
    "the client goes away half-way": (sent([b'{"user": ', b'"u"'], content_length="400", ends=False), {}, []),
    "the client goes away before": (sent([], content_length="400", ends=False), {}, []),
    "in chunks": (sent([b'{"us', b'er": "u', b"", b'"}', b""], content_length=False), {"user_id": "u"}, []),
    "byte by byte": (sent([bytes([byte]) for byte in b'{"user": "u"}']), {"user_id": "u"}, []),
    "content length that is no number": (sent(b'{"user": "u"}', content_length="many"), {"user_id": "u"}, []),
    "content length with a superscript": (sent(b'{"user": "u"}', content_length="\u00b2"), {"user_id": "u"}, []),
    "content length of 6,000 digits": (sent(b'{"user": "u"}', content_length="9" * 6000), {"user_id": "u"}, []),
    "negative content length": (sent(b'{"user": "u"}', content_length="-1"), {"user_id": "u"}, []),
    "no content type": (sent(b'{"user": "u"}', content_type=None), {}, []),
    "another content type": (sent(b'{"user": "u"}', content_type="text/plain"), {}, []),
    "empty content type": (sent(b'{"user": "u"}', content_type=""), {}, []),
    "compressed": (sent(gzip.compress(b'{"user": "u"}'), headers=[("content-encoding", "gzip")]), {}, []),
    "said to be as it is": (
        sent(b'{"user": "u"}', headers=[("content-encoding", "identity")]),
        {"user_id": "u"},
        [],
    ),
}  # fmt: skip

#: Requests of one protocol only, because the servers differ.
ASGI_ONLY: dict[str, tuple[Sent, dict[str, Any], list[str]]] = {
    "content length too small": (sent([b'{"user": ', b'"u"}'], content_length="4"), {"user_id": "u"}, []),
    "content length too large": (sent(b'{"user": "u"}', content_length="400"), {"user_id": "u"}, []),
}
WSGI_ONLY: dict[str, tuple[Sent, dict[str, Any], list[str]]] = {
    "content length too small": (sent(b'{"user": \n"u"}', content_length="4"), {"user_id": "u"}, []),
    "content length too large": (sent(b'{"user": "u"}', content_length="400"), {"user_id": "u"}, []),
}
# A WSGI server shows a client that has gone away as the end of the input.
GONE = {"the client goes away half-way": UNREADABLE}
# Without a length Flask reads nothing.
UNREAD_BY_FLASK = {
    "17 MB of unknown length",
    "in chunks",
    "content length that is no number",
    "content length with a superscript",
    "content length of 6,000 digits",
    "negative content length",
}

heard: list[Heard | None] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    heard.clear()


def listen() -> None:
    """Make an LLM span, for which byline reads the claims, and note them."""
    call_model()
    owner = request_context.current_context()
    heard.append(None if owner is None else Heard(owner.attribution(), owner.rejected))


def decoded(body: bytes) -> str:
    """Return the app's view of a body."""
    try:
        return repr(json.loads(body))[:1000]
    except (ValueError, RecursionError) as error:
        return type(error).__name__


async def raw_asgi(scope: Any, receive: Any, send: Any) -> None:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    listen()
    text = f"{scope['type']} {len(body)} {decoded(bytes(body))}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text[:20].encode("utf-8", "replace"), "more_body": True})
    await send({"type": "http.response.body", "body": text[20:].encode("utf-8", "replace")})


async def starlette_chat(request: Request) -> Response:
    try:
        return JSONResponse(repr(await request.json())[:1000].encode("utf-8", "replace").decode())
    finally:
        listen()


starlette_app = Starlette(routes=[Route("/chat", starlette_chat, methods=["POST"])])
fastapi_app = FastAPI()


@fastapi_app.post("/chat")
def fastapi_chat(body: Annotated[Any, Body()] = None) -> str:
    listen()
    return "fastapi"


@fastapi_app.middleware("http")
async def always_listens(request: Request, call_next: Any) -> Any:
    response = await call_next(request)
    listen()
    return response


def raw_wsgi(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    stream = environ["wsgi.input"]
    parts = [stream.read(3), stream.readline(5), stream.readline()]
    for _ in range(100):
        parts.append(stream.read(100_000))
    parts.extend(stream.readlines(1))
    parts.extend(stream.readlines())
    parts.extend(stream)
    listen()
    start_response("200 OK", [("content-type", "text/plain")])
    return [repr(parts)[:1000].encode(), decoded(b"".join(parts)).encode("utf-8", "replace")]


def lines_wsgi(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    lines = list(environ["wsgi.input"])
    listen()
    start_response("200 OK", [])
    yield repr(len(lines)).encode()
    yield b"".join(lines)[:1000]


flask_app = Flask("bad")


@flask_app.post("/chat")
def flask_chat() -> str:
    try:
        return repr(request.get_json())[:1000].encode("utf-8", "replace").decode()
    finally:
        listen()


ASGI_APPS = {"raw": raw_asgi, "starlette": starlette_app, "fastapi": fastapi_app}
WSGI_APPS = {"raw": raw_wsgi, "lines": lines_wsgi, "flask": flask_app.wsgi_app}


def asgi_view(app: Any, sent: Sent, door: Any) -> Any:
    received: list[Any] = []
    run = asyncio.run(run_asgi(door(spy(app, received)), sent))
    return received, run.view()


def wsgi_view(app: Any, sent: Sent, door: Any) -> Any:
    return copy_context().run(run_wsgi, door(app), sent).view()


def compare(view: Any, app: Any, sent: Sent, door: Any) -> Heard:
    bare = view(app, sent, lambda app: app)
    assert heard.pop() is None
    signed = view(app, sent, door)
    assert signed == bare
    last = heard[-1]
    assert last is not None
    return last


def check(heard: Heard, known: dict[str, Any], rejected: list[str]) -> None:
    assert heard.known() == {"session_id": "h", **known}
    assert sorted(heard.rejected) == sorted(rejected)


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize("name", ASGI_APPS)
@pytest.mark.parametrize("case", [*BAD, *ASGI_ONLY])
def test_asgi_app_sees_an_unchanged_request(case: str, name: str) -> None:
    sent, known, rejected = {**BAD, **ASGI_ONLY}[case]
    check(compare(asgi_view, ASGI_APPS[name], sent, asgi.AttributionMiddleware), known, rejected)


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize("name", WSGI_APPS)
@pytest.mark.parametrize("case", [*BAD, *WSGI_ONLY])
def test_wsgi_app_sees_an_unchanged_request(case: str, name: str) -> None:
    sent, known, rejected = {**BAD, **WSGI_ONLY}[case]
    if name == "flask" and case in UNREAD_BY_FLASK:
        known, rejected = {}, []
    if name == "flask" and case == "content length too small":
        # Flask reads up to the declared length, and byline reads the same bytes.
        known, rejected = {}, UNREADABLE
    check(compare(wsgi_view, WSGI_APPS[name], sent, wsgi.AttributionMiddleware), known, GONE.get(case, rejected))


@pytest.mark.usefixtures("provider")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["user", "trace_id"]), inner),
            max_leaves=20,
        ).flatmap(
            lambda value: st.sampled_from(["session_id", "user", "end_user", "trace", "metadata"]).map(
                lambda key: json.dumps({key: value}).encode()
            )
        ),
    ),
    cuts=st.lists(st.integers(0, 200), max_size=5),
    header=st.binary(max_size=30),
)
def test_no_input_shows(body: bytes, cuts: list[int], header: bytes) -> None:
    """For any input in any pieces: the app's view is unchanged, and accepted values keep the limits."""
    edges = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(edges)]
    request = Sent(chunks, headers=[("trace", header), ("baggage", header), ("x-session-id", header)])
    for view, app, door in (
        (asgi_view, raw_asgi, asgi.AttributionMiddleware),
        (wsgi_view, raw_wsgi, wsgi.AttributionMiddleware),
    ):
        known = compare(view, app, request, door)
        for field, value in known.known().items():
            if field == "tags" or field == "metadata":
                assert len(value) <= 50
            else:
                assert 0 < len(value) <= 200
        for entry in known.rejected:
            entry.encode()


def test_an_app_that_never_reads_the_body() -> None:
    """Nothing is read on its behalf; claims in headers are there."""
    asked = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        listen()
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    async def receive() -> Any:
        asked.append(1)

    async def send(message: Any) -> None:
        pass

    scope = support.scope_of(sent(b'{"user": "u"}'))
    asyncio.run(asgi.AttributionMiddleware(app)(scope, receive, send))
    assert asked == []
    assert heard[-1] is not None
    assert heard[-1].known() == {"session_id": "h"}


def test_an_app_that_never_reads_the_input() -> None:
    class Untouchable(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("nobody asked for this")

        readline = readlines = __iter__ = read  # type: ignore[assignment]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        listen()
        start_response("413 Too Large", [])
        return [b"too large"]

    environ = support.environ_of(sent(b'{"user": "u"}')) | {"wsgi.input": Untouchable()}
    run = run_wsgi(wsgi.AttributionMiddleware(app), sent(b""), environ)
    assert run.view() == ("413 Too Large", [], [b"too large"], [], None)
    assert heard[-1] is not None
    assert heard[-1].known() == {"session_id": "h"}


@pytest.mark.usefixtures("provider")
def test_a_body_that_never_ends() -> None:
    """The app decides how much to read; byline keeps a bounded part."""
    kept = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(100):
            message = await receive()
            assert message == {"type": "http.request", "body": b"x" * 1000, "more_body": True}
        owner = request_context.current_context()
        assert owner is not None
        assert owner.body is not None
        kept.append((owner.body.chunks, owner.body.overflow))
        listen()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"enough"})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    answered = []

    async def send(message: Any) -> None:
        answered.append(message)

    scope = support.scope_of(sent(b"", content_length=False))
    asyncio.run(asgi.AttributionMiddleware(app, body_limit=20_000)(scope, receive, send))
    assert kept == [([], True)]
    assert answered[-1]["body"] == b"enough"
    assert heard[-1] is not None
    assert heard[-1].rejected == ["body: too long"]


@pytest.mark.usefixtures("provider")
def test_an_app_that_stops_reading_at_content_length() -> None:
    """It never sees a message that says it is the last, and its claims are read all the same."""
    body = b'{"user": "u"}'

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "http.request", "body": body, "more_body": True}
        listen()

    request = sent([body, b""], content_length=str(len(body)))
    assert asyncio.run(run_asgi(asgi.AttributionMiddleware(app), request)).error is None
    check(heard[-1], {"user_id": "u"}, [])  # type: ignore[arg-type]


def test_an_input_that_fails() -> None:
    """The app gets the very error that the server's stream raised."""

    class Reset(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise ConnectionResetError("by peer")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read(10)
        except ConnectionResetError as error:
            start_response("400 Bad", [])
            listen()
            return [str(error).encode()]
        raise AssertionError

    environ = support.environ_of(sent(b'{"user": "u"}')) | {"wsgi.input": Reset()}
    run = run_wsgi(wsgi.AttributionMiddleware(app), sent(b""), environ)
    assert run.body == b"by peer"
    check(heard[-1], {}, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_chunks_of_other_types_than_bytes(make: Any) -> None:
    """Some servers hand out buffers that they fill anew."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert type(message["body"]) is make
        if make is bytearray:
            message["body"][:] = b"overwritten"
        listen()

    run = asyncio.run(run_asgi(asgi.AttributionMiddleware(app), sent([make(b'{"user": "u", "nan": NaN}')])))
    assert run.error is None
    check(heard[-1], {"user_id": "u"}, [])  # type: ignore[arg-type]


def test_scopes_and_messages_with_as_little_as_some_servers_send() -> None:
    """No headers, no method, no body in a message: the middleware accepts the same messages as the app."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await receive() == {"type": "http.request"}
        listen()

    async def receive() -> Any:
        return {"type": "http.request"}

    for scope in ({"type": "http", "path": "/", "method": "POST"}, {"type": "http"}, {"type": "websocket"}):
        asyncio.run(asgi.AttributionMiddleware(app)(scope, receive, receive))  # type: ignore[arg-type]
        assert heard[-1] is not None
        assert heard[-1].known() == {}


def _wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


class _WsgiApp:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


async def _asgi(scope: Any, receive: Any, send: Any) -> None: ...


class _AsgiApp:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


@pytest.mark.parametrize("app", [_wsgi, _WsgiApp(), _WsgiApp().__call__])
def test_wsgi_app_in_the_asgi_middleware_is_an_error(app: Any) -> None:
    """It would fail with each request, and say something about arguments."""
    wsgi.AttributionMiddleware(wsgi.AttributionMiddleware(app))
    with pytest.raises(SettingError, match=r"byline\.E018.* byline\.wsgi\.$"):
        asgi.AttributionMiddleware(app)


@pytest.mark.parametrize("app", [_asgi, _AsgiApp(), _AsgiApp().__call__, lambda *given: _asgi(*given)])
def test_asgi_app_in_the_wsgi_middleware_is_an_error(app: Any) -> None:
    asgi.AttributionMiddleware(asgi.AttributionMiddleware(app))
    if inspect.isfunction(app) and app.__name__ == "<lambda>":
        wsgi.AttributionMiddleware(app)  # it may be either
        return
    with pytest.raises(SettingError, match=r"byline\.E018.* byline\.asgi\.$"):
        wsgi.AttributionMiddleware(app)


def _make_app() -> Any: ...


def _in_list(middleware: Any) -> None:
    """``Middleware(AttributionMiddleware())`` in Starlette."""
    middleware()


def _as_function(middleware: Any) -> None:
    """``app.middleware("http")(AttributionMiddleware)``, or the class as ``app.wsgi_app`` of Flask."""
    run: Any
    if middleware is asgi.AttributionMiddleware:
        app = FastAPI()
        app.middleware("http")(middleware)
        run = asyncio.run(run_asgi(app, Sent()))
    else:
        flask = Flask("tests")
        flask.wsgi_app = middleware  # type: ignore[method-assign]
        run = run_wsgi(flask, Sent())
    assert run.error is not None
    raise run.error


def _setting_without_name(middleware: Any) -> None:
    middleware(lambda *request: None, {"session"})


@support.both_doors
@pytest.mark.parametrize("make", [_in_list, _as_function, _setting_without_name])
def test_the_wrong_form_of_a_call_is_an_error_that_shows_the_right_one(door: support.Door, make: Any) -> None:
    """Frameworks call the class where they want an instance. Python would tell about numbers of arguments."""
    usage = "app.add_middleware(Attr" if door == "asgi" else "app.wsgi_app = AttributionMiddleware(app.wsgi_app, …)"
    with pytest.raises(SettingError, match=rf"byline\.E107: .*byline\.{door} takes the app, ") as raised:
        make(asgi.AttributionMiddleware if door == "asgi" else wsgi.AttributionMiddleware)
    assert f"To fix this, write {usage}" in str(raised.value)


@support.both_doors
@pytest.mark.parametrize(
    ("app", "advice"),
    [
        (None, "return the app from the function that makes it"),
        ("main:app", "pass the app itself"),
        (_make_app, r"pass its result: _make_app\(\)"),
        (FastAPI, r"pass an app: FastAPI\(\)"),
        (Flask, r"pass an app: Flask\(\)"),
    ],
)
def test_what_is_no_app_is_an_error(door: support.Door, app: Any, advice: str) -> None:
    with pytest.raises(SettingError, match=rf"byline\.E109: byline\.{door}'s middleware wraps .*{advice}"):
        (asgi if door == "asgi" else wsgi).AttributionMiddleware(app)


def test_a_class_whose_instances_are_responses_is_an_app() -> None:
    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return Response("ok")

    class Answer:
        def __init__(self, environ: Any, start_response: Any) -> None:
            start_response("200 OK", [])

        def __iter__(self) -> Any:
            return iter([b"ok"])

    run = asyncio.run(run_asgi(asgi.AttributionMiddleware(Endpoint), Sent(method="GET")))
    assert (run.error, run.body) == (None, b"ok")
    assert run_wsgi(wsgi.AttributionMiddleware(Answer), Sent()).body == b"ok"


def test_a_middleware_around_the_app_that_calls_it_is_an_error() -> None:
    """The loop would end with a RecursionError, deep in the framework."""
    app = Flask("tests")
    app.wsgi_app = wsgi.AttributionMiddleware(app)  # type: ignore[method-assign]
    error = run_wsgi(app, Sent()).error
    assert str(error).endswith("To fix this, write app.wsgi_app = AttributionMiddleware(app.wsgi_app).")
    assert str(error).startswith("byline.E108: app.wsgi_app = AttributionMiddleware(app) makes a loop")

    class Quart:
        asgi_app: Any = None

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.asgi_app(scope, receive, send)

    quart = Quart()
    quart.asgi_app = asgi.AttributionMiddleware(quart)
    for kind in ("lifespan", "http"):
        scope = {**support.scope_of(Sent()), "type": kind}
        error = asyncio.run(run_asgi(quart, Sent(), scope)).error
        assert str(error).startswith("byline.E108: app.asgi_app = AttributionMiddleware(app) makes a loop")


def test_signature_of_the_app_is_not_evaluated() -> None:
    """A decorator may change the signature, and annotations may name types of type checkers only."""

    def decorated(*given: Any) -> Any:
        return _asgi(*given)

    decorated.__signature__ = inspect.signature(_wsgi)  # type: ignore[attr-defined]
    asgi.AttributionMiddleware(decorated)

    def annotated(environ: Any, start_response: Any, *, further: Any = None) -> Any: ...

    app: Any = annotated
    annotated.__annotations__ = dict.fromkeys(("environ", "start_response"), "Unknown")
    with pytest.raises(SettingError, match=r"byline\.E018"):
        asgi.AttributionMiddleware(app)


@pytest.mark.parametrize("door", support.DOORS)
@pytest.mark.parametrize("missing", [True, False])
def test_middleware_without_instrument_warns_once(
    door: support.Door, missing: bool, production: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else would: no span is signed, and no request fails."""
    monkeypatch.setattr(InstrumentationCheck, "pending", True)
    errors.once.clear()
    if not missing:
        AttributionSpanProcessor()
    for _ in range(3):
        support.accepted(door, support.claim({}))
    assert production.text.count("byline.E019") == missing


def test_middleware_does_not_warn_if_byline_is_disabled(
    production: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InstrumentationCheck, "pending", True)
    monkeypatch.setenv("BYLINE_DISABLED", "1")
    support.accepted("asgi", support.claim({}))
    assert production.text == ""


def test_an_app_that_holds_the_middleware_around_itself_is_no_loop() -> None:
    class Service:
        def __init__(self) -> None:
            self.asgi_app = asgi.AttributionMiddleware(self)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])

    seen: list[str] = []
    scope = {**support.scope_of(Sent()), "type": "lifespan"}
    assert asyncio.run(run_asgi(Service().asgi_app, Sent(), scope)).error is None
    assert seen == ["lifespan"]
