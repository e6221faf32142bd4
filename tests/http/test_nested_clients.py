"""Clients on top of other clients, retries, cancellation, and requests that are sent again."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import httpx
import httpx2
import openai
import pytest
import requests
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import StatusCode

import byline
from byline import http, request_context
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}
STREAM: Any = {**CHAT, "stream": True}


def url_of(gateway: Gateway) -> str:
    return f"{gateway.base_url}/chat/completions"


class OverRequests(httpx.BaseTransport):
    """Sends `Request.content` through another client, as transports for aiohttp do."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = requests.post(str(request.url), data=request.content, headers=dict(request.headers))
        return httpx.Response(answer.status_code, headers={"content-type": "application/json"}, content=answer.content)


def test_request_through_two_clients_is_one_call(gateway: Gateway, finished: Finished) -> None:
    """The second client sends the body with the ids, and its length."""
    with byline.bound(session_id="s-1", user_id="ada"), httpx.Client(transport=OverRequests()) as client:
        owner = request_context.current_context()
        assert client.post(url_of(gateway), json=CHAT).status_code == 200
    assert owner is not None
    assert owner.totals.calls == 1
    assert len([span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]) == 1
    (request,) = gateway.requests
    assert json.loads(request.body)["user"] == "ada"


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_request_can_be_sent_again_for_another_user(module: Any, gateway: Gateway) -> None:
    """Each sending has the ids of its own request context."""
    with module.Client() as client:
        request = client.build_request("POST", url_of(gateway), json=CHAT)
        before = (dict(request.headers), request.content)
        for user in ("ada", "bob"):
            with byline.bound(session_id=f"session-{user}", user_id=user):
                client.send(request)
            assert (dict(request.headers), request.content) == before
    assert [json.loads(sent.body)["user"] for sent in gateway.requests] == ["ada", "bob"]
    assert [sent.headers["x-session-id"] for sent in gateway.requests] == ["session-ada", "session-bob"]


def test_unread_error_response_of_requests_ends_its_call(gateway: Gateway, finished: Finished) -> None:
    """The call ends when the response is garbage-collected."""
    gateway.fail(500)
    answer = requests.post(url_of(gateway), json=STREAM, stream=True)
    with pytest.raises(requests.HTTPError) as caught:
        answer.raise_for_status()
    assert not finished()
    del answer, caught
    gc.collect()
    byline.flush()
    (span,) = finished()
    assert span.status.status_code is StatusCode.ERROR


def test_successful_retry_removes_the_error_of_the_attempt_before(gateway: Gateway, finished: Finished) -> None:
    """One span covers all attempts of an SDK."""
    gateway.fail(429, headers={"retry-after": "0"})
    tracer = trace.get_tracer("opentelemetry.instrumentation.openai_v2")
    with (
        tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}),
        openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=1) as client,
    ):
        client.chat.completions.create(**CHAT)
    (span,) = finished()
    attributes = span.attributes or {}
    assert attributes["http.response.status_code"] == 200
    assert "error.type" not in attributes
    assert "byline.error.message" not in attributes
    assert attributes["gen_ai.usage.output_tokens"]


def test_call_during_a_stream_does_not_use_the_span_of_the_stream(gateway: Gateway, finished: Finished) -> None:
    """The span of the stream is still the current span."""
    tracer = trace.get_tracer("pydantic-ai")
    with (
        tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}) as outer,
        httpx2.Client() as client,
        client.stream("POST", url_of(gateway), json=STREAM) as stream,
    ):
        for _ in stream.iter_bytes():
            client.post(url_of(gateway), json={**CHAT, "model": "other/model"})
            break
    own, stream_span = finished()
    assert own.parent == outer.get_span_context()
    assert (own.attributes or {})["gen_ai.request.model"] == "other/model"
    assert (stream_span.attributes or {})["gen_ai.request.model"] == "openai/gpt-4o"


def test_request_without_the_members_of_an_llm_api_is_no_call(gateway: Gateway, finished: Finished) -> None:
    """Many other APIs have paths that end in ``/messages``."""
    with httpx2.Client() as client, Gateway() as other:
        client.post(f"{other.url}/channels/1/messages", json={"content": "hello"})
        client.post(f"{other.url}/v1/completions", content=b"no JSON")
        client.post(f"{other.url}/agents/invoke", json={"input": "x"})
    assert not finished()


def test_suppressed_instrumentation_creates_no_span(gateway: Gateway, finished: Finished) -> None:
    """By OpenTelemetry's key, or by that of LLM instrumentations."""
    with httpx2.Client() as client:
        with suppress_instrumentation():
            client.post(url_of(gateway), json=CHAT)
        token = otel_context.attach(otel_context.set_value("suppress_language_model_instrumentation", True))
        try:
            client.post(url_of(gateway), json=CHAT)
        finally:
            otel_context.detach(token)
    assert not finished()


