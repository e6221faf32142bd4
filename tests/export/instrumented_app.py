"""An app with one instrumentation at work, asked all that was promised; its spans go to Langfuse and a collector.

Run as ``python -m tests.export.instrumented_app CELL GATEWAY LANGFUSE COLLECTOR`` in the cell's environment.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import byline
from byline.asgi import AttributionMiddleware
from tests.export.client_requests import MESSAGES, MODEL, PARAMETERS, REQUESTS
from tests.matrix import setups

_stamped: Final[ContextVar[dict[str, Any] | None]] = ContextVar("stamped", default=None)


class Stamps(SpanProcessor):
    """Sets attributes on each span, as apps do that know a backend's names."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        span.set_attributes(_stamped.get() or {})


def main(cell: str, gateway: str, langfuse: str, collector: str) -> None:
    # Others capture content anyway.
    os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"
    setups.before(cell)
    byline.instrument(
        destinations=[
            byline.destinations.Langfuse("pk-lf-1", "sk-lf-1", langfuse),
            byline.destinations.OTLP(collector, spans="llm", conventions=["litellm"]),
        ],
        gateways=[byline.gateways.OpenRouter(base_url=gateway)],
        capture_content=True,
    )
    setups.after(cell)
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Stamps())
    # Some instrumentations patch only modules that are imported after them.
    import openai

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        async with openai.AsyncOpenAI(base_url=gateway, api_key="k", max_retries=0) as client:
            asked: Any = {key: body[key] for key in ("model", "messages", "tools") if key in body} | PARAMETERS
            if body["stream"]:
                stream: Any = await client.chat.completions.create(
                    **asked, stream=True, stream_options={"include_usage": True}
                )
                async for _ in stream:
                    pass
            else:
                # One of them is answered by an error, which is the app's to handle.
                with suppress(openai.APIStatusError):
                    await client.chat.completions.create(**asked)
        return JSONResponse({})

    # Whichever the SDK has brought.
    httpx: Any = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")

    async def send() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
            for asked in REQUESTS.values():
                _stamped.set(asked.stamped)
                body = {"model": MODEL, "messages": MESSAGES, "stream": asked.stream, **asked.body}
                assert (await client.post("/chat", json=body, headers=asked.headers)).status_code == 200

    # Masks are accepted by name only.
    trust = {"session", "user", "trace", "labels", "metadata", "masks"}
    app = AttributionMiddleware(Starlette(routes=[Route("/chat", chat, methods=["POST"])]), trust=trust)
    asyncio.run(send())
    assert byline.flush()
    byline.uninstrument()


if __name__ == "__main__":
    main(*sys.argv[1:])
