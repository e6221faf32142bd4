"""``python -m tests.matrix.content.run CELL FILE``: runs the marked calls of one cell and writes what left.

Runs in the cell's own environment, like `tests.matrix.scenario`. What is looked for is looked for in
the bytes themselves: headers and bodies of every request to a destination, and the files of a spool.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import importlib
import inspect
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import byline
from byline.asgi import AttributionMiddleware
from byline.destinations import OTLP, Langfuse
from byline.gateways import OpenRouter
from byline.testing import Receiver
from tests.matrix import cells, setups
from tests.matrix.app import ask
from tests.matrix.content.gateway import Marking
from tests.matrix.content.marks import KEY, PLAN, SECRET, content_in, forbidden_in, mark, places_of

CONVENTIONS: Final = ("openinference", "openrouter", "litellm", "traceloop", "langfuse")
#: By these, instrumentations capture content, and OpenTelemetry's own every header.
SETTINGS: Final = {
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
    "TRACELOOP_TRACE_CONTENT": "true",
    "ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE": "content",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST": ".*",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_RESPONSE": ".*",
}


def make_app(calls: Any) -> Any:
    """Return an app with a retrieval, a call and a failure."""

    async def endpoint(request: Request) -> Response:
        await request.json()
        work = getattr(calls, request.path_params["method"])
        with trace.get_tracer("app").start_as_current_span("retrieve") as span:
            span.set_attributes({"rag.passages": [mark("passage")], "http.route": "/{method}", "app.stage": "draft"})
            span.add_event("found", {"text": mark("event")})
        if inspect.isasyncgenfunction(work):
            return StreamingResponse((f"{item}\n" async for item in work()), media_type="text/plain")
        ids = await (work() if inspect.iscoroutinefunction(work) else run_in_threadpool(work))
        return JSONResponse({"ids": ids})

    app = Starlette(routes=[Route("/{method}", endpoint, methods=["POST"])])
    app.add_middleware(AttributionMiddleware)
    return app


async def run_all(calls: Any, gateway: Marking) -> dict[str, str | None]:
    """Make every call; then each in vain, and streams that fail half-way. Returns the errors."""
    app = make_app(calls)
    done: dict[str, str | None] = {}
    methods = [name for name, _ in inspect.getmembers(calls, callable) if not name.startswith("_")]
    in_vain = [(name, "in vain", None) for name in methods if "tool" not in name]
    broken = [(name, "broken off", 3) for name in methods if "stream" in name]
    for method, way, after in [(name, "", None) for name in methods] + in_vain + broken:
        if way:
            gateway.fail(500 if after else 400, after=after)
        name = f"{method} {way}".rstrip()
        print(name, file=sys.stderr, flush=True)
        done[name] = (await asyncio.wait_for(_ask(app, method), 30)).error
    return done


def _ask(app: Any, method: str) -> Any:
    return ask(
        app,
        method,
        f"session-{method}",
        os.urandom(16).hex(),
        query=f"q={mark('asked').replace(' ', '+')}",
        headers={"authorization": f"Bearer {KEY}", "cookie": f"session={SECRET}", "x-title": mark("header")},
        more={"messages": [{"role": "user", "content": mark("body")}], "metadata": {"plan": PLAN}},
    )


@contextlib.contextmanager
def destinations(spool: Path) -> Iterator[tuple[dict[str, Receiver], list[Any]]]:
    """Open receivers, by name, and the destinations that send to them."""
    with contextlib.ExitStack() as stack:
        names = ("open", "private", "langfuse", "masked")
        receivers = {name: stack.enter_context(Receiver()) for name in names}
        url = {name: receiver.url for name, receiver in receivers.items()}
        dead = stack.enter_context(Receiver())
        dead.fail(503, times=None)
        private: dict[str, Any] = {"spans": "all", "privacy": True, "conventions": CONVENTIONS}
        yield (
            receivers,
            [
                OTLP(url["open"], spans="all", label="open", conventions=CONVENTIONS),
                OTLP(url["private"], label="private", **private),
                Langfuse("pk-lf-1", "sk-lf-1", url["langfuse"], label="langfuse", **private),
                OTLP(url["masked"], spans="all", label="masked", conventions=CONVENTIONS, mask=mask),
                Langfuse("pk-lf-1", "sk-lf-1", dead.url, label="spooled", spool=spool, **private),
            ],
        )


def mask(name: str, value: str) -> str:
    """Mask every marked text."""
    return "masked" if content_in(value.encode()) else value


def raw_of(requests: Iterable[Any]) -> bytes:
    """Return the posted requests, with their headers."""
    return b"\n".join(
        json.dumps([request.path, request.headers]).encode() + gzip.decompress(request.body) for request in requests
    )


def main() -> None:
    """Run a cell."""
    cell, target = cells.find(sys.argv[1]), Path(sys.argv[2])
    for name in [name for name in os.environ if name.startswith(("OTEL_", "LANGFUSE_", "OPENAI_", "BYLINE_"))]:
        del os.environ[name]
    os.environ.update(SETTINGS)
    with Marking() as gateway, tempfile.TemporaryDirectory() as folder, destinations(Path(folder)) as (receivers, to):
        setups.before(cell.name)
        byline.instrument(destinations=to, gateways=[OpenRouter(gateway.base_url)], capture_content=True)
        setups.after(cell.name)
        calls = importlib.import_module(f"tests.matrix.content.sdks.{cell.sdk}").Calls(gateway.url)
        done = asyncio.run(run_all(calls, gateway))
        gc.collect()
        if cell.settles:
            time.sleep(cell.settles)
        byline.flush()
        raw = {name: raw_of(receiver.requests) for name, receiver in receivers.items()}
        raw["spool"] = b"".join(gzip.decompress(path.read_bytes()) for path in Path(folder).rglob("*.otlp"))
        spans = {name: [span._asdict() for span in receiver.spans] for name, receiver in receivers.items()}
        found = {
            "calls": done,
            "stats": byline.stats(),
            "sizes": {name: len(data) for name, data in raw.items()},
            "content": {name: content_in(data) for name, data in raw.items()},
            "forbidden": {name: forbidden_in(data) for name, data in raw.items()},
            "spans": spans,
            "places": {
                name: sorted({f"{span['scope']}: {place}" for span in sent for place in places_of(span)})
                for name, sent in spans.items()
            },
        }
        target.write_text(json.dumps(found, indent=1, default=str))
        byline.uninstrument()
    # Threads that an SDK left behind are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
