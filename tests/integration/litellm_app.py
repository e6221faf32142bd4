"""The app of the tests with a LiteLLM proxy: ``uvicorn tests.integration.litellm_app:app``.

It asks the proxy that LITELLM_URL names, with the OpenAI SDK, and hands back the headers of its reply.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, Request
from openai import APIStatusError, AsyncOpenAI
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

import byline
from byline.asgi import AttributionMiddleware
from byline.gateways import LiteLLM

PROXY = os.environ["LITELLM_URL"]
# LiteLLM may route by tags: those of callers are sent only if the operator names them.
byline.instrument(gateways=[LiteLLM(PROXY, broadcasts=os.environ.get("BROADCASTS") == "1", forward_claims={"tags"})])

if os.environ.get("INSTRUMENTED") == "1":
    OpenAIInstrumentor().instrument()

app = FastAPI()
app.add_middleware(AttributionMiddleware, trust={"session", "user", "trace", "labels", "metadata", "masks"})
client = AsyncOpenAI(base_url=f"{PROXY}/v1", max_retries=0)


@app.get("/up")
async def up() -> dict[str, bool]:
    return {"up": True}


@app.get("/flush")
async def flush() -> dict[str, bool]:
    return {"flushed": byline.flush(20)}


@app.post("/ask")
async def ask(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = await request.json()
    options: dict[str, Any] = {"model": "smart", "messages": [{"role": "user", "content": body["question"]}]}
    if body.get("stream"):
        options |= {"stream": True, "stream_options": {"include_usage": bool(body.get("include_usage"))}}
    try:
        reply = await client.chat.completions.with_raw_response.create(**options)
    except APIStatusError as error:
        return {"status": error.status_code, "headers": dict(error.response.headers)}
    answer: Any = reply.parse()
    chunks = [chunk.model_dump() async for chunk in answer] if body.get("stream") else [answer.model_dump()]
    return {"status": 200, "headers": dict(reply.headers), "last": chunks[-1]}
