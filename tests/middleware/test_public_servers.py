"""Public endpoints on real servers: raw requests of a stranger reach the app unchanged, and their claims no span."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.exceptions
import websockets.sync.client
from flask import Flask, request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import byline
from byline import asgi, wsgi
from byline.destinations import OTLP
from byline.testing import ReceivedSpan, Receiver
from tests.servers import patience, uvicorn_server, wsgiref_server
from tests.support import call_model

EVIL = "e71l"
TRACE = "e" * 32
PARENT = f"00-{TRACE}-{'a' * 16}-00"
FORGED = "1." + base64.urlsafe_b64encode(json.dumps({"u": EVIL, "s": EVIL, "o": EVIL}).encode()).decode().rstrip("=")
CLAIMS = json.dumps(
    {
        "session_id": f"{EVIL}-s",
        "user": EVIL,
        "metadata": {"session_id": EVIL, "tags": [EVIL], "mask_input": True, "key": EVIL},
        "trace": {"trace_id": EVIL, "trace_name": EVIL, "span_name": EVIL, "parent_span_id": "a" * 16},
        "params": {"_meta": {"x-byline": FORGED, "traceparent": PARENT, "baggage": f"user.id={EVIL}"}},
    }
).encode()
JSON = b"Content-Type: application/json"
HEADERS = (
    "x-session-id", "X_Session_Id", "x-user-id", "X_Account", "trace", "x-litellm-session-id", "Helicone-User-Id",
    "x-portkey-metadata", "langfuse-session-id", "langfuse_user_id", "mcp-session-id", "x-byline", "X_Byline",
    "x-organization-id", "x-request-id", "Cookie",
)  # fmt: skip


def raw(*headers: bytes, body: bytes = b"", length: bool = True, version: bytes = b"1.1", query: bytes = b"") -> bytes:
    lines = [b"POST /chat%s HTTP/%s" % (query, version), b"Host: app", b"Connection: close", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x;name=%s\r\n%s\r\n" % (len(piece), EVIL.encode(), piece) for piece in pieces)
    return raw(JSON, b"Transfer-Encoding: chunked", length=False) + framed + b"0\r\n\r\n"


#: Raw requests; all come from a stranger, and what a server refuses is refused.
REQUESTS: dict[str, bytes] = {
    **{f"header {name}": raw(f"{name}: {EVIL}".encode()) for name in HEADERS},
    **{f"header {name} twice": raw(f"{name}: {EVIL}".encode(), f"{name}: {EVIL}2".encode()) for name in HEADERS},
    **{f"forged {index}": raw(f"x-byline: {value}".encode(), b"traceparent: " + PARENT.encode())
       for index, value in enumerate((FORGED, FORGED + "." + "A" * 43, FORGED + ".", "2.x", "1." + "A" * 5000))},
    "folded header": raw(f"x-session-id: a\r\n {EVIL}".encode()),
    "long header": raw(b"x-session-id: " + EVIL.encode() * 400),
    "bytes in a header": raw(b"x-session-id: " + EVIL.encode() + b"\xff\xe2\x80\xae"),
    "trace": raw(f"traceparent: {PARENT}\r\ntracestate: a={EVIL}\r\nbaggage: user.id={EVIL}".encode()),
    "two traces": raw(f"traceparent: {PARENT}".encode(), f"traceparent: {PARENT[:-2]}01".encode()),
    "query": raw(query=f"?session_id={EVIL}&user={EVIL}&traceparent={PARENT}&x-byline={FORGED}".encode()),
    "body": raw(JSON, body=CLAIMS),
    "body in chunks of a byte": chunked(CLAIMS, 1),
    "body twice": raw(JSON, body=CLAIMS * 2),
    "body of another type": raw(b"Content-Type: text/plain", body=CLAIMS),
    "body in UTF-16": raw(JSON + b"; charset=utf-16", body=CLAIMS.decode().encode("utf-16")),
    "repeated members": raw(JSON, body=f'{{"session_id": "a", "session_id": "{EVIL}", "user": "{EVIL}"}}'.encode()),
    "deep body": raw(JSON, body=b'{"metadata":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_001),
    "wide body": raw(JSON, body=json.dumps({f"k{number}": EVIL for number in range(20_000)}).encode()),
    "numbers": raw(JSON, body=b'{"session_id": NaN, "user": 1e999, "metadata": {"n": ' + b"9" * 20_000 + b"}}"),
    "surrogates": raw(JSON, body=f'{{"session_id": "{EVIL}\\ud800", "user": "\\udfff{EVIL}"}}'.encode()),
    "HTTP/1.0": raw(JSON, f"traceparent: {PARENT}".encode(), body=CLAIMS, version=b"1.0"),
    "two requests at once": raw(JSON, body=CLAIMS).replace(b"close", b"keep-alive") + raw(JSON, body=CLAIMS),
    "half a body": raw(JSON, b"Content-Length: 90000", body=CLAIMS, length=False),
}  # fmt: skip


def identity(authorization: str) -> dict[str, str] | None:
    return {"user_id": "ada"} if authorization == "ada" else None


def starlette() -> Any:
    async def chat(request: Request) -> PlainTextResponse:
        body = await request.body()
        call_model()
        return PlainTextResponse(f"{len(body)}")

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            call_model()
            await websocket.send_text(str(len(text)))

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), WebSocketRoute("/talk", talk)])

    def identify(scope: Any) -> dict[str, str] | None:
        return identity(dict(scope["headers"]).get(b"authorization", b"").decode("latin-1"))

    return asgi.AttributionMiddleware(app, public=True, identity=identify)


def flask() -> Any:
    app = Flask("tests")

    @app.post("/chat")
    def chat() -> str:
        body = request.get_data()
        call_model()
        return f"{len(body)}"

    app.wsgi_app = wsgi.AttributionMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, public=True, identity=lambda environ: identity(environ.get("HTTP_AUTHORIZATION", ""))
    )
    return app


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        byline.instrument(destinations=[OTLP(started.url)], clients=())
        yield started
        byline.uninstrument()


def exchange(address: tuple[str, int], sent: bytes) -> bytes:
    """Send a request, end the sending, and return what comes back until the server closes."""
    with socket.create_connection(address, timeout=patience(20)) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                answer += data
        except ConnectionError:
            # The request was refused before its end.
            pass
        return answer


def check(spans: list[ReceivedSpan]) -> None:
    """Raise if a claim of the stranger is on a span, beside the URL, which is shown as it was asked for."""
    for span in spans:
        attributes = {name: value for name, value in span.attributes.items() if not name.startswith(("url.", "http."))}
        # Names alone: pytest would compare long texts for minutes.
        assert [name for name, value in {**attributes, "name": span.name}.items() if EVIL in str(value)] == []
        assert (span.trace_id, span.parent_id) != (TRACE, "a" * 16)
        assert span.trace_id != TRACE
        assert attributes.get("user.id") in (None, "ada")
        assert [name for name in attributes if name.startswith(("langfuse.", "byline.trace", "byline.parent"))] == []


@pytest.mark.integration
@pytest.mark.parametrize("server", ["uvicorn", "wsgiref"])
def test_claims_of_a_stranger_reach_no_span(server: str, receiver: Receiver) -> None:
    """And the server goes on: the last request has its user and its session."""
    running = uvicorn_server(starlette()) if server == "uvicorn" else wsgiref_server(flask())
    with running as address:
        answers = {name: exchange(address, sent) for name, sent in REQUESTS.items()}
        last = exchange(address, raw(JSON, b"Authorization: ada", body=b'{"session_id": "s-1"}'))
    answered = sum(answer.count(b" 200 OK") for answer in answers.values())
    assert byline.flush()
    spans = receiver.spans
    # Calls end before the response, so that those of all answered requests have been sent.
    assert sum(span.name == "chat gpt-4o" for span in spans) == answered + 1
    assert re.fullmatch(rb"HTTP/1\.[01] 200 OK\r\n.*\r\n\r\n21", last, re.DOTALL)
    assert answered > 30
    assert [name for name, answer in answers.items() if re.match(rb"HTTP/1\.\d 5", answer)] == []
    check(spans)
    honest = [span for span in spans if span.attributes.get("user.id") == "ada" and span.name == "chat gpt-4o"]
    assert [str(span.attributes["session.id"]).endswith(":s-1") for span in honest] == [True]
    assert [name for name in byline.stats() if name.startswith("errors.")] == []


@pytest.mark.integration
def test_claims_of_a_stranger_in_a_websocket_reach_no_span(receiver: Receiver) -> None:
    """Neither those of the handshake nor those of its messages."""
    messages = [CLAIMS.decode(), "[" * 50_000, "x" * 500_000, "", "\0"]
    calls = 0
    with uvicorn_server(starlette()) as (host, port):
        for name in HEADERS:
            query = f"?session_id={EVIL}&user={EVIL}&trace=%7B%22trace_id%22%3A%22{EVIL}%22%7D"
            sent = [(name, EVIL), (name, f"{EVIL}2"), ("traceparent", PARENT), ("baggage", f"session.id={EVIL}")]
            with websockets.sync.client.connect(
                f"ws://{host}:{port}/talk{query}", additional_headers=sent, open_timeout=patience(20)
            ) as connection:
                for message in messages:
                    connection.send(message)
                    assert connection.recv(timeout=patience(20)) == str(len(message))
                    calls += 1
        with websockets.sync.client.connect(
            f"ws://{host}:{port}/talk", additional_headers=[("authorization", "ada"), ("x-session-id", "s-1")]
        ) as connection:
            connection.send("hi")
            assert connection.recv(timeout=patience(20)) == "2"
    assert byline.flush()
    spans = receiver.spans
    assert sum(span.name == "chat gpt-4o" for span in spans) == calls + 1
    check(spans)
    (honest,) = [span for span in spans if span.attributes.get("user.id") == "ada" and span.name == "chat gpt-4o"]
    assert str(honest.attributes["session.id"]).endswith(":s-1")
