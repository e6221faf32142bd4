"""Runs ASGI and WSGI apps without a server, so that tests can compare every message and byte."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from opentelemetry import trace

from byline import asgi, request_context, wsgi
from byline.attribution import Attribution
from byline.setting_table import SETTINGS

Door = Literal["asgi", "wsgi"]
DOORS: tuple[Door, ...] = ("asgi", "wsgi")
both_doors = pytest.mark.parametrize("door", DOORS)

tracer = trace.get_tracer("tests.app")


def environment_without_settings() -> dict[str, str]:
    """Return the environment of a process that a test starts: this one without the variables that byline reads."""
    settings = {name for setting in SETTINGS for name in setting.variables}
    return {name: value for name, value in os.environ.items() if name not in settings}


def call_model(name: str = "chat gpt-4o", **attributes: Any) -> None:
    """Create the LLM span that an instrumentation would create."""
    tracer.start_span(name, attributes={"gen_ai.operation.name": "chat", **attributes}).end()


@dataclass
class Sent:
    """One request.

    A body of several chunks is sent as several messages. Without ``ends`` the client disconnects after them. Headers
    may repeat names.
    """

    body: bytes | Sequence[bytes] = b""
    headers: Sequence[tuple[str, str | bytes]] = ()
    method: str = "POST"
    path: str = "/chat"
    query: str = ""
    content_type: str | None = "application/json"
    content_length: str | bool = True
    ends: bool = True
    type: Literal["http", "websocket"] = "http"

    def chunks(self) -> list[bytes]:
        return [self.body] if isinstance(self.body, bytes) else list(self.body)

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        raw = [(b"host", b"app")]
        if self.content_type is not None:
            raw.append((b"content-type", self.content_type.encode()))
        if self.content_length is True:
            raw.append((b"content-length", str(sum(map(len, self.chunks()))).encode()))
        elif self.content_length:
            raw.append((b"content-length", str(self.content_length).encode()))
        for name, value in self.headers:
            raw.append((name.encode("latin-1"), value if isinstance(value, bytes) else value.encode()))
        return raw


def claim(body: Any = None, **sent: Any) -> Sent:
    """Return a request with a JSON body."""
    return Sent(json.dumps({} if body is None else body).encode(), **sent)


def scope_of(sent: Sent) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": sent.type,
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "path": sent.path,
        "raw_path": sent.path.encode(),
        "root_path": "",
        "query_string": sent.query.encode("latin-1"),
        "headers": sent.raw_headers(),
        "client": ("10.1.2.3", 5000),
        "server": ("app", 80),
    }
    if sent.type == "http":
        scope["method"] = sent.method
    return scope


def environ_of(sent: Sent) -> dict[str, Any]:
    """Return the environ that wsgiref's server makes of a request."""
    headers: dict[str, str] = {}
    for name, value in sent.raw_headers():
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1").strip()
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    return {
        "REQUEST_METHOD": sent.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": sent.path,
        "QUERY_STRING": sent.query,
        "SERVER_NAME": "app",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "10.1.2.3",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(b"".join(sent.chunks())),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **headers,
    }


@dataclass
class AsgiRun:
    """The messages that the server received, and the exception that ended the app."""

    sent: list[Any] = field(default_factory=list)
    error: BaseException | None = None

    def view(self) -> tuple[list[Any], str | None]:
        return self.sent, None if self.error is None else repr(self.error)

    @property
    def status(self) -> int | None:
        return next((message["status"] for message in self.sent if message["type"] == "http.response.start"), None)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent if message["type"] == "http.response.body")


