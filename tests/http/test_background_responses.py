"""Responses that are created in the background: their usage is stated when the app asks for them, and counted once."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
import requests.adapters
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

import byline
from byline.genai.server_span import set_request_attributes
from byline.genai.span_state import set_server_span
from byline.request_context import current_context
from byline.testing import Receiver
from tests.export.langfuse_model import observations

USAGE = {
    "input_tokens": 1200,
    "output_tokens": 800,
    "total_tokens": 2000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 100},
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "gpt-4o",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


def response(status: str, **more: Any) -> httpx2.Response:
    return httpx2.Response(200, json={**RESPONSE, "status": status, "background": True, **more})


class Backend:
    """OpenAI's API: what it answers to the next requests."""

    def __init__(self) -> None:
        self.answers: list[httpx2.Response] = []
        self.sent: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(request)
        return self.answers.pop(0)

    def client(self, key: str = "sk-0123456789abcdef") -> openai.OpenAI:
        return openai.OpenAI(api_key=key, http_client=httpx2.Client(transport=httpx2.MockTransport(self)))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def provider(receiver: Receiver) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    byline.instrument(
        tracer_provider=provider, destinations=[byline.destinations.Langfuse("pk-lf-1", "sk-lf-1", receiver.url)]
    )
    yield provider
    byline.uninstrument()


@pytest.fixture
def exported(provider: TracerProvider, receiver: Receiver) -> Callable[[], dict[str, Any]]:
    """Return the tokens that Langfuse shows, by the name of the span."""

    def read() -> dict[str, Any]:
        byline.flush()
        return {name: item.usage for name, item in observations(receiver.spans, "direct").items()}

    return read


COUNTED = {"input": 1200, "output": 700, "output_reasoning_tokens": 100}


def test_usage_is_on_a_span_of_the_request_that_gets_the_final_response(
    exported: Callable[[], dict[str, Any]], receiver: Receiver, provider: TracerProvider
) -> None:
    """However often the app asks, and in the totals of the request."""
    backend = Backend()
    backend.answers = [response("queued"), response("in_progress"), *(response("completed", usage=USAGE) for _ in "ab")]
    server: Any = provider.get_tracer("app").start_span("POST", kind=SpanKind.SERVER)
    with byline.bound(session_id="s-1"):
        context = current_context()
        assert context is not None
        set_server_span(context, server)
        client = backend.client()
        made = client.responses.create(model="gpt-4o", input="hello", background=True)
        for _ in range(3):
            made = client.responses.retrieve(made.id)
        assert made.usage is not None
        assert made.usage.total_tokens == 2000
        set_request_attributes(context)
    server.end()
    found = exported()
    assert found.keys() == {"chat gpt-4o", "fetch_response gpt-4o"}
    assert sum(found["fetch_response gpt-4o"].values()) == 2000
    assert sum(found["chat gpt-4o"].values()) == 0
    totals = {key: value for key, value in server.attributes.items() if key.startswith("byline.llm.") and value}
    assert (totals["byline.llm.calls"], totals["byline.llm.input_tokens"], totals["byline.llm.output_tokens"]) == (
        1,
        1200,
        800,
    )
    assert {span.attributes["session.id"] for span in receiver.spans} == {"s-1"}
    assert byline.stats()["calls"] == 1


def test_another_request_may_ask(exported: Callable[[], dict[str, Any]], receiver: Receiver) -> None:
    """As a browser does that polls. Nothing of the request that created the response is on its span."""
    backend = Backend()
    backend.answers = [response("queued"), response("completed", usage=USAGE), response("completed", usage=USAGE)]
    with byline.bound(session_id="s-1", user_id="ada"):
        backend.client().responses.create(model="gpt-4o", input="hello", background=True)
    for number in (2, 3):
        with byline.bound(session_id=f"s-{number}"):
            backend.client().responses.retrieve("resp_1")
    assert sum(exported()["fetch_response gpt-4o"].values()) == 2000
    (span,) = [span for span in receiver.spans if span.name.startswith("fetch")]
    assert (span.attributes["session.id"], span.attributes.get("user.id")) == ("s-2", None)


@pytest.mark.parametrize(
    "answer",
    [
        response("in_progress"),
        response("queued", usage=USAGE),
        response("completed", usage=USAGE, background=False),
        response("completed"),
        httpx2.Response(404, json={"error": {"message": "no such response"}}),
        httpx2.Response(200, text="no JSON"),
    ],
)
def test_other_replies_are_no_news(exported: Callable[[], dict[str, Any]], answer: httpx2.Response) -> None:
    """A response that was not created in the background has stated its usage then."""
    backend = Backend()
    backend.answers = [answer]
    with httpx2.Client(transport=httpx2.MockTransport(backend)) as client, byline.bound(session_id="s-1"):
        client.get("https://api.openai.com/v1/responses/resp_1")
    assert exported() == {}
    assert byline.stats().get("calls.without_request", 0) == 0


def test_usage_of_a_stream_in_the_background_is_counted_once(exported: Callable[[], dict[str, Any]]) -> None:
    """The stream states it, and so does the response that is fetched later."""
    event = {"type": "response.completed", "response": {**RESPONSE, "status": "completed", "usage": USAGE}}
    stream = httpx2.Response(
        200, headers={"content-type": "text/event-stream"}, content=f"data: {json.dumps(event)}\n\n".encode()
    )
    backend = Backend()
    backend.answers = [stream, response("completed", usage=USAGE)]
    with httpx2.Client(transport=httpx2.MockTransport(backend)) as client, byline.bound(session_id="s-1"):
        body = {"model": "gpt-4o", "input": "hello", "background": True, "stream": True}
        client.post("https://api.openai.com/v1/responses", json=body)
        client.get("https://api.openai.com/v1/responses/resp_1")
    assert sum(exported()["chat gpt-4o"].values()) == 2000
    assert exported().keys() == {"chat gpt-4o"}


