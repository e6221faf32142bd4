"""Apps for real servers; their spans go to the receiver that the environment names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from opentelemetry import trace

import byline
from byline import asgi, wsgi
from tests.export.support import CHAT

byline.instrument()
tracer = trace.get_tracer("app")


async def answer(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    tracer.start_span("chat", attributes={**CHAT, "pid": os.getpid()}).end()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def answer_http(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError("only HTTP")
    await answer(scope, receive, send)


def respond(environ: Any, start_response: Callable[..., Any]) -> Iterable[bytes]:
    tracer.start_span("chat", attributes={**CHAT, "pid": os.getpid()}).end()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


asgi_app = asgi.AttributionMiddleware(answer)
plain_app = asgi.AttributionMiddleware(answer_http)
wsgi_app = wsgi.AttributionMiddleware(respond)
