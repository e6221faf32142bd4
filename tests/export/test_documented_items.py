"""The items that Aptible's gateway documents for its traces, in Langfuse's columns and metadata."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse

import byline
from byline.asgi import AttributionMiddleware
from byline.export import Langfuse
from byline.gateways import Aptible, OpenRouter
from byline.testing import Gateway, ReceivedSpan, Receiver, replies
from byline.testing.simulated_model import ModelCall
from tests.export.langfuse_model import Path, moment, shown

KEYS = ("pk-lf-1", "sk-lf-1")
API_KEY = "sk-apt-0a1b2c3d4e5f6g7h8i9j"
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])

MESSAGES: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is in it?"}]
TOOL: Any = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
PARAMETERS: Any = {
    "max_tokens": 64,
    "temperature": 0.2,
    "top_p": 0.9,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.3,
    "seed": 7,
    "stop": ["END"],
    "response_format": {"type": "json_object"},
    "reasoning_effort": "low",
    "extra_body": {"top_k": 40},
}
REPLY: dict[str, Any] = {
    "x-litellm-call-id": "call-1",
    "x-litellm-model-id": "deployment-1",
    "x-litellm-model-group": "fast",
    "x-litellm-model-name": "openai/gpt-4o-2026-05-13",
    "x-litellm-response-cost": "0.5",
    "x-litellm-response-cost-input": "0.2",
    "x-litellm-response-cost-output": "0.3",
    "x-litellm-overhead-duration-ms": "12",
    "x-litellm-key-spend": "1.5",
    "x-litellm-key-max-budget": "10",
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "99",
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": "990",
}


def _answer(**more: Any) -> dict[str, Any]:
    found = replies.chat_completion(ModelCall({"messages": MESSAGES, "tools": [TOOL]}, "gen-1", "fast", priced=False))
    found["usage"]["prompt_tokens_details"].update(cached_tokens=4, cache_write_tokens=3)
    return {**found, **more}


def drained(gateway: Gateway, receiver: Receiver, known: Any, *, stream: bool = False) -> list[ReceivedSpan]:
    """Return the spans of one request of a known tenant as Langfuse receives them."""

    async def answer(request: Request) -> JSONResponse:
        await request.json()
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=API_KEY, max_retries=0) as client:
            asked: Any = {"model": "fast", "messages": MESSAGES, "tools": [TOOL], **PARAMETERS}
            try:
                found: Any = await client.chat.completions.create(**asked, stream=stream)
                if stream:
                    async for _ in found:
                        pass
            except openai.APIStatusError:
                return JSONResponse({"error": True})
        return JSONResponse({})

    async def send() -> None:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
            headers = {"user-agent": "browser/1", "x-session-id": "s-1"}
            await client.post("/chat/5", json={"end_user": "ada"}, headers=headers)

    def tenant(_: Any) -> dict[str, str]:
        return {"organization_id": "org-1", "environment_id": "env-1", "user_id": "ada"}

    # Starlette itself tells its routes since 1.7, FastAPI always has.
    inner = FastAPI()
    inner.add_api_route("/chat/{id}", answer, methods=["POST"], response_model=None)
    app = AttributionMiddleware(inner, identity=tenant)
    byline.instrument(destinations=[Langfuse(*KEYS, receiver.url)], gateways=[known], capture_content=True)
    try:
        asyncio.run(send())
    finally:
        byline.uninstrument()
    return receiver.spans


@pytest.fixture(scope="module")
def call() -> Iterator[ReceivedSpan]:
    with Receiver() as receiver, Gateway() as gateway:
        gateway.answer(_answer(), headers=REPLY)
        (span,) = drained(gateway, receiver, Aptible(gateway.base_url, key_aliases={_hash(): "team blue"}))
        yield span


def _hash() -> str:
    return hashlib.sha256(API_KEY.encode()).hexdigest()


FIRST_CLASS: dict[str, tuple[str, Any]] = {
    "model": ("model", "gpt-4o-2026-05-13"),
    "request parameters": (
        "parameters",
        {
            "max_tokens": 64,
            "temperature": 0.2,
            "top_p": 0.9,
            "top_k": 40,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.3,
            "seed": 7,
            "stop_sequences": '["END"]',
            "output_type": "json",
            "reasoning.level": "low",
        },
    ),
    "cost and its breakdown": ("cost", {"total": 0.5, "input": 0.2, "output": 0.3}),
    "session": ("session", "s-1"),
    "end user": ("user", "ada"),
}
FILTERABLE: dict[str, tuple[str, Any]] = {
    "finish reasons": ("finish_reasons", ["tool_calls"]),
    "gateway overhead": ("gateway_overhead", 0.012),
    "requests allowed": ("ratelimit_requests_limit", 100),
    "requests left": ("ratelimit_requests_remaining", 99),
    "tokens allowed": ("ratelimit_tokens_limit", 1000),
    "tokens left": ("ratelimit_tokens_remaining", 990),
    "organization": ("organization_id", "org-1"),
    "environment": ("environment_id", "env-1"),
    "key hash": ("gateway_key_hash", _hash()[:12]),
    "key alias": ("gateway_key_alias", "team blue"),
    "model id": ("gateway_model_id", "deployment-1"),
    "model group": ("gateway_model_group", "fast"),
    "route": ("route", "/chat/{id}"),
    "request id": ("gateway_request_id", "call-1"),
    "caller's address": ("caller_address", "127.0.0.1"),
    "user agent": ("caller_user_agent", "browser/1"),
    "key spend": ("gateway_key_spend", 1.5),
    "key budget": ("gateway_key_budget", 10.0),
}


def found(span: ReceivedSpan, path: Path) -> Any:
    (item,) = shown([span], path)
    assert item.type == "generation"
    return item


@both_paths
@pytest.mark.parametrize("item", FIRST_CLASS)
def test_items_with_a_column_of_langfuse(call: ReceivedSpan, path: Path, item: str) -> None:
    field, value = FIRST_CLASS[item]
    assert getattr(found(call, path), field) == value


@both_paths
@pytest.mark.parametrize("item", FILTERABLE)
def test_items_in_the_metadata(call: ReceivedSpan, path: Path, item: str) -> None:
    key, value = FILTERABLE[item]
    assert found(call, path).metadata[key] == value


@both_paths
def test_content(call: ReceivedSpan, path: Path) -> None:
    """Input: messages, system instructions, tool definitions. Output: tool calls."""
    item = found(call, path)
    assert all(message["content"] in str(item.input) for message in MESSAGES)
    assert '"tools":[{"type":"function","function":{"name":"search"' in str(item.input)
    assert "tool_definitions" not in item.metadata
    assert '"name":"search"' in str(item.output)


@both_paths
def test_tokens(call: ReceivedSpan, path: Path) -> None:
    """Of prompt, completion, cache writes, cache reads, and in total."""
    usage = _answer()["usage"]
    shown_usage = found(call, path).usage
    assert (shown_usage["input_cached_tokens"], shown_usage["input_cache_creation"]) == (4, 3)
    assert shown_usage["input"] + 7 == usage["prompt_tokens"]
    assert sum(shown_usage.values()) - shown_usage.get("total", 0) == usage["total_tokens"]


@both_paths
def test_latency(path: Path) -> None:
    """In total, and until the first token."""
    with Receiver() as receiver, Gateway() as gateway:
        (span,) = drained(gateway, receiver, Aptible(gateway.base_url), stream=True)
    started = found(span, path).completion_start
    assert moment(span.start) < started <= moment(span.end)


@both_paths
def test_a_cache_hit(path: Path) -> None:
    """The hit, the key, the savings, and a cost of zero."""
    with Receiver() as receiver, Gateway() as gateway:
        gateway.answer(_answer(), headers={**REPLY, "x-litellm-cache-key": "k-1"})
        (span,) = drained(gateway, receiver, Aptible(gateway.base_url))
    item = found(span, path)
    told = {key: item.metadata[key] for key in ("cache_hit", "cache_key", "cache_savings")}
    assert told == {"cache_hit": True, "cache_key": "k-1", "cache_savings": 0.5}
    assert item.cost == {"total": 0.0}


@both_paths
def test_a_failure(path: Path) -> None:
    """The error's class and message, and the tenant."""
    with Receiver() as receiver, Gateway() as gateway:
        gateway.fail(429)
        (span,) = drained(gateway, receiver, Aptible(gateway.base_url))
    item = found(span, path)
    assert (item.level, item.status_message) == ("ERROR", "429: The testing gateway was told to fail.")
    assert (item.metadata["error_type"], item.metadata["organization_id"]) == ("429", "org-1")


@both_paths
def test_the_reset_of_a_budget(path: Path) -> None:
    """OpenRouter states it for its keys."""
    with Receiver() as receiver, Gateway() as gateway:
        known = OpenRouter(gateway.base_url, key_status=True)
        assert known.key_status is not None
        known.key_status.refresh(API_KEY)
        for thread in threading.enumerate():
            if thread.name == "byline-key-status":
                thread.join()
        (span,) = drained(gateway, receiver, known)
    told = found(span, path).metadata
    assert told["gateway_key_budget_reset"]
    assert told["gateway_key_budget"] > 0
