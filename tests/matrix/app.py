"""The app of a cell, and the client that asks it; both speak ASGI, no server stands between them."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from byline.asgi import AttributionMiddleware

TRACE_NAME = "matrix"


class Answer(NamedTuple):
    """What the client got.

    Attributes:
        ids: The ids of the model's replies, as the SDK gave them to the app.
        error: The class of the error that the SDK raised.
    """

    ids: tuple[str, ...] = ()
    error: str | None = None


def make_app(calls: Any) -> Any:
    """Return an app with an endpoint for every method of ``calls``, signed by byline's middleware."""

    async def endpoint(request: Request) -> Response:
        # Most apps have read their body by the time they ask a model.
        await request.json()
        work = getattr(calls, request.path_params["method"])
        if inspect.isasyncgenfunction(work):
            return StreamingResponse((f"{item}\n" async for item in work()), media_type="text/plain")
        try:
            ids = await (work() if inspect.iscoroutinefunction(work) else run_in_threadpool(work))
        except Exception as error:
            return JSONResponse({"error": type(error).__name__}, status_code=502)
        return JSONResponse({"ids": ids})

    app = Starlette(routes=[Route("/{method}", endpoint, methods=["POST"])])
    app.add_middleware(AttributionMiddleware)
    return app


async def ask(
    app: Any,
    method: str,
    session: str,
    trace_id: str,
    *,
    leaves: bool = False,
    query: str = "",
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Answer:
    """Post a request as session's user.

    Args:
        app: The app.
        method: What it is to do.
        session: Who asks.
        trace_id: In which trace.
        leaves: Whether the client goes away after the first chunk of the answer.
        query: The query of its URL.
        headers: Headers besides the usual ones.
        more: What its body has besides the claims.
    """
    claims = {"session_id": session, "user": f"user-of-{session}", "trace": {"trace_name": TRACE_NAME}}
    body = json.dumps({**claims, **(more or {})}).encode()
    scope = {
        "type": "http",
        # The version that servers speak which tell of a client's leaving by a message.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": f"/{method}",
        "raw_path": f"/{method}".encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"app"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"traceparent", f"00-{trace_id}-00f067aa0ba902b7-01".encode()),
            *((name.encode(), value.encode()) for name, value in (headers or {}).items()),
        ],
        "client": ("10.1.2.3", 5000),
        "server": ("app", 80),
    }
    gone = asyncio.Event()
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    got: list[bytes] = []

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop(0)
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] != "http.response.body":
            return
        got.append(message.get("body", b""))
        if not message.get("more_body") or (leaves and got[-1].strip()):
            gone.set()

    try:
        await app(scope, receive, send)
    except Exception as error:
        return Answer(error=type(error).__name__)
    text = b"".join(got).decode()
    if text.startswith("{"):
        answer = json.loads(text)
        return Answer(_distinct(answer.get("ids", ())), answer.get("error"))
    return Answer(_distinct(text.split()))


def _distinct(ids: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for item in ids if item))
