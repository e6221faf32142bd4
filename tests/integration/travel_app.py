"""A travel assistant whose conversations fill the pages of a backend: a stream, a tool call, an image, an error.

Used by the tests against Phoenix, and by ``python -m tests.pictures``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastapi import FastAPI, Request
from openai import APIError, AsyncOpenAI
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

import byline
from byline.asgi import AttributionMiddleware
from byline.export import OTLP, Destination
from byline.gateways import OpenRouter
from byline.testing import Gateway
from tests.export.client_requests import OPENROUTER

MODEL: Final = "openai/gpt-4o"
PIXEL: Final = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ" * 12
WEATHER: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city today",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def send_conversations(phoenix: str, project: str, *, spans: str = "all", prefix: str = "") -> int:
    """Hold three conversations, in a process of their own. Returns how many spans Phoenix has accepted.

    Args:
        phoenix: The base URL of Phoenix.
        project: The project in Phoenix.
        spans: Which spans the destination gets.
        prefix: Put before the ids of sessions and traces, to tell conversations in one backend apart.
    """
    command = [sys.executable, "-m", __name__, phoenix, project, spans, prefix]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    return int(output.splitlines()[-1])


def main(phoenix: str, project: str, spans: Any, prefix: str) -> None:
    """Hold the conversations in this process, and print how many spans were accepted."""
    destination = OTLP(phoenix, conventions=["openinference"], spans=spans)
    with _running(destination, project) as (gateway, app), TestClient(app) as client:
        _talk_about_travel(gateway, client, f"{prefix}trip-to-lisbon")
        _talk_about_photos(gateway, client, f"{prefix}holiday-photos")
        _summarize(gateway, client, prefix)
        assert byline.flush(20)
        print(byline.stats()["otlp.spans.sent"])


@contextmanager
def _running(destination: Destination, project: str) -> Iterator[tuple[Gateway, Any]]:
    resource = Resource.create({"service.name": "travel-assistant", "openinference.project.name": project})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    trace.set_tracer_provider(provider)
    with Gateway() as gateway:
        byline.instrument(
            destinations=[destination],
            gateways=[OpenRouter(gateway.base_url)],
            capture_content=True,
        )
        try:
            yield gateway, _make_app(gateway.base_url, provider.get_tracer("travel_app"))
        finally:
            byline.uninstrument()


def _make_app(base_url: str, tracer: trace.Tracer) -> FastAPI:
    app = FastAPI()
    app.add_middleware(AttributionMiddleware)
    client = AsyncOpenAI(base_url=base_url, api_key="k", max_retries=0)

    @app.post("/chat")
    async def chat(request: Request) -> Response:
        body = await request.json()
        messages = body["messages"]
        try:
            if body.get("stream"):
                pieces = [
                    chunk.choices[0].delta.content or ""
                    async for chunk in await client.chat.completions.create(
                        model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
                    )
                    if chunk.choices
                ]
                return JSONResponse({"answer": "".join(pieces)})
            tools: Any = {"tools": [WEATHER]} if body.get("tools") else {}
            reply = (await client.chat.completions.create(model=MODEL, messages=messages, **tools)).choices[0].message
            for call in reply.tool_calls or ():
                function: Any = getattr(call, "function", None)
                messages = [*messages, reply.model_dump(exclude_none=True), _run_tool(tracer, call.id, function)]
                reply = (await client.chat.completions.create(model=MODEL, messages=messages)).choices[0].message
        except APIError as error:
            return JSONResponse({"error": error.message}, status_code=503)
        return JSONResponse({"answer": reply.content})

    return app


def _run_tool(tracer: trace.Tracer, identifier: str, function: Any) -> dict[str, str]:
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": function.name,
        "gen_ai.tool.call.id": identifier,
        "gen_ai.tool.call.arguments": function.arguments,
    }
    with tracer.start_as_current_span(f"execute_tool {function.name}", attributes=attributes) as span:
        result = json.dumps({"temperature": 24, "sky": "sunny"})
        span.set_attribute("gen_ai.tool.call.result", result)
    return {"role": "tool", "tool_call_id": identifier, "content": result}


def _talk_about_travel(gateway: Gateway, client: TestClient, session: str) -> None:
    history: list[dict[str, str]] = []

    def ask(question: str, **more: Any) -> None:
        history.append({"role": "user", "content": question})
        answer = _post(client, session, "ada", history, **more)
        history.append({"role": "assistant", "content": answer.json()["answer"]})

    gateway.answer(_stream("Lisbon is warm and not crowded in May. ", "Porto is a close second."))
    ask("Where should I go in May?", stream=True)
    gateway.answer(_reply(None, tool_call=("get_weather", {"city": "Lisbon"}), tokens=(71, 17)))
    gateway.answer(_reply("It is sunny in Lisbon, 24 degrees: pack light.", tokens=(104, 14)))
    ask("What is the weather in Lisbon?", tools=True)
    gateway.answer(_reply("Three days are enough for the old town, Belém and Sintra.", tokens=(131, 16)))
    ask("How long should I stay?")


def _talk_about_photos(gateway: Gateway, client: TestClient, session: str) -> None:
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    question = [{"role": "user", "content": [{"type": "text", "text": "Where was this photo taken?"}, image]}]
    gateway.answer(_reply("This is the tower of Belém, seen from the river.", tokens=(812, 13)))
    _post(client, session, "bob", question)
    gateway.answer({"error": {"message": "Rate limit exceeded: try again in 20 s.", "code": 429}}, 429)
    _post(client, session, "bob", [{"role": "user", "content": "And in which year?"}])


def _summarize(gateway: Gateway, client: TestClient, prefix: str) -> None:
    workflow = {**OPENROUTER["trace"], "trace_id": f"{prefix}workflow_12345"}
    for question, answer in (
        ("Summarize the contract.", "The contract runs for two years and renews itself."),
        ("Now in five words.", "Two years, renews, cancel early."),
    ):
        gateway.answer(_reply(answer, tokens=(420, 12)))
        session = f"{prefix}session_abc"
        _post(client, session, "user_12345", [{"role": "user", "content": question}], trace=workflow)


def _post(client: TestClient, session: str, user: str, messages: list[Any], **more: Any) -> Any:
    body = {"messages": messages, "user": user, "metadata": {"plan": "gold"}, **more}
    return client.post("/chat", json=body, headers={"x-session-id": session})


def _reply(
    content: str | None, *, tokens: tuple[int, int], tool_call: tuple[str, dict[str, str]] | None = None
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if tool_call is not None:
        function = {"name": tool_call[0], "arguments": json.dumps(tool_call[1])}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    return {
        "id": f"gen-{tokens[0]}-{tokens[1]}",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if tool_call else "stop"}],
        "usage": _usage(*tokens),
    }


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    cost = prompt * 2.5e-6 + completion * 1e-5
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "cost": cost}


def _stream(*pieces: str) -> list[bytes]:
    head = {"id": "gen-stream", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}]}
        for piece in pieces
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**head, "choices": [], "usage": _usage(27, 18)})
    return [*(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks), b"data: [DONE]\n\n"]


if __name__ == "__main__":
    main(*sys.argv[1:])
