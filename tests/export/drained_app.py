"""An app with one instrumentation at work, asked once whole and once as a stream; its spans go to Langfuse.

Run in the instrumentation's own environment: ``python -m tests.export.drained_app CELL GATEWAY LANGFUSE``.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import byline
from byline.asgi import AttributionMiddleware
from tests.matrix import setups

BODY: dict[str, Any] = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "user", "content": "Summarize this document..."}],
    "user": "user_12345",
    "session_id": "session_abc",
    "trace": {
        "trace_id": "workflow_12345",
        "trace_name": "Document Processing Pipeline",
        "span_name": "Summarization Step",
        "generation_name": "Generate Summary",
        "environment": "production",
        "pipeline_version": "2.1.0",
    },
}


def main(cell: str, gateway: str, langfuse: str) -> None:
    setups.before(cell)
    byline.instrument(
        destinations=[byline.destinations.Langfuse("pk-lf-1", "sk-lf-1", langfuse)],
        gateways=[byline.gateways.OpenRouter(base_url=gateway)],
    )
    setups.after(cell)
    # Not before: some instrumentations patch what is imported after them alone.
    import openai

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        async with openai.AsyncOpenAI(base_url=gateway, api_key="k") as client:
            asked: Any = {"model": body["model"], "messages": body["messages"], "temperature": 0.2}
            if body.get("stream"):
                stream: Any = await client.chat.completions.create(
                    **asked, stream=True, stream_options={"include_usage": True}
                )
                async for _ in stream:
                    pass
            else:
                await client.chat.completions.create(**asked)
        return JSONResponse({})

    # Whichever the SDK has brought.
    httpx: Any = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")

    async def send() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            for stream in (False, True):
                assert (await client.post("/chat", json={**BODY, "stream": stream})).status_code == 200

    app = AttributionMiddleware(Starlette(routes=[Route("/chat", chat, methods=["POST"])]))
    asyncio.run(send())
    assert byline.flush()
    byline.uninstrument()


if __name__ == "__main__":
    main(*sys.argv[1:])