async def run_asgi(app: Any, sent: Sent, scope: dict[str, Any] | None = None) -> AsgiRun:
    """Run an ASGI app on one request in the current task; its exception is returned, not raised."""
    run = AsgiRun()
    waiting: list[dict[str, Any]] = []
    if sent.type == "websocket":
        waiting.append({"type": "websocket.connect"})
        waiting.extend({"type": "websocket.receive", "bytes": chunk} for chunk in sent.chunks() if chunk)
        waiting.append({"type": "websocket.disconnect", "code": 1000})
    else:
        chunks = sent.chunks()
        for index, chunk in enumerate(chunks):
            last = index == len(chunks) - 1 and sent.ends
            waiting.append({"type": "http.request", "body": chunk, "more_body": not last})
        waiting.append({"type": "http.disconnect"})

    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if len(waiting) > 1:
            return waiting.pop(0)
        if sent.ends and sent.type == "http":
            # The client stays connected until the response is complete.
            await answered.wait()
        return waiting[0]

    async def send(message: Any) -> None:
        run.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    try:
        await app(scope_of(sent) if scope is None else scope, receive, send)
    except Exception as error:
        run.error = error
    return run


def spy(app: Any, received: list[Any]) -> Any:
    """Wrap an app so that every message that it receives is appended to a list."""

    async def spied(scope: Any, receive: Any, send: Any) -> None:
        async def noted() -> Any:
            message = await receive()
            received.append(dict(message))
            return message

        await app(scope, noted, send)

    return spied


@dataclass
class WsgiRun:
    """The status, headers and body that the server received, and the exception that ended the app."""

    status: str | None = None
    headers: list[tuple[str, str]] | None = None
    chunks: list[bytes] = field(default_factory=list)
    written: list[bytes] = field(default_factory=list)
    answer: Any = None
    error: BaseException | None = None

    @property
    def body(self) -> bytes:
        return b"".join([*self.written, *self.chunks])

    def view(self) -> tuple[Any, ...]:
        return self.status, self.headers, self.chunks, self.written, None if self.error is None else repr(self.error)


def run_wsgi(app: Any, sent: Sent, environ: dict[str, Any] | None = None) -> WsgiRun:
    """Run a WSGI app as a server does: read every item, then call close(), in the thread's own context."""
    run = WsgiRun()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info is not None and run.chunks:
            raise exc_info[1]
        run.status, run.headers = status, list(headers)
        return run.written.append

    try:
        run.answer = app(environ_of(sent) if environ is None else environ, start_response)
        try:
            for chunk in run.answer:
                run.chunks.append(chunk)
        finally:
            close = getattr(run.answer, "close", None)
            if close is not None:
                close()
    except Exception as error:
        run.error = error
    return run


def accepted(door: Door, sent: Sent, before: Mapping[str, Any] | None = None, **settings: Any) -> Heard:
    """Send a request through a middleware; returns the attribution after the app has read the body.

    ``before`` is added to the scope or environ inside the middleware, as authentication and routers do.
    """
    heard: list[Heard] = []

    def listen() -> None:
        owner = request_context.current_context()
        assert owner is not None
        heard.append(Heard(owner.attribution(), owner.rejected))

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        scope.update(before or {})
        while True:
            message = await receive()
            if message["type"] in ("http.disconnect", "websocket.disconnect") or (
                message["type"] == "http.request" and not message.get("more_body")
            ):
                break
        listen()

    def wsgi_app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ.update(before or {})
        length = environ.get("CONTENT_LENGTH") or ""
        environ["wsgi.input"].read(*([int(length)] if length.isdecimal() else []))
        listen()
        start_response("200 OK", [])
        return []

    run: AsgiRun | WsgiRun
    if door == "asgi":
        run = asyncio.run(run_asgi(asgi.AttributionMiddleware(asgi_app, **settings), sent))
    else:
        run = copy_context().run(run_wsgi, wsgi.AttributionMiddleware(wsgi_app, **settings), sent)
    if run.error is not None:
        raise run.error
    return heard[0]


@dataclass
class Heard:
    """The attribution of a request, and the claims that were rejected."""

    attribution: Attribution
    rejected: list[str]

    def known(self) -> dict[str, Any]:
        """Return the fields that have a value."""
        return {
            name: getattr(self.attribution, name)
            for name in self.attribution.__struct_fields__
            if getattr(self.attribution, name)
        }
