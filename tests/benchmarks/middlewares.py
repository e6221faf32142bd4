"""Cost of the two middlewares for each request, beside OpenTelemetry's middlewares."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as OtelAsgi
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as OtelWsgi
from opentelemetry.sdk.trace import TracerProvider

from byline import asgi, wsgi
from byline.genai.setup_check import InstrumentationCheck
from tests.benchmarks.measure import Row, costs

BODY: Final = json.dumps(
    {
        "model": "openai/gpt-4o",
        "messages": [{"role": "user", "content": "x" * 800}],
        "user": "user_12345",
        "trace": {"trace_id": "workflow_12345", "trace_name": "Document Processing Pipeline"},
    }
).encode()
HEADERS: Final = [
    (b"host", b"app.internal"),
    (b"user-agent", b"OpenAI/Python 3.54.0"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"authorization", b"Bearer sk-0123456789"),
    (b"content-type", b"application/json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"x-session-id", b"session_abc"),
]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] == "POST":
        while (await receive()).get("more_body"):
            pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def drive_asgi(app: Any, method: str) -> Callable[[int], None]:
    async def send(message: Any) -> None:
        return None

    async def receive() -> Any:
        return {"type": "http.request", "body": BODY}

    async def run(loops: int) -> None:
        for _ in range(loops):
            scope = {
                "type": "http",
                "method": method,
                "path": "/chat",
                "query_string": b"",
                "headers": HEADERS,
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 80),
                "scheme": "http",
                "http_version": "1.1",
            }
            await app(scope, receive, send)

    return lambda loops: asyncio.run(run(loops))


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    if environ["REQUEST_METHOD"] == "POST":
        environ["wsgi.input"].read(len(BODY))
    start_response("200 OK", [])
    return [b"ok"]


def drive_wsgi(app: Any, method: str) -> Callable[[int], None]:
    def start_response(status: str, headers: Any, error: Any = None) -> None:
        return None

    def run(loops: int) -> None:
        for _ in range(loops):
            environ = {
                "REQUEST_METHOD": method,
                "PATH_INFO": "/chat",
                "SCRIPT_NAME": "",
                "QUERY_STRING": "",
                "SERVER_NAME": "app",
                "SERVER_PORT": "80",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "REMOTE_ADDR": "127.0.0.1",
                "CONTENT_TYPE": "application/json",
                "CONTENT_LENGTH": str(len(BODY)),
                "HTTP_HOST": "app.internal",
                "HTTP_USER_AGENT": "OpenAI/Python 3.54.0",
                "HTTP_AUTHORIZATION": "Bearer sk-0123456789",
                "HTTP_X_SESSION_ID": "session_abc",
                "wsgi.input": io.BytesIO(BODY),
                "wsgi.url_scheme": "http",
            }
            for _chunk in app(environ, start_response):
                pass

    return run


def rows() -> list[Row]:
    """Return the cost of the middlewares, without and with a recording server span."""
    # These spans have no attribution on purpose.
    InstrumentationCheck.pending = False
    found: list[Row] = []
    provider = TracerProvider(shutdown_on_exit=False)
    for kind, drive, app, door, otel in (
        ("ASGI", drive_asgi, asgi_app, asgi.AttributionMiddleware, OtelAsgi),
        ("WSGI", drive_wsgi, wsgi_app, wsgi.AttributionMiddleware, OtelWsgi),
    ):
        make: Any = door
        wrap: Any = otel
        for method, bound in (("GET", 0.01), ("POST", 0.025)):
            taken = costs(
                {
                    "bare": drive(app, method),
                    "byline": drive(make(app, app_span=False), method),
                    "otel": drive(wrap(app, tracer_provider=provider), method),
                    "both": drive(wrap(make(app), tracer_provider=provider), method),
                },
                loops=400,
                rounds=25,
            )
            theirs = taken["otel"] - taken["bare"]
            what = "GET without LLM call" if method == "GET" else "1 KB JSON POST"
            reference = f"opentelemetry-instrumentation-{kind.lower()}"
            # The bounds are those against OpenTelemetry's ASGI middleware.
            asked = kind == "ASGI"
            ours = taken["byline"] - taken["bare"]
            found.append(Row(f"{kind} {what}", reference, theirs, ours, bound if asked else None))
            if method == "POST":
                name = f"{kind} {what}, recording app span"
                found.append(Row(name, reference, theirs, taken["both"] - taken["otel"], 0.08 if asked else None))
    return found
