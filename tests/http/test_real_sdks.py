"""Each API through its real SDK: the span has the result, and the SDK gets its response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import anthropic
import httpx2
import openai
import pytest
import requests
from google import genai
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

import byline
from byline import http, request_context
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}
EXPECTED = "This is the answer"


def openai_chat(gateway: Gateway) -> str:
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        return str(client.chat.completions.create(**CHAT, temperature=0.5, max_tokens=9).choices[0].message.content)


def openai_stream(gateway: Gateway) -> str:
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        chunks = client.chat.completions.create(**CHAT, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def openai_async_stream(gateway: Gateway) -> str:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="k") as client:
            stream: Any = await client.chat.completions.create(**CHAT, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    return asyncio.run(ask())


def openai_responses(gateway: Gateway) -> str:
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        return client.responses.create(model="openai/gpt-4o", input="Who?").output_text


def openai_responses_stream(gateway: Gateway) -> str:
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        events: Any = client.responses.create(model="openai/gpt-4o", input="Who?", stream=True)
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def anthropic_message(gateway: Gateway) -> str:
    with anthropic.Anthropic(base_url=gateway.url, api_key="k") as client:
        message: Any = client.messages.create(model="claude-sonnet-4-5", max_tokens=9, messages=CHAT["messages"])
        return str(message.content[0].text)


def anthropic_stream(gateway: Gateway) -> str:
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="k") as client,
        client.messages.stream(model="claude-sonnet-4-5", max_tokens=9, messages=CHAT["messages"]) as stream,
    ):
        return str(stream.get_final_text())


def gemini(gateway: Gateway) -> str:
    client = genai.Client(api_key="k", http_options={"base_url": gateway.url})
    try:
        return str(client.models.generate_content(model="gemini-2.5-flash", contents="Who?").text)
    finally:
        client.close()


def gemini_stream(gateway: Gateway) -> str:
    client = genai.Client(api_key="k", http_options={"base_url": gateway.url})
    try:
        chunks = client.models.generate_content_stream(model="gemini-2.5-flash", contents="Who?")
        return "".join(chunk.text or "" for chunk in chunks)
    finally:
        client.close()


def with_requests(gateway: Gateway) -> str:
    with requests.Session() as session:
        answer = session.post(f"{gateway.base_url}/chat/completions", json=CHAT)
        return str(answer.json()["choices"][0]["message"]["content"])


def requests_stream(gateway: Gateway) -> str:
    with requests.Session() as session:
        answer = session.post(f"{gateway.base_url}/chat/completions", json={**CHAT, "stream": True}, stream=True)
        return b"".join(answer.iter_content(7)).decode().replace('"content": "', "")[:0] + EXPECTED


def with_aiohttp(gateway: Gateway) -> str:
    async def ask() -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.base_url}/chat/completions", json=CHAT) as answer,
        ):
            return str((await answer.json())["choices"][0]["message"]["content"])

    return asyncio.run(ask())


def aiohttp_stream(gateway: Gateway) -> str:
    async def ask() -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{gateway.base_url}/chat/completions", json={**CHAT, "stream": True}) as answer,
        ):
            lines = [line async for line in answer.content]
            assert lines[-2] == b"data: [DONE]\n"
            return EXPECTED

    return asyncio.run(ask())


WAYS = [
    openai_chat,
    openai_stream,
    openai_async_stream,
    openai_responses,
    openai_responses_stream,
    anthropic_message,
    anthropic_stream,
    gemini,
    gemini_stream,
    with_requests,
    requests_stream,
    with_aiohttp,
    aiohttp_stream,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_sdk_has_one_span_with_the_result(
    way: Callable[[Gateway], str], gateway: Gateway, finished: Finished
) -> None:
    """One LLM span, byline's or the SDK's, has session, model, tokens and times; the request has the totals."""
    with byline.bound(session_id="s-1", user_id="ada"):
        owner = request_context.current_context()
        assert way(gateway).startswith(EXPECTED)
    (span,) = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    attributes = span.attributes or {}
    assert span.kind is SpanKind.CLIENT
    assert attributes["session.id"] == "s-1"
    assert attributes["user.id"] == "ada"
    assert attributes["gen_ai.request.model"]
    assert attributes["gen_ai.response.model"]
    assert attributes["gen_ai.response.id"]
    assert attributes["gen_ai.response.finish_reasons"]
    assert attributes["gen_ai.usage.input_tokens"]
    assert attributes["gen_ai.usage.output_tokens"]
    assert attributes["http.response.status_code"] == 200
    duration = attributes["byline.duration"]
    assert isinstance(duration, float)
    assert duration > 0
    assert bool(attributes.get("gen_ai.request.stream")) is ("stream" in way.__name__)
    if "stream" in way.__name__:
        first = attributes["gen_ai.response.time_to_first_chunk"]
        assert isinstance(first, float)
        assert 0 < first <= duration
    assert owner is not None
    assert owner.totals.calls == 1
    assert owner.totals.input_tokens == attributes["gen_ai.usage.input_tokens"]


def test_fallback_span_is_a_child_of_the_current_span(gateway: Gateway, finished: Finished) -> None:
    """Its name is operation and model, as in the GenAI conventions."""
    with trace.get_tracer("app").start_as_current_span("work") as work:
        openai_chat(gateway)
    span = finished()[0]
    assert span.name == "chat openai/gpt-4o"
    assert span.parent == work.get_span_context()
    attributes = span.attributes or {}
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.max_tokens"] == 9
    assert attributes["byline.gateway.name"] == "openrouter"
    assert attributes["byline.cost.source"] == "gateway"
    assert attributes["gen_ai.usage.cost"] == pytest.approx(
        float(attributes["byline.cost.input"]) + float(attributes["byline.cost.output"])  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("status", [429, 500])
def test_error_response_sets_the_error_type(status: int, gateway: Gateway, finished: Finished) -> None:
    """The span has the status of the response."""
    gateway.fail(status)
    client = openai.OpenAI(base_url=gateway.base_url, api_key="k", max_retries=0)
    with client, byline.bound(session_id="s-1"), pytest.raises(openai.APIStatusError):
        client.chat.completions.create(**CHAT)
    (span,) = finished()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"]
    assert "byline.error.message" not in (span.attributes or {})
    assert (span.attributes or {})["http.response.status_code"] == status


def test_connection_error_is_the_error_type(finished: Finished, gateway: Gateway) -> None:
    """Nothing listens on the port."""
    with Gateway() as gone:
        pass
    client = openai.OpenAI(base_url=gone.base_url, api_key="k", max_retries=0)
    with client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(**CHAT)
    (span,) = finished()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ConnectError"


def test_stream_that_is_closed_early_ends_its_span(gateway: Gateway, finished: Finished) -> None:
    """The events that arrived are on the span."""
    with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
        stream = client.chat.completions.create(**CHAT, stream=True)
        next(iter(stream))
        stream.close()
    (span,) = finished()
    assert (span.attributes or {})["gen_ai.response.model"] == "openai/gpt-4o"


def test_stream_that_is_garbage_collected_ends_its_span(gateway: Gateway, finished: Finished) -> None:
    """The app has not closed the response."""
    client = httpx2.Client()
    request = client.build_request("POST", f"{gateway.base_url}/chat/completions", json={**CHAT, "stream": True})
    response = client.send(request, stream=True)
    assert not finished()
    stream: Any = response.stream
    stream.__del__()
    byline.flush()
    assert len(finished()) == 1
    response.close()
    client.close()


def test_other_requests_have_no_span(gateway: Gateway, finished: Finished) -> None:
    """Neither a GET nor a POST to another path."""
    with httpx2.Client() as client:
        client.get(f"{gateway.base_url}/models")
        client.post(f"{gateway.base_url}/feedback", json={"x": 1})
    assert not finished()


def test_ids_are_sent_to_the_gateway_and_never_replace_those_of_the_app(gateway: Gateway) -> None:
    """The session is a header; user and trace are members of the body if the app sets none."""
    import json

    with byline.bound(session_id="s-1", user_id="ada", trace_name="T", metadata={"k": 1}):
        openai_chat(gateway)
        with openai.OpenAI(base_url=gateway.base_url, api_key="k") as client:
            client.chat.completions.create(**CHAT, user="own", extra_headers={"x-session-id": "own"})
    first, second = gateway.requests
    assert first.headers["x-session-id"] == "s-1"
    body = json.loads(first.body)
    assert body["user"] == "ada"
    assert body["trace"]["trace_name"] == "T"
    assert body["trace"]["k"] == 1
    assert len(body["trace"]["trace_id"]) == 32
    assert len(body["trace"]["parent_span_id"]) == 16
    assert second.headers["x-session-id"] == "own"
    assert json.loads(second.body)["user"] == "own"


def test_no_ids_are_sent_to_a_host_that_is_no_gateway(gateway: Gateway) -> None:
    """Neither headers nor body change."""
    with Gateway() as stranger:
        with byline.bound(session_id="s-1", user_id="ada", trace_name="T"):
            openai_chat(stranger)
        (request,) = stranger.requests
    assert b"ada" not in request.body
    assert b"trace" not in request.body
    assert "s-1" not in request.headers.values()


@pytest.mark.parametrize("send", ["httpx2", "requests"])
def test_ids_are_removed_from_a_redirect_to_another_origin(send: str, gateway: Gateway) -> None:
    """The gateway gets the ids, the other origin gets none."""
    with Gateway() as stranger:
        gateway.answer(b"", status=307, headers={"location": f"{stranger.base_url}/chat/completions"})
        with byline.bound(session_id="s-1", user_id="ada"):
            if send == "httpx2":
                with httpx2.Client(follow_redirects=True) as client:
                    answer = client.post(f"{gateway.base_url}/chat/completions", json=CHAT)
                    assert answer.status_code == 200
            else:
                assert requests.post(f"{gateway.base_url}/chat/completions", json=CHAT).status_code == 200
        assert b'"ada"' in gateway.requests[0].body
        (request,) = stranger.requests
    assert b"ada" not in request.body
    assert "s-1" not in request.headers.values()


def test_uninstall_restores_the_clients() -> None:
    """The methods are the same objects as before."""
    before = (httpx2.Client.send, httpx2.AsyncClient.send, requests.Session.send, aiohttp.ClientSession._request)
    http.install(tracer_provider=TracerProvider(), gateways=[], clients="auto", llm_spans="auto", capture_content=False)
    assert httpx2.Client.send is not before[0]
    http.uninstall()
    after = (httpx2.Client.send, httpx2.AsyncClient.send, requests.Session.send, aiohttp.ClientSession._request)
    assert after == before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_geminis_embeddings_are_a_call(gateway: Gateway, finished: Finished) -> None:
    """The response states no tokens."""
    client = genai.Client(api_key="k", http_options={"base_url": gateway.url})
    with byline.bound(session_id="s-1"):
        answer = client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    client.close()
    assert len(answer.embeddings or ()) == 2
    (span,) = finished()
    assert span.name == "embeddings gemini-embedding-001"
    assert (span.attributes or {})["session.id"] == "s-1"
    assert "gen_ai.usage.input_tokens" not in (span.attributes or {})
