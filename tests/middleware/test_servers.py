"""The middlewares under real servers: the bytes on the wire are unchanged."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
import websockets.sync.client
from flask import Flask, Response, request, send_file
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import byline
from byline import asgi, request_context, wsgi
from byline.genai import attributes as names
from tests.servers import uvicorn_server, wsgiref_server
from tests.support import Sent, call_model, environ_of

Finished = Callable[[], Sequence[ReadableSpan]]
BODY = json.dumps({"user": "ada", "text": "x" * 5000}).encode()
FILE = Path(json.__file__)
HEAD = b"Host: app\r\nContent-Type: application/json\r\nx-session-id: s\r\n"


def exchange(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send the parts one by one and return all that comes back until the server closes."""
    with socket.create_connection(address, timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return re.sub(rb"(?im)^date: .*\r\n", b"", answer)


def with_length(path: bytes = b"/", body: bytes = BODY, *, close: bool = True) -> bytes:
    end = b"Connection: close\r\n" if close else b""
    return b"POST %s HTTP/1.1\r\n%sContent-Length: %d\r\n%s\r\n%s" % (path, HEAD, len(body), end, body)


def chunked(path: bytes = b"/", *chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"POST %s HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%s0\r\n\r\n" % (
        path,
        HEAD,
        framed,
    )


def signed(finished: Finished, times: int, **expected: str) -> None:
    llm = [dict(span.attributes or {}) for span in finished() if span.kind is not SpanKind.SERVER]
    llm = [attributes for attributes in llm if "gen_ai.operation.name" in attributes]
    assert len(llm) == times
    for attributes in llm:
        assert attributes[names.SESSION_ID] == "s"
        assert attributes.get(names.USER_ID) == "ada"


async def echo(request: Request) -> PlainTextResponse:
    body = await request.body()
    call_model()
    return PlainTextResponse(body[::-1])


async def stream(request: Request) -> StreamingResponse:
    body = await request.body()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]
        call_model()

    return StreamingResponse(chunks())


async def file(request: Request) -> FileResponse:
    await request.body()
    call_model()
    return FileResponse(FILE)


def starlette() -> Starlette:
    return Starlette(
        routes=[Route(f"/{name}", handler, methods=["POST", "HEAD"]) for name, handler in HANDLERS.items()]
    )


HANDLERS: dict[str, Any] = {"": echo, "stream": stream, "file": file}

EXCHANGES: dict[str, tuple[bytes, ...]] = {
    "at once": (with_length(),),
    "in two parts": (with_length()[:300], with_length()[300:]),
    "chunked": (chunked(b"/", BODY[:10], BODY[10:4000], BODY[4000:]),),
    "streamed": (with_length(b"/stream"),),
    "file": (with_length(b"/file"),),
    "keep-alive, one after another": (with_length(close=False), with_length(b"/stream", close=False), with_length()),
    "pipelined": (with_length(close=False) + with_length(b"/stream", close=False) + with_length(),),
    "expecting 100": (with_length().replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1),),
}


@pytest.mark.parametrize("case", EXCHANGES)
def test_uvicorn_answers_the_same(case: str, finished: Finished) -> None:
    parts = EXCHANGES[case]
    with uvicorn_server(starlette()) as bare:
        expected = exchange(bare, *parts)
    assert expected.startswith(b"HTTP/1.1 ")
    before = len(finished())
    with uvicorn_server(asgi.AttributionMiddleware(starlette())) as door:
        assert exchange(door, *parts) == expected
    calls = expected.count(b"HTTP/1.1 200")
    assert calls >= 1
    spans = [span for span in finished()[before:] if span.kind is not SpanKind.SERVER]
    assert [(span.attributes or {})[names.SESSION_ID] for span in spans] == ["s"] * calls
    assert [(span.attributes or {})[names.USER_ID] for span in spans] == ["ada"] * calls


def test_a_client_that_goes_away_half_way(finished: Finished) -> None:
    """The app learns it as ever; claims of the headers are there, of the cut body none."""
    seen = []
    done = threading.Event()

    async def handler(request: Request) -> PlainTextResponse:
        try:
            await request.body()
        except ClientDisconnect:
            call_model()
            seen.append(byline.current())
            done.set()
            raise
        return PlainTextResponse("whole")

    app = Starlette(routes=[Route("/", handler, methods=["POST"])])
    with uvicorn_server(asgi.AttributionMiddleware(app)) as address:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(with_length()[:500])
        assert done.wait(20)
    assert seen == [byline.Attribution(session_id="s")]


