"""The app of the integration tests: ``uvicorn tests.integration.attributed_app:app``.

It speaks OpenAI's chat API to its callers, and to the gateway that OPENAI_BASE_URL names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from openai import AsyncOpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from starlette.responses import JSONResponse, Response, StreamingResponse

import byline
from byline.asgi import AttributionMiddleware

byline.instrument()
OpenAIInstrumentor().instrument()

app = FastAPI()
app.add_middleware(AttributionMiddleware)
client = AsyncOpenAI()


@app.get("/up")
async def up() -> dict[str, bool]:
    return {"up": True}


@app.get("/flush")
async def flush() -> dict[str, bool]:
    return {"flushed": byline.flush(20)}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body: dict[str, Any] = await request.json()
    answer: Any = await client.chat.completions.create(
        model=body["model"], messages=body["messages"], stream=bool(body.get("stream"))
    )
    if not body.get("stream"):
        return JSONResponse(answer.model_dump(mode="json"))

    async def lines() -> AsyncIterator[str]:
        async for chunk in answer:
            yield f"data: {chunk.model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
