"""The demo's apps: an OpenAI-shaped chat API in front of a gateway, with FastAPI and with Flask."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import flask
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from openai import AsyncOpenAI, OpenAI

from byline import asgi, wsgi


def make_fastapi(base_url: str) -> Any:
    """Return a FastAPI app whose LLM spans are signed by one line of middleware."""
    client = AsyncOpenAI(base_url=base_url, api_key="demo")
    app = FastAPI()
    app.add_middleware(asgi.AttributionMiddleware)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.json()
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

    return app


def make_flask(base_url: str) -> Any:
    """Return a Flask app whose LLM spans are signed by one line of middleware."""
    client = OpenAI(base_url=base_url, api_key="demo")
    app: Any = flask.Flask("demo")
    app.wsgi_app = wsgi.AttributionMiddleware(app.wsgi_app)

    @app.post("/v1/chat/completions")  # type: ignore[untyped-decorator]
    def chat() -> Any:
        body = flask.request.get_json()
        answer: Any = client.chat.completions.create(
            model=body["model"], messages=body["messages"], stream=bool(body.get("stream"))
        )
        if not body.get("stream"):
            return flask.jsonify(answer.model_dump(mode="json"))

        def lines() -> Iterator[str]:
            for chunk in answer:
                yield f"data: {chunk.model_dump_json()}\n\n"
            yield "data: [DONE]\n\n"

        return flask.Response(lines(), mimetype="text/event-stream")

    return app