def test_a_client_that_stops_listening() -> None:
    """A stream without its reader ends as without byline, and the next request has its own attribution."""
    ended = threading.Event()
    heard = []

    async def endless(request: Request) -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0)
            finally:
                heard.append(byline.current().session_id)
                ended.set()

        return StreamingResponse(chunks())

    async def plain(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(byline.current().session_id))

    app = Starlette(routes=[Route("/endless", endless), Route("/", plain)])
    with uvicorn_server(asgi.AttributionMiddleware(app)) as address:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: app\r\nx-session-id: s\r\n\r\n")
            assert connection.recv(1000)
        assert ended.wait(20)
        answer = exchange(address, b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
    assert heard == ["s"]
    assert answer.endswith(b"None")


def test_a_websocket_over_the_wire(finished: Finished) -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            call_model()
            await websocket.send_text(text.upper())

    app = asgi.AttributionMiddleware(Starlette(routes=[WebSocketRoute("/", talk)]))
    with uvicorn_server(app, ws="websockets-sansio") as (host, port):
        url = f"ws://{host}:{port}/?session_id=s&user=ada"
        with websockets.sync.client.connect(url) as connection:
            for text in ("a", "b"):
                connection.send(text)
                assert connection.recv(timeout=20) == text.upper()
    signed(finished, 2)
    (server,) = [span for span in finished() if span.kind is SpanKind.SERVER]
    assert (server.attributes or {})[names.SESSION_ID] == "s"


def wsgi_app(environ: Any, start_response: Any) -> Any:
    length = environ.get("CONTENT_LENGTH") or "0"
    body = environ["wsgi.input"].read(int(length))
    call_model()
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/file":
        return environ["wsgi.file_wrapper"](FILE.open("rb"))
    if path == "/stream":
        return (body[start : start + 1000] for start in range(0, len(body), 1000))
    return [body[::-1]]


def flask() -> Any:
    app = Flask("app")

    @app.post("/")
    def echo() -> Response:
        body = request.get_data()
        request.get_json()
        call_model()
        return Response(body[::-1])

    @app.post("/stream")
    def stream() -> Response:
        body = request.get_data()

        def chunks() -> Iterator[bytes]:
            call_model()
            for start in range(0, len(body), 1000):
                yield body[start : start + 1000]

        return Response(chunks())

    @app.post("/file")
    def file() -> Response:
        request.get_data()
        call_model()
        return send_file(FILE)

    return app.wsgi_app


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("make", [lambda: wsgi_app, flask])
@pytest.mark.parametrize("path", [b"/", b"/stream", b"/file"])
def test_wsgiref_answers_the_same(path: bytes, make: Callable[[], Any], threaded: bool, finished: Finished) -> None:
    """With the Content-Length that it sets for lists of one item, and with files."""
    with wsgiref_server(make(), threaded=threaded) as bare:
        expected = exchange(bare, with_length(path))
    assert expected.startswith(b"HTTP/1.0 200 OK")
    before = len(finished())
    with wsgiref_server(wsgi.AttributionMiddleware(make()), threaded=threaded) as door:
        for _ in range(2):
            assert exchange(door, with_length(path)) == expected
        nobody = with_length(path, b"{}").replace(b"x-session-id: s\r\n", b"")
        assert exchange(door, nobody).startswith(b"HTTP/1.0 200 OK")
    spans = [span for span in finished()[before:] if span.kind is not SpanKind.SERVER]
    assert [(span.attributes or {}).get(names.SESSION_ID) for span in spans] == ["s", "s", None]
    assert [(span.attributes or {}).get(names.USER_ID) for span in spans] == ["ada", "ada", None]


def test_wsgiref_hands_the_file_to_the_server() -> None:
    """Its handler asks for the very class, and would read a wrapped one by itself."""
    seen = []

    def app(environ: Any, start_response: Any) -> Any:
        answer = wsgi.AttributionMiddleware(wsgi_app)(environ, start_response)
        seen.append(type(answer))
        return answer

    with wsgiref_server(app) as address:
        answer = exchange(address, with_length(b"/file"))
    assert seen == [FileWrapper]
    assert answer.endswith(FILE.read_bytes())


def test_a_wsgi_client_that_goes_away_half_way(finished: Finished) -> None:
    heard = []
    done = threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        call_model()
        owner = request_context.current_context()
        assert owner is not None
        heard.append((len(body), byline.current(), owner.rejected))
        start_response("400 Bad Request", [])
        done.set()
        return [b""]

    with wsgiref_server(wsgi.AttributionMiddleware(app)) as address:
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(with_length()[:500])
        assert done.wait(20)
    ((length, known, rejected),) = heard
    assert length < len(BODY)
    assert known == byline.Attribution(session_id="s")
    assert rejected == []


def test_gunicorns_file_wrapper_passes() -> None:
    """Gunicorn uses sendfile only for its own file wrapper class."""
    wrapper = importlib.import_module("gunicorn.http.wsgi").FileWrapper
    environ = environ_of(Sent(path="/file", content_type=None)) | {"wsgi.file_wrapper": wrapper}
    answer = wsgi.AttributionMiddleware(wsgi_app)(environ, lambda *_: None)
    assert type(answer) is wrapper
    answer.filelike.close()  # type: ignore[attr-defined]