def test_equal_ids_of_other_accounts_are_other_responses(exported: Callable[[], dict[str, Any]]) -> None:
    backend = Backend()
    backend.answers = [response("completed", usage=USAGE) for _ in range(3)]
    for key in ("sk-0123456789abcdef", "sk-fedcba9876543210", "sk-fedcba9876543210"):
        backend.client(key).responses.retrieve("resp_1")
    exported()
    assert byline.stats()["langfuse.spans.sent"] == 2


def test_an_instrumentations_span_gets_the_usage(
    exported: Callable[[], dict[str, Any]], provider: TracerProvider
) -> None:
    """Version 1.3b0 of OpenTelemetry's instrumentation makes a span ``fetch_response`` without usage."""
    backend = Backend()
    backend.answers = [response("in_progress"), response("completed", usage=USAGE)]
    tracer = provider.get_tracer("opentelemetry.instrumentation.genai.openai")
    attributes = {"gen_ai.operation.name": "fetch_response", "gen_ai.request.model": "gpt-4o"}
    for name in ("first", "second"):
        with byline.bound(session_id="s-1"), tracer.start_as_current_span(name, attributes=attributes):
            backend.client().responses.retrieve("resp_1")
    found = exported()
    assert found.keys() == {"first", "second"}
    assert sum(found["second"].values()) == 2000
    assert sum(found["first"].values()) == 0


@pytest.mark.parametrize("path", ["/v1/responses/resp_1/input_items", "/v1/responses/other", "/responses/resp_1/x"])
def test_other_requests_are_not_read(exported: Callable[[], dict[str, Any]], path: str) -> None:
    backend = Backend()
    backend.answers = [response("completed", usage=USAGE)]
    with httpx2.Client(transport=httpx2.MockTransport(backend)) as client:
        client.get(f"https://api.openai.com{path}")
    assert exported() == {}


class Canned(requests.adapters.BaseAdapter):
    """Answers each request with the final response."""

    def send(self, request: Any, *_: Any, **__: Any) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 200, request.url, request
        answer.raw = io.BytesIO(
            json.dumps({**RESPONSE, "status": "completed", "background": True, "usage": USAGE}).encode()
        )
        return answer

    def close(self) -> None:
        """Hold nothing."""


def test_requests_reads_them_too(exported: Callable[[], dict[str, Any]]) -> None:
    with requests.Session() as session, byline.bound(session_id="s-1"):
        session.mount("https://", Canned())
        assert session.get("https://api.openai.com/v1/responses/resp_1").json()["usage"] == USAGE
        assert session.get("https://api.openai.com/v1/models").status_code == 200
    assert sum(exported()["fetch_response gpt-4o"].values()) == 2000


async def get_twice_with_aiohttp() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({**RESPONSE, "status": "completed", "background": True, "usage": USAGE})

    app = web.Application()
    app.router.add_get("/v1/responses/resp_1", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(server.make_url("/v1/responses/resp_1")) as response:
                assert (await response.json())["usage"] == USAGE


def test_aiohttp_reads_them_too(exported: Callable[[], dict[str, Any]]) -> None:
    with byline.bound(session_id="s-1"):
        asyncio.run(get_twice_with_aiohttp())
    assert sum(exported()["fetch_response gpt-4o"].values()) == 2000


def prediction(status: str, **more: Any) -> httpx2.Response:
    return httpx2.Response(200, json={"id": "p-1", "model": "meta/llama-4", "status": status, "error": None, **more})


DONE = {"metrics": {"predict_time": 1.5, "input_token_count": 1200, "output_token_count": 800}}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([prediction("starting"), prediction("processing"), prediction("succeeded", **DONE)] * 2, "fetch_response"),
        ([prediction("succeeded", **DONE)] * 3, "generate_content"),
    ],
    ids=["asked for", "waited for"],
)
def test_predictions_of_replicate_are_counted_once(
    answers: list[httpx2.Response], expected: str, exported: Callable[[], dict[str, Any]]
) -> None:
    """They may be done when they are created, or when the app asks."""
    backend = Backend()
    backend.answers = answers
    with httpx2.Client(transport=httpx2.MockTransport(backend)) as client, byline.bound(session_id="s-1"):
        url = "https://api.replicate.com/v1/models/meta/llama-4/predictions"
        client.post(url, json={"input": {"prompt": "hello"}})
        for _ in range(2):
            client.get("https://api.replicate.com/v1/predictions/p-1")
    found = exported()
    tokens = {name: sum(usage.values()) for name, usage in found.items() if sum(usage.values())}
    assert tokens == {f"{expected} meta/llama-4": 2000}


def test_predictions_that_were_made_elsewhere_are_not_counted(exported: Callable[[], dict[str, Any]]) -> None:
    """An app that shows old ones asks for them again and again, in each of its processes."""
    backend = Backend()
    backend.answers = [prediction("succeeded", **DONE)]
    with httpx2.Client(transport=httpx2.MockTransport(backend)) as client, byline.bound(session_id="s-1"):
        client.get("https://api.replicate.com/v1/predictions/p-1")
    assert exported() == {}


def test_nothing_is_added_to_the_request(provider: TracerProvider) -> None:
    """It is sent to the provider as the app has made it."""
    backend = Backend()
    backend.answers = [response("completed", usage=USAGE)] * 2
    with httpx2.Client(transport=httpx2.MockTransport(backend)) as client:
        for session in (None, "s-1"):
            with byline.bound(session_id=session):
                client.get("https://openrouter.ai/api/v1/responses/resp_1")
    assert backend.sent[0].headers == backend.sent[1].headers
