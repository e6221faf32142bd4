"""The processes of the end-to-end measurement: an app of one variant, and the gateway with the receivers.

``python -m tests.benchmarks.served FD …`` serves on listening sockets that it inherits: the app of the variant that
``BENCHMARK_VARIANT`` names, or without it a gateway on the first socket and a receiver on each further one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import re
import socket
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import fastapi

SESSION: Final = "session-5c1e07"
PROMPT: Final = "lorem ipsum"
_REPLY: Final = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 200, "completion_tokens": 5, "total_tokens": 205},
}
#: The attributes that have the model in the conventions of all variants.
_MODEL: Final = frozenset({"gen_ai.request.model", "llm.model_name", "langfuse.observation.model.name"})
#: What vendors' SDKs ask for at start. LangSmith compresses its posts with zstd unless the server has none.
_INFO: Final = {
    "/info": {"version": "0.15.0", "instance_flags": {"zstd_compression_enabled": False}},
    "/v1/info": {"project_name": "benchmark", "project_url": "http://127.0.0.1"},
}
_RUN: Final = re.compile(rb'name="(post|patch)\.([0-9a-f-]+)')
_SERVER_KIND: Final = 2


def make_app() -> Any:
    """Return the FastAPI app of the variant that the environment names."""
    from openai import AsyncOpenAI

    from tests.benchmarks.variants import VARIANTS, App

    variant = next(each for each in VARIANTS if each.name == os.environ["BENCHMARK_VARIANT"])
    asgi: Any = fastapi.FastAPI()
    client = AsyncOpenAI(base_url=f"{os.environ['BENCHMARK_GATEWAY']}/v1", api_key="sk-1")
    app = App(asgi, os.environ["BENCHMARK_RECEIVER"], client)

    @asgi.post("/plain")
    async def plain(request: fastapi.Request) -> dict[str, str]:
        return {"model": (await request.json())["model"]}

    @asgi.post("/chat")
    async def chat(request: fastapi.Request) -> dict[str, str | None]:
        body = await request.json()
        with app.session(request.headers["x-session-id"], body["user"]):
            answer = await app.client.chat.completions.create(model=body["model"], messages=body["messages"])
        return {"content": answer.choices[0].message.content}

    variant.set_up(app)
    return asgi


class GatewayAndReceivers:
    """An ASGI app that answers model calls, and counts the spans that arrive at each of its ports."""

    def __init__(self) -> None:
        self._reply = json.dumps(_REPLY).encode()
        self._bodies: dict[int, list[tuple[str, dict[bytes, bytes], bytes]]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        chunks, more = [], True
        while more:
            message = await receive()
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        path, kind, answer = scope["path"], b"application/json", b"{}"
        if path.endswith("/chat/completions"):
            answer = self._reply
        elif path in _INFO:
            answer = json.dumps(_INFO[path]).encode()
        elif path.startswith("/seen/"):
            answer = json.dumps(self._count(int(path.removeprefix("/seen/")))).encode()
        elif path.endswith(("/traces", "/runs/multipart", "/runs/batch")):
            # Decoded later: a receiver that decodes would take the time of those variants that send most.
            kept = self._bodies.setdefault(scope["server"][1], [])
            kept.append((path, dict(scope["headers"]), b"".join(chunks)))
            if path.endswith("/traces"):
                kind, answer = b"application/x-protobuf", b""
        status = 202 if "/runs/" in path else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": answer})

    def _count(self, port: int) -> dict[str, int]:
        """Return how many posts and spans have arrived since the last question."""
        found: Counter[str] = Counter()
        for path, headers, body in self._bodies.pop(port, []):
            found["posts"] += 1
            found["bytes"] += len(body)
            found.update(_kinds_of_runs(body) if "/runs/" in path else _kinds_of_spans(_decompress(headers, body)))
        return dict(found)


def _decompress(headers: dict[bytes, bytes], body: bytes) -> bytes:
    encoding = headers.get(b"content-encoding")
    return gzip.decompress(body) if encoding == b"gzip" else zlib.decompress(body) if encoding == b"deflate" else body


def _kinds_of_spans(body: bytes) -> Iterator[str]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield "spans"
                if span.kind == _SERVER_KIND:
                    yield "server"
                elif not _MODEL.isdisjoint(attribute.key for attribute in span.attributes):
                    yield from _marks(span.SerializeToString())


def _marks(span: bytes) -> Iterator[str]:
    yield "llm"
    if SESSION.encode() in span:
        yield "session"
    if PROMPT.encode() in span:
        yield "content"


def _kinds_of_runs(body: bytes) -> Iterator[str]:
    """LangSmith's posts have a part for each member of a run, which is posted at its start and patched at its end."""
    runs: dict[bytes, bytes] = {}
    parts = body.split(body[: body.index(b"\r\n")])
    for part in parts:
        if (found := _RUN.search(part)) is not None and found[1] == b"post":
            runs[found[2]] = runs.get(found[2], b"") + part
    for run in runs.values():
        yield "spans"
        yield from _marks(run)


def _serve(app: Any, descriptors: list[int]) -> None:
    import uvicorn

    # Sockets of an inherited descriptor know their protocol, without which asyncio would not set TCP_NODELAY.
    listening = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    config = uvicorn.Config(app, loop="asyncio", http="h11", log_level="error", access_log=False)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(uvicorn.Server(config).serve(listening))


if __name__ == "__main__":
    _serve(
        make_app() if "BENCHMARK_VARIANT" in os.environ else GatewayAndReceivers(),
        [int(each) for each in sys.argv[1:]],
    )
