"""Values that a gateway's trace export documents, row by row, on the LLM span of the app's own process.

The rows are those of the "What Gets Sent" list of a gateway's documentation; the gateway here answers
each API in its own shape, under the headers of a LiteLLM proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import aiohttp
import anthropic
import openai
import pytest
import requests
from fastapi import FastAPI
from google import genai
from opentelemetry.sdk.trace import TracerProvider
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from byline import http
from byline.asgi import AttributionMiddleware
from byline.gateways import LiteLLM
from byline.gateways.keys import hash_key
from byline.testing import Gateway
from tests.http.conftest import Finished
from tests.support import claim, run_asgi

CALLER = {"user_id": "ada", "organization_id": "org-1", "environment_id": "env-1"}
SYSTEM, ASKED = "Be brief.", "Who wrote this?"
REPLY_HEADERS = {
    "x-litellm-call-id": "call-1",
    "x-litellm-model-id": "deployment-1",
    "x-litellm-model-group": "fast",
    "x-litellm-response-cost": "0.5",
    "x-litellm-response-cost-input": "0.2",
    "x-litellm-response-cost-output": "0.3",
    "x-litellm-overhead-duration-ms": "12.5",
    "x-litellm-key-spend": "7.25",
    "x-litellm-key-max-budget": "100.0",
    "x-ratelimit-limit-requests": "1000",
    "x-ratelimit-remaining-requests": "999",
    "x-ratelimit-limit-tokens": "50000",
    "x-ratelimit-remaining-tokens": "49000",
    "llm_provider-x-ratelimit-reset-tokens": "6m0s",
}
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

#: Of a shorter key there is no hash.
KEY = "sk-test-0a1b2c3d4e5f6g7h8i9j"


@pytest.fixture
def gateway(provider: TracerProvider) -> Iterator[Gateway]:
    with Gateway() as running:
        running.headers = dict(REPLY_HEADERS)
        http.install(
            tracer_provider=provider,
            gateways=[LiteLLM(running.url, key_aliases={hash_key(KEY): "team key"})],
            clients="auto",
            llm_spans="auto",
            capture_content=True,
        )
        yield running
        http.uninstall()


CHAT: Any = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}],
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.75,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.125,
    "seed": 7,
    "stop": ["END"],
    "response_format": {"type": "json_object"},
}
CHAT_PARAMETERS = {
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.75,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.125,
    "seed": 7,
    "stop_sequences": ("END",),
}


def chat(gateway: Gateway, stream: bool) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=KEY) as client:
        answer: Any = client.chat.completions.create(**CHAT, tools=[TOOL], tool_choice="none", stream=stream)
        if stream:
            list(answer)


def responses(gateway: Gateway, stream: bool) -> None:
    with openai.OpenAI(base_url=gateway.base_url, api_key=KEY) as client:
        answer: Any = client.responses.create(
            model="openai/gpt-4o",
            input=ASKED,
            instructions=SYSTEM,
            max_output_tokens=9,
            temperature=0.5,
            top_p=0.75,
            text={"format": {"type": "json_object"}},
            stream=stream,
        )
        if stream:
            list(answer)


def messages(gateway: Gateway, stream: bool) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY) as client:
        answer: Any = client.messages.create(
            model="claude-sonnet-4-5",
            max_tokens=9,
            stop_sequences=["END"],
            system=SYSTEM,
            messages=[{"role": "user", "content": ASKED}],
            stream=stream,
            # Newer models take none of them, and the SDK leaves them to those who know.
            extra_body={"temperature": 0.5, "top_p": 0.75, "top_k": 5},
        )
        if stream:
            list(answer)


def generate(gateway: Gateway, stream: bool) -> None:
    client = genai.Client(api_key=KEY, http_options={"base_url": gateway.url})
    config: Any = {
        "system_instruction": SYSTEM,
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 5,
        "seed": 7,
        "stop_sequences": ["END"],
        "response_mime_type": "application/json",
    }
    models = client.models
    if stream:
        list(models.generate_content_stream(model="gemini-2.5-flash", contents=ASKED, config=config))
    else:
        models.generate_content(model="gemini-2.5-flash", contents=ASKED, config=config)
    client.close()


def through_requests(gateway: Gateway, stream: bool) -> None:
    headers = {"authorization": f"Bearer {KEY}"}
    answer = requests.post(
        f"{gateway.base_url}/chat/completions", json={**CHAT, "stream": stream}, headers=headers, stream=stream
    )
    assert answer.content


def through_aiohttp(gateway: Gateway, stream: bool) -> None:
    async def ask() -> None:
        async with (
            aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session,
            session.post(f"{gateway.base_url}/chat/completions", json={**CHAT, "stream": stream}) as answer,
        ):
            assert await answer.read()

    asyncio.run(ask())


_MESSAGES = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.75, "top_k": 5, "stop_sequences": ("END",)}
WAYS: dict[Callable[[Gateway, bool], None], dict[str, Any]] = {
    chat: CHAT_PARAMETERS,
    responses: {"max_tokens": 9, "temperature": 0.5, "top_p": 0.75},
    messages: _MESSAGES,
    generate: {**_MESSAGES, "seed": 7},
    through_requests: CHAT_PARAMETERS,
    through_aiohttp: CHAT_PARAMETERS,
}


class Seen(NamedTuple):
    """One call as it stands on its span, and how it was made."""

    attributes: dict[str, Any]
    way: Callable[[Gateway, bool], None]
    stream: bool


def run(way: Callable[[Gateway, bool], None], gateway: Gateway, finished: Finished, *, stream: bool) -> Seen:
    """Make the call within a request to an app, as users do."""
    # Starlette itself tells its routes since 1.7, FastAPI always has.
    app = FastAPI()

    @app.post("/ask/{id}", response_model=None)
    def endpoint(request: Request) -> PlainTextResponse:
        way(gateway, stream)
        return PlainTextResponse("ok")

    headers = [
        ("x-session-id", "s-1"),
        ("x-request-id", "request-1"),
        ("user-agent", "phone/2.0"),
        ("authorization", f"Bearer caller-{KEY}"),
    ]
    sent = claim(headers=headers, path="/ask/1")
    answered = asyncio.run(run_asgi(AttributionMiddleware(app, identity=lambda scope: CALLER), sent))
    assert answered.body == b"ok", answered.error
    (span,) = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    return Seen(dict(span.attributes or {}), way, stream)


def input_messages(seen: Seen) -> None:
    said = json.loads(seen.attributes["gen_ai.input.messages"])
    assert said[-1] == {"role": "user", "parts": [{"type": "text", "content": ASKED}]}


def system_instructions(seen: Seen) -> None:
    where = "gen_ai.system_instructions" if "gen_ai.system_instructions" in seen.attributes else "gen_ai.input.messages"
    assert SYSTEM in seen.attributes[where]


def tool_definitions(seen: Seen) -> None:
    if seen.way is chat:
        assert json.loads(seen.attributes["gen_ai.tool.definitions"])[0]["name"] == "look"


def output_messages(seen: Seen) -> None:
    (message,) = json.loads(seen.attributes["gen_ai.output.messages"])
    assert message["role"] == "assistant"
    assert message["parts"][0]["content" if message["parts"][0]["type"] == "text" else "name"]


def finish_reasons(seen: Seen) -> None:
    assert seen.attributes["gen_ai.response.finish_reasons"]


def request_parameters(seen: Seen) -> None:
    for name, value in WAYS[seen.way].items():
        assert seen.attributes[f"gen_ai.request.{name}"] == value
    assert seen.attributes["gen_ai.request.model"]


def token_counts(seen: Seen) -> None:
    prompt, said = (seen.attributes[f"gen_ai.usage.{which}_tokens"] for which in ("input", "output"))
    assert prompt > 0
    assert said > 0


def cached_tokens(seen: Seen) -> None:
    if seen.way not in (generate, messages):
        assert seen.attributes["gen_ai.usage.cache_read.input_tokens"] == 0
    if seen.way in (chat, through_requests, through_aiohttp):
        assert seen.attributes["gen_ai.usage.cache_write.input_tokens"] == 0


def cost_and_breakdown(seen: Seen) -> None:
    if not seen.stream:
        assert seen.attributes["gen_ai.usage.cost"] == 0.5
        assert (seen.attributes["byline.cost.input"], seen.attributes["byline.cost.output"]) == (0.2, 0.3)
        assert seen.attributes["byline.cost.source"] == "gateway"
    else:
        # The headers of a stream come before its price; its last chunk, or the price list, has it.
        assert 0 < seen.attributes["gen_ai.usage.cost"] < 0.5
        assert seen.attributes["byline.cost.source"] in ("gateway", "estimate")


def latency(seen: Seen) -> None:
    assert seen.attributes["byline.duration"] > 0
    assert seen.attributes["byline.gateway.overhead"] == 0.0125
    if seen.stream:
        assert 0 < seen.attributes["gen_ai.response.time_to_first_chunk"] <= seen.attributes["byline.duration"]


def rate_limits(seen: Seen) -> None:
    assert seen.attributes["byline.ratelimit.requests.limit"] == 1000
    assert seen.attributes["byline.ratelimit.requests.remaining"] == 999
    assert seen.attributes["byline.ratelimit.tokens.limit"] == 50000
    assert seen.attributes["byline.ratelimit.tokens.remaining"] == 49000
    assert seen.attributes["byline.ratelimit.tokens.reset"] == 360.0


def organization_and_keys(seen: Seen) -> None:
    assert seen.attributes["byline.organization.id"] == "org-1"
    assert seen.attributes["byline.environment.id"] == "env-1"
    assert seen.attributes["byline.gateway.key.hash"] == hash_key(KEY)
    assert seen.attributes["byline.gateway.key.alias"] == "team key"
    assert seen.attributes["byline.caller.key.hash"] == hash_key(f"caller-{KEY}")


def resolved_model(seen: Seen) -> None:
    assert seen.attributes["byline.gateway.model.id"] == "deployment-1"
    assert seen.attributes["byline.gateway.model.group"] == "fast"
    assert seen.attributes["gen_ai.response.model"]


def route_and_caller(seen: Seen) -> None:
    assert seen.attributes["byline.route"] == "/ask/{id}"
    assert seen.attributes["byline.request.id"] == "request-1"
    assert seen.attributes["byline.gateway.request.id"] == "call-1"
    assert seen.attributes["byline.caller.address"] == "10.1.2.3"
    assert seen.attributes["byline.caller.user_agent"] == "phone/2.0"
    assert (seen.attributes["session.id"], seen.attributes["user.id"]) == ("s-1", "ada")


def key_spend_and_budget(seen: Seen) -> None:
    assert seen.attributes["byline.gateway.key.budget"] == 100.0
    if not seen.stream:
        assert seen.attributes["byline.gateway.key.spend"] == 7.25


ROWS: list[Callable[[Seen], None]] = [
    input_messages,
    system_instructions,
    tool_definitions,
    output_messages,
    finish_reasons,
    request_parameters,
    token_counts,
    cached_tokens,
    cost_and_breakdown,
    latency,
    rate_limits,
    organization_and_keys,
    resolved_model,
    route_and_caller,
    key_spend_and_budget,
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_row_is_on_the_span(
    way: Callable[[Gateway, bool], None], stream: bool, gateway: Gateway, finished: Finished
) -> None:
    """Of every API, as far as its replies hold the row."""
    seen = run(way, gateway, finished, stream=stream)
    for row in ROWS:
        row(seen)


@pytest.mark.parametrize("way", [chat, messages, through_requests], ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cache_hit_has_its_key_and_savings(
    way: Callable[[Gateway, bool], None], gateway: Gateway, finished: Finished
) -> None:
    """And costs nothing."""
    gateway.headers["x-litellm-cache-key"] = "cache-1"
    attributes = run(way, gateway, finished, stream=False).attributes
    assert attributes["byline.cache.hit"] is True
    assert attributes["byline.cache.key"] == "cache-1"
    assert attributes["byline.cache.savings"] == 0.5
    assert attributes["gen_ai.usage.cost"] == 0.0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_failed_request_has_class_and_detail(
    way: Callable[[Gateway, bool], None], gateway: Gateway, finished: Finished
) -> None:
    """As the gateway gave them."""
    gateway.fail(400)

    def failing(target: Gateway, stream: bool) -> None:
        with contextlib.suppress(openai.APIError, anthropic.APIError, genai.errors.APIError):
            way(target, stream)

    attributes = run(failing, gateway, finished, stream=False).attributes
    assert attributes["error.type"]
    assert attributes["byline.error.message"] == "The testing gateway was told to fail."
    assert attributes["http.response.status_code"] == 400
    assert "gen_ai.usage.cost" not in attributes
