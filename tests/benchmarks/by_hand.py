"""A middleware that a team writes by hand, against byline's: a POST on a recording server span.

Written by hand it reads the session from a header and the JSON body, sets the attributes on the server span, and adds
them to LLM spans by a span processor. It has no limits, no trust, no other names, and no results of calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import byline
from byline.asgi import AttributionMiddleware
from tests.benchmarks.measure import Row, costs
from tests.benchmarks.span_processors import CHAT, Nowhere

_ids: Final[ContextVar[dict[str, str] | None]] = ContextVar("ids", default=None)
_SIZES: Final = ((1000, "1 KB", 100, 1.0), (32_000, "32 KB", 40, 0.6), (1_000_000, "1 MB", 3, 0.25))
_STEPS: Final = frozenset({"trace_id", "trace_name", "span_name", "generation_name", "parent_span_id"})
HEADERS: Final = [
    (b"host", b"app"),
    (b"user-agent", b"curl/8"),
    (b"accept", b"*/*"),
    (b"content-type", b"application/json"),
    (b"x-session-id", b"sess-1"),
    (b"accept-encoding", b"gzip"),
    (b"x-request-id", b"r1"),
    (b"cookie", b"a=b; c=d"),
]


class HandProcessor(SpanProcessor):
    """Adds the ids of the request to LLM spans."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        ids = _ids.get()
        if ids and "gen_ai.operation.name" in (span.attributes or {}):
            for key, value in ids.items():
                span.set_attribute(key, value)


class HandMiddleware:
    """Reads the ids of a request."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        chunks, more = [], True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        body, headers = b"".join(chunks), dict(scope["headers"])
        ids: dict[str, str] = {}
        session = headers.get(b"x-session-id")
        try:
            data = json.loads(body)
        except ValueError:
            data = {}
        session_id = session.decode() if session else data.get("session_id")
        if session_id:
            ids["session.id"] = ids["gen_ai.conversation.id"] = session_id
        if data.get("user"):
            ids["user.id"] = data["user"]
        trace_object = data.get("trace") or {}
        if trace_object.get("trace_name"):
            ids["langfuse.trace.name"] = trace_object["trace_name"]
        for key, value in trace_object.items():
            if key not in _STEPS:
                ids["langfuse.trace.metadata." + key] = value
        span = trace.get_current_span()
        for key, value in ids.items():
            span.set_attribute(key, value)
        token = _ids.set(ids)
        is_sent = False

        async def replay() -> Any:
            nonlocal is_sent
            if is_sent:
                return await receive()
            is_sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, replay, send)
        finally:
            _ids.reset(token)


def body(size: int) -> bytes:
    text = "lorem ipsum dolor " * (size // 18)
    claims = {"session_id": "session_abc", "user": "u1", "trace": {"trace_name": "n", "k": "v"}}
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **claims}).encode()


def scope(method: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": "/chat",
        "raw_path": b"/chat",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "client": ("127.0.0.1", 5),
        "server": ("app", 80),
        "headers": list(HEADERS),
    }


async def answers(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def reads(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, and call no model."""
    while (await receive()).get("more_body"):
        pass
    await answers(scope, receive, send)


def calls_model(provider: TracerProvider) -> Any:
    """Return an app that reads the body and makes one LLM span."""
    tracer = provider.get_tracer("opentelemetry.instrumentation.genai.openai")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        with tracer.start_as_current_span("chat", attributes=CHAT):
            pass
        await answers(scope, receive, send)

    return app


def with_otel(app: Any, provider: TracerProvider) -> Any:
    """Return an app below OpenTelemetry's middleware, which makes the server span."""
    return OpenTelemetryMiddleware(app, tracer_provider=provider, exclude_spans=["receive", "send"])


def _drive(app: Any, payload: bytes) -> Callable[[int], None]:
    async def receive() -> Any:
        return {"type": "http.request", "body": payload, "more_body": False}

    async def send(message: Any) -> None:
        return None

    async def run(loops: int) -> None:
        for _ in range(loops):
            await app(scope("POST"), receive, send)

    return lambda loops: asyncio.run(run(loops))


def _provider(*processors: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in (*processors, BatchSpanProcessor(Nowhere())):
        provider.add_span_processor(processor)
    return provider


def rows() -> list[Row]:
    """Return what reading and writing claims costs, beside the middleware that is written by hand."""
    plain, hand, ours = _provider(), _provider(HandProcessor()), _provider()
    byline.instrument(tracer_provider=ours, destinations=[], clients=())
    found: list[Row] = []
    try:
        for size, name, loops, bound in _SIZES:
            for what, make in (("no LLM span", lambda provider: reads), ("one LLM span", calls_model)):
                taken = costs(
                    {
                        "plain": _drive(with_otel(make(plain), plain), body(size)),
                        "hand": _drive(with_otel(HandMiddleware(make(hand)), hand), body(size)),
                        "ours": _drive(with_otel(AttributionMiddleware(make(ours)), ours), body(size)),
                    },
                    loops=loops,
                )
                label = f"POST {name}, server span, {what}"
                theirs = taken["hand"] - taken["plain"]
                found.append(Row(label, "the same by hand", theirs, taken["ours"] - taken["plain"], bound))
    finally:
        byline.uninstrument()
        for provider in (plain, hand, ours):
            provider.shutdown()
    return found