@pytest.mark.parametrize("first", ["byline", "opentelemetry"])
def test_works_beside_opentelemetrys_httpx_instrumentation(
    first: str, provider: TracerProvider, finished: Finished
) -> None:
    """In either order: one LLM span with the HTTP span below, and all patches are removed."""
    send = httpx.Client.send
    handle = httpx.HTTPTransport.handle_request

    def install() -> None:
        http.install(tracer_provider=provider, gateways=[], clients={"httpx"}, llm_spans="auto", capture_content=False)

    theirs = HTTPXClientInstrumentor()
    steps = [install, lambda: theirs.instrument(tracer_provider=provider)]
    for step in steps if first == "byline" else reversed(steps):
        step()
    try:
        with Gateway() as gateway, httpx.Client() as client:
            assert client.post(url_of(gateway), json=CHAT).status_code == 200
    finally:
        for undo in [http.uninstall, theirs.uninstrument]:
            undo()
    client_span, llm = finished()
    assert llm.name == "chat openai/gpt-4o"
    assert client_span.parent == llm.get_span_context()
    assert httpx.Client.send is send
    assert httpx.HTTPTransport.handle_request is handle


def test_cancelled_call_is_an_error(gateway: Gateway, finished: Finished) -> None:
    """The app gets its own exception."""
    gateway.hang()

    async def ask() -> None:
        async with httpx2.AsyncClient() as client:
            await asyncio.wait_for(client.post(url_of(gateway), json=CHAT), 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(ask())
    gateway.release()
    (span,) = finished()
    assert (span.attributes or {})["error.type"] == "CancelledError"
    assert span.status.status_code is StatusCode.ERROR


def test_timeout_is_the_error_type_of_the_call(gateway: Gateway, finished: Finished) -> None:
    """The gateway does not respond."""
    gateway.hang()
    with httpx2.Client(timeout=0.2) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(url_of(gateway), json=CHAT)
    gateway.release()
    (span,) = finished()
    assert (span.attributes or {})["error.type"] == "ReadTimeout"


def test_concurrent_calls_keep_their_results_apart(gateway: Gateway, finished: Finished) -> None:
    """Each span has the session and the model of its own task."""

    async def ask(client: Any, number: int) -> None:
        with byline.bound(session_id=f"s-{number}"):
            stream = await client.chat.completions.create(
                model=f"openai/model-{number}", messages=CHAT["messages"], stream=bool(number % 2)
            )
            if number % 2:
                async for _ in stream:
                    pass

    async def ask_all() -> None:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="k") as client:
            await asyncio.gather(*(ask(client, number) for number in range(40)))

    asyncio.run(ask_all())
    found = {span.attributes["session.id"]: dict(span.attributes) for span in finished() if span.attributes}
    assert len(found) == len(finished()) == 40
    for number in range(40):
        attributes = found[f"s-{number}"]
        assert attributes["gen_ai.response.model"] == f"openai/model-{number}"
        assert bool(attributes.get("gen_ai.request.stream")) is bool(number % 2)


def test_stream_inside_a_streamed_response_counts_for_its_request(gateway: Gateway) -> None:
    """The server span ends after the body."""
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    from byline.asgi import AttributionMiddleware
    from byline.testing import capture_spans
    from tests.support import claim, run_asgi

    async def chat(request: Any) -> StreamingResponse:
        async def body() -> Any:
            async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="k") as client:
                stream: Any = await client.chat.completions.create(**STREAM)
                async for _ in stream:
                    yield b"."

        return StreamingResponse(body())

    app = AttributionMiddleware(Starlette(routes=[Route("/chat", chat, methods=["POST"])]))
    with capture_spans() as spans:
        asyncio.run(run_asgi(app, claim({"user": "u"}, path="/chat")))
    server = next(span for span in spans if span.kind is trace.SpanKind.SERVER)
    llm = next(span for span in spans if span.name.startswith("chat "))
    assert (server.attributes or {})["byline.llm.calls"] == 1
    assert (server.attributes or {})["byline.llm.cost"] == (llm.attributes or {})["gen_ai.usage.cost"]
    assert llm.parent == server.get_span_context()
    assert (llm.attributes or {})["user.id"] == "u"


@pytest.mark.parametrize("first", ["byline", "opentelemetry"])
def test_works_beside_opentelemetrys_requests_instrumentation(
    first: str, provider: TracerProvider, finished: Finished
) -> None:
    """In either order there is one LLM span, although that instrumentation suppresses nested HTTP spans."""

    def install() -> None:
        http.install(tracer_provider=provider, gateways=[], clients="auto", llm_spans="auto", capture_content=False)

    theirs = RequestsInstrumentor()
    steps = [install, lambda: theirs.instrument(tracer_provider=provider)]
    undo = [http.uninstall, theirs.uninstrument]
    for step in steps if first == "byline" else reversed(steps):
        step()
    try:
        with Gateway() as gateway:
            assert requests.post(url_of(gateway), json=CHAT).status_code == 200
    finally:
        for step in reversed(undo) if first == "byline" else undo:
            step()
    assert sorted(span.name for span in finished()) == ["POST", "chat openai/gpt-4o"]


def test_successful_retry_removes_the_error_of_a_broken_connection(gateway: Gateway, finished: Finished) -> None:
    """Such an error has a type and no message."""
    gateway.fail(0)
    tracer = trace.get_tracer("opentelemetry.instrumentation.openai_v2")
    with (
        tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}),
        openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=1) as client,
    ):
        client.chat.completions.create(**CHAT)
    (span,) = finished()
    assert "error.type" not in (span.attributes or {})
    assert (span.attributes or {})["http.response.status_code"] == 200
