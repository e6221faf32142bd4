"""Documented responses of each gateway: every value is on the LLM span, and no other value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import openai
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from byline import testing
from byline.gateways import (
    ALL,
    Anthropic,
    Aptible,
    AzureAPIM,
    Bifrost,
    Braintrust,
    Cloudflare,
    Databricks,
    Envoy,
    Gateway,
    GatewayRegistry,
    Gemini,
    Helicone,
    Kong,
    LangfuseGateway,
    LiteLLM,
    MLflow,
    OpenAI,
    OpenRouter,
    Portkey,
    TensorZero,
    Vercel,
)
from byline.gateways.keys import hash_key
from byline.genai.call_results import results
from byline.genai.span_state import SpanState, state_of
from tests.gateways.conftest import Watching, sdk

Finished = Callable[[], Sequence[ReadableSpan]]
CHAT: Any = {"model": "smart", "messages": [{"role": "user", "content": "Who?"}]}
KEY = "sk-test-0a1b2c3d4e5f6g7h8i9j"
USAGE = {"prompt_tokens": 120, "completion_tokens": 15, "total_tokens": 135}
ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
LIMITS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-tokens": "199950",
}
LIMITS_READ = {
    "byline.ratelimit.requests.limit": 10000,
    "byline.ratelimit.requests.remaining": 9999,
    "byline.ratelimit.tokens.limit": 200000,
    "byline.ratelimit.tokens.remaining": 199950,
}


class Row(NamedTuple):
    """A response and the expected attributes of the span: ``byline.*``, cost and model."""

    make: type[Gateway]
    headers: dict[str, str]
    body: dict[str, Any]
    expected: dict[str, Any]
    status: int = 200


ROWS: dict[str, Row] = {
    "openrouter": Row(
        OpenRouter,
        {"X-Generation-Id": "gen-1"},
        {
            "id": "gen-1",
            "model": "openai/gpt-4o-2024-08-06",
            "provider": "Azure",
            "usage": {
                **USAGE,
                "cost": 0.00037,
                "is_byok": False,
                "cost_details": {
                    "upstream_inference_cost": None,
                    "upstream_inference_prompt_cost": 0.0003,
                    "upstream_inference_completions_cost": 0.00007,
                },
            },
            "openrouter_metadata": {"requested": "smart", "strategy": "fallback", "attempt": 2},
        },
        {
            "byline.gateway.request.id": "gen-1",
            "byline.gateway.provider": "Azure",
            "byline.gateway.attempts": 2,
            "byline.gateway.fallbacks": 1,
            "gen_ai.response.model": "openai/gpt-4o-2024-08-06",
            "gen_ai.usage.cost": 0.00037,
            "byline.cost.source": "gateway",
            "byline.cost.input": 0.0003,
            "byline.cost.output": 0.00007,
        },
    ),
    "openrouter, bring your own key": Row(
        OpenRouter,
        {"X-Generation-Id": "gen-2"},
        {
            "id": "gen-2",
            "usage": {
                **USAGE,
                "cost": 0.00002,
                "is_byok": True,
                "cost_details": {
                    "upstream_inference_cost": 0.0004,
                    "upstream_inference_input_cost": 0.0003,
                    "upstream_inference_output_cost": 0.0001,
                },
            },
            "openrouter_metadata": {
                "attempt": 1,
                "endpoints": {"total": 2, "available": [{"provider": "A"}, {"provider": "B", "selected": True}]},
            },
        },
        {
            "byline.gateway.request.id": "gen-2",
            "byline.gateway.provider": "B",
            "byline.gateway.attempts": 1,
            "byline.gateway.fallbacks": 0,
            "gen_ai.usage.cost": 0.00002,
            "byline.cost.source": "gateway",
            "byline.cost.input": 0.0003,
            "byline.cost.output": 0.0001,
            "byline.cost.upstream": 0.0004,
        },
    ),
    "openrouter, from its response cache": Row(
        OpenRouter,
        {
            "X-Generation-Id": "gen-3",
            "X-OpenRouter-Cache-Status": "HIT",
            "X-OpenRouter-Cache-Age": "12",
            "X-OpenRouter-Cache-TTL": "300",
            "X-OpenRouter-Cache-Source-Id": "gen-1",
        },
        {"id": "gen-3", "usage": {**ZERO, "cost": 0}},
        {
            "byline.gateway.request.id": "gen-3",
            "byline.cache.hit": True,
            "byline.cache.key": "gen-1",
            "gen_ai.usage.cost": 0.0,
            "byline.cost.source": "gateway",
        },
    ),
    "openrouter, its own limit": Row(
        OpenRouter,
        {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"},
        {"error": {"code": 429, "message": "Rate limit exceeded"}},
        {
            "byline.ratelimit.requests.limit": 20,
            "byline.ratelimit.requests.remaining": 0,
            "byline.ratelimit.requests.reset": 1.0,
        },
        429,
    ),
    "aptible, whose replies look like LiteLLM's": Row(
        Aptible,
        {
            **LIMITS,
            "x-litellm-call-id": "call-1",
            "x-litellm-model-id": "model-1",
            "x-litellm-model-group": "smart",
            "x-litellm-model-name": "anthropic/claude-sonnet-4-5",
            "x-litellm-response-cost": "0.00037",
            "x-litellm-key-spend": "1.25",
            "x-litellm-key-max-budget": "50.0",
        },
        {"id": "c-1", "model": "smart", "usage": USAGE},
        {
            **LIMITS_READ,
            "byline.gateway.request.id": "call-1",
            "byline.gateway.model.id": "model-1",
            "byline.gateway.model.group": "smart",
            "byline.gateway.provider": "anthropic",
            "byline.gateway.key.spend": 1.25,
            "byline.gateway.key.budget": 50.0,
            "gen_ai.response.model": "claude-sonnet-4-5",
            "gen_ai.usage.cost": 0.00037,
            "byline.cost.source": "gateway",
        },
    ),
    "aptible, whose replies look like nothing known": Row(Aptible, {"x-other": "1"}, {"id": "c-1"}, {}),
    "langfuse": Row(
        LangfuseGateway,
        {
            "langfuse-request-id": "r-1",
            "langfuse-trace-id": "0" * 31 + "1",
            "langfuse-provider": "openai",
            "langfuse-provider-connection-id": "con-1",
        },
        {"id": "c-1", "model": "gpt-4o"},
        {
            "byline.gateway.request.id": "r-1",
            "byline.gateway.provider": "openai",
            "byline.gateway.model.id": "con-1",
            "gen_ai.response.model": "gpt-4o",
        },
    ),
    "portkey": Row(
        Portkey,
        {
            "x-portkey-trace-id": "t-1",
            "x-portkey-retry-attempt-count": "2",
            "x-portkey-cache-status": "SEMANTIC HIT",
            "x-portkey-last-used-option-index": "config.targets[1]",
            "x-portkey-provider": "anthropic",
        },
        {"id": "c-1"},
        {
            "byline.gateway.request.id": "t-1",
            "byline.gateway.provider": "anthropic",
            "byline.gateway.attempts": 3,
            "byline.gateway.fallbacks": 1,
            "byline.cache.hit": True,
        },
    ),
    "portkey, without a cache": Row(
        Portkey,
        {"x-portkey-trace-id": "t-1", "x-portkey-cache-status": "DISABLED", "x-portkey-retry-attempt-count": "0"},
        {"id": "c-1"},
        {"byline.gateway.request.id": "t-1", "byline.gateway.attempts": 1},
    ),
    "helicone": Row(
        Helicone,
        {
            "Helicone-Id": "h-1",
            "Helicone-Cache": "MISS",
            "Helicone-Fallback-Index": "1",
            "Helicone-RateLimit-Limit": "1000",
            "Helicone-RateLimit-Remaining": "999",
            "Helicone-RateLimit-Policy": "1000;w=60",
        },
        {"id": "c-1"},
        {
            "byline.gateway.request.id": "h-1",
            "byline.gateway.fallbacks": 1,
            "byline.cache.hit": False,
            "byline.ratelimit.requests.limit": 1000,
            "byline.ratelimit.requests.remaining": 999,
        },
    ),
    "cloudflare": Row(
        Cloudflare,
        {
            "cf-aig-log-id": "01J",
            "cf-aig-event-id": "01K",
            "cf-aig-step": "1",
            "cf-aig-model": "gpt-4o",
            "cf-aig-provider": "openai",
            "cf-aig-cache-status": "HIT",
        },
        {"id": "c-1"},
        {
            "byline.gateway.request.id": "01J",
            "byline.gateway.provider": "openai",
            "byline.gateway.model.id": "gpt-4o",
            "byline.gateway.fallbacks": 1,
            "byline.cache.hit": True,
        },
    ),
    "vercel": Row(
        Vercel,
        {},
        {"id": "gen_01", "generationId": "gen_01", "model": "openai/gpt-4o", "usage": {**USAGE, "cost": 0.0006}},
        {
            "byline.gateway.request.id": "gen_01",
            "gen_ai.response.model": "openai/gpt-4o",
            "gen_ai.usage.cost": 0.0006,
            "byline.cost.source": "gateway",
        },
    ),
    "vercel, with its metadata within a choice": Row(
        Vercel,
        {},
        {
            "id": "c-1",
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": "x",
                        "provider_metadata": {
                            "openai": {"n": 1},
                            "gateway": {
                                "generationId": "gen_03",
                                "cost": "0.0006",
                                "routing": {"resolvedProvider": "openai", "finalProvider": "azure"},
                            },
                        },
                    },
                }
            ],
        },
        {
            "byline.gateway.request.id": "gen_03",
            "byline.gateway.provider": "azure",
            "gen_ai.usage.cost": 0.0006,
            "byline.cost.source": "gateway",
        },
    ),
    "vercel, with its metadata": Row(
        Vercel,
        {},
        {
            "id": "c-1",
            "providerMetadata": {
                "gateway": {
                    "generationId": "gen_02",
                    "cost": "0.0006",
                    "routing": {"finalProvider": "azure", "attempts": [{}, {}]},
                }
            },
        },
        {
            "byline.gateway.request.id": "gen_02",
            "byline.gateway.provider": "azure",
            "byline.gateway.attempts": 2,
            "byline.gateway.fallbacks": 1,
            "gen_ai.usage.cost": 0.0006,
            "byline.cost.source": "gateway",
        },
    ),
    "envoy": Row(Envoy, LIMITS, {"id": "c-1"}, LIMITS_READ),
    "bifrost": Row(
        Bifrost,
        {
            "x-bifrost-request-id": "b-1",
            "x-bifrost-trace-id": "0" * 31 + "1",
            "x-bifrost-provider": "anthropic",
            "x-bifrost-original-model": "smart",
            "x-bifrost-resolved-model": "claude-sonnet-4-5",
            "x-bifrost-routing-info-provider": "anthropic",
            "x-bifrost-routing-info-model": "claude-sonnet-4-5-20250929",
            "x-bifrost-routing-info-is-fallback": "true",
            "x-bifrost-fallback-index": "2",
        },
        {"id": "c-1", "extra_fields": {"cache_debug": {"cache_hit": True, "cache_id": "k-1"}}},
        {
            "byline.gateway.request.id": "b-1",
            "byline.gateway.provider": "anthropic",
            "byline.gateway.model.id": "claude-sonnet-4-5-20250929",
            "byline.gateway.model.group": "smart",
            "byline.gateway.fallbacks": 2,
            "byline.cache.hit": True,
            "byline.cache.key": "k-1",
        },
    ),
    "bifrost, by its body alone": Row(
        Bifrost,
        {"x-bifrost-request-id": "b-1"},
        {
            "id": "c-1",
            "extra_fields": {
                "provider": "openai",
                "original_model_requested": "smart",
                "resolved_model_used": "gpt-4o",
            },
        },
        {
            "byline.gateway.request.id": "b-1",
            "byline.gateway.provider": "openai",
            "byline.gateway.model.id": "gpt-4o",
            "byline.gateway.model.group": "smart",
            "byline.gateway.fallbacks": 0,
        },
    ),
    "tensorzero": Row(
        TensorZero,
        {},
        {
            "id": "0191-inference",
            "episode_id": "0191-episode",
            "model": "tensorzero::function_name::f::variant_name::v",
            "usage": {**USAGE, "tensorzero_cost": 0.001, "tensorzero_provider_cache_write_input_tokens": 7},
        },
        {
            "byline.gateway.request.id": "0191-inference",
            "gen_ai.response.model": "tensorzero::function_name::f::variant_name::v",
            "gen_ai.usage.cost": 0.001,
            "byline.cost.source": "gateway",
            "gen_ai.usage.cache_write.input_tokens": 7,
        },
    ),
    "tensorzero, without prices": Row(
        TensorZero,
        {},
        {"id": "0191-inference", "usage": {**USAGE, "tensorzero_cost": None}},
        {"byline.gateway.request.id": "0191-inference"},
    ),
    "kong": Row(
        Kong,
        {
            "X-Kong-Request-Id": "k-1",
            "X-Kong-LLM-Model": "openai/gpt-4o",
            "X-Kong-Upstream-Latency": "900",
            "X-Kong-Proxy-Latency": "12",
            "X-Cache-Status": "Hit",
            "X-Cache-Key": "key-1",
            "X-AI-RateLimit-Limit-hour-openai": "1000",
            "X-AI-RateLimit-Remaining-hour-openai": "900",
            "X-AI-RateLimit-Reset": "60",
        },
        {"id": "c-1"},
        {
            "byline.gateway.request.id": "k-1",
            "byline.gateway.model.id": "openai/gpt-4o",
            "byline.gateway.provider": "openai",
            "byline.gateway.overhead": 0.012,
            "byline.cache.hit": True,
            "byline.cache.key": "key-1",
            "byline.ratelimit.tokens.limit": 1000,
            "byline.ratelimit.tokens.remaining": 900,
            "byline.ratelimit.tokens.reset": 60.0,
        },
    ),
    "databricks": Row(Databricks, {}, {"id": "c-1"}, {}),
    "mlflow": Row(MLflow, {}, {"id": "c-1"}, {}),
    "braintrust": Row(
        Braintrust,
        {"x-bt-span-id": "s-1", "x-bt-used-endpoint": "openai", "x-bt-cached": "HIT"},
        {"id": "c-1"},
        {"byline.gateway.request.id": "s-1", "byline.gateway.provider": "openai", "byline.cache.hit": True},
    ),
    "azure_apim": Row(
        AzureAPIM, {"remaining-tokens": "480"}, {"id": "c-1"}, {"byline.ratelimit.tokens.remaining": 480}
    ),
    "openai": Row(
        OpenAI,
        {
            **LIMITS,
            "x-request-id": "req-1",
            "x-ratelimit-reset-requests": "8.64s",
            "x-ratelimit-reset-tokens": "15ms",
        },
        {"id": "c-1", "model": "gpt-4o-2024-08-06"},
        {
            **LIMITS_READ,
            "byline.gateway.request.id": "req-1",
            "byline.ratelimit.requests.reset": 8.64,
            "byline.ratelimit.tokens.reset": 0.015,
            "gen_ai.response.model": "gpt-4o-2024-08-06",
        },
    ),
    "anthropic": Row(
        Anthropic,
        {
            "request-id": "req-2",
            "anthropic-ratelimit-requests-limit": "50",
            "anthropic-ratelimit-requests-remaining": "49",
        },
        {"id": "msg-1"},
        {
            "byline.gateway.request.id": "req-2",
            "byline.ratelimit.requests.limit": 50,
            "byline.ratelimit.requests.remaining": 49,
        },
    ),
    "gemini": Row(Gemini, {}, {"id": "c-1"}, {}),
}
#: Attributes of every exchange.
USUAL = {"byline.duration", "byline.gateway.key.hash", "byline.gateway.name"}


def ask(base_url: str) -> None:
    with sdk(base_url, KEY) as client:
        client.chat.completions.create(**CHAT)


def told(span: ReadableSpan) -> dict[str, Any]:
    """Return the attributes from the response, without those of every exchange."""
    names = ("gen_ai.response.model", "gen_ai.usage.cost", "gen_ai.usage.cache_write.input_tokens")
    return {
        name: value
        for name, value in (span.attributes or {}).items()
        if (name.startswith("byline.") or name in names) and name not in USUAL
    }


def _shows(row: Row) -> bool:
    return row.make().matches_response({name.lower(): value for name, value in row.headers.items()})


def test_every_gateway_has_a_row() -> None:
    # LiteLLM's replies are captured ones: see test_litellm_replies.
    assert {row.make for row in ROWS.values()} | {LiteLLM} == set(ALL)


@pytest.mark.parametrize("name", ROWS)
def test_exactly_the_documented_values_are_read(
    name: str, server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """Header by header and member by member."""
    row = ROWS[name]
    server.answer({"object": "chat.completion", "choices": [], **row.body}, status=row.status, headers=row.headers)
    with watching(row.make(server.base_url)):
        if row.status < 400:
            ask(server.base_url)
        else:
            with pytest.raises(openai.APIStatusError):
                ask(server.base_url)
    (span,) = finished()
    attributes = span.attributes or {}
    assert told(span) == row.expected
    assert attributes["byline.gateway.key.hash"] == hash_key(KEY)
    is_gateway = not row.make.is_provider
    assert attributes.get("byline.gateway.name") == (row.make.name if is_gateway else None)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if _shows(row)])
def test_replies_tell_a_gateway_that_nobody_configured(
    name: str, server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """Its values are read all the same; no id was sent to it."""
    row = ROWS[name]
    server.answer({"object": "chat.completion", "choices": [], **row.body}, headers=row.headers)
    with watching():
        ask(server.base_url)
    (span,) = finished()
    assert (span.attributes or {})["byline.gateway.name"] == row.make.name
    assert told(span) == row.expected


def test_metadata_of_vercel_is_read_from_a_stream_too(
    server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """It comes with the delta of some chunk, and usage in the last one."""
    said = {"gateway": {"generationId": "gen_04", "routing": {"finalProvider": "azure"}}}
    chunks: list[dict[str, Any]] = [
        {"id": "c-1", "choices": [{"index": 0, "delta": {"content": "provider_metadata"}}]},
        {"id": "c-1", "choices": [{"index": 0, "delta": {"provider_metadata": said}, "finish_reason": "stop"}]},
        {"id": "c-1", "choices": [], "usage": {**USAGE, "cost": 0.0006}},
    ]
    server.answer([f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"])
    with watching(Vercel(server.base_url)), sdk(server.base_url, KEY) as client:
        assert len(list(client.chat.completions.create(**CHAT, stream=True))) == 3
    (span,) = finished()
    assert told(span) == {
        "byline.gateway.request.id": "gen_04",
        "byline.gateway.provider": "azure",
        "gen_ai.usage.cost": 0.0006,
        "byline.cost.source": "gateway",
    }


def test_key_aliases_name_the_key(server: testing.Gateway, watching: Watching, finished: Finished) -> None:
    """By its hash or the beginning of it."""
    with watching(OpenRouter(server.base_url, key_aliases={"beef": "no", hash_key(KEY)[:12]: "team-blue"})):
        ask(server.base_url)
    (span,) = finished()
    assert (span.attributes or {})["byline.gateway.key.alias"] == "team-blue"


@pytest.mark.parametrize("made", [made for made in ALL if not made.is_provider], ids=lambda made: made.name)
def test_broadcasting_gateway_keeps_usage_and_cost_to_itself(
    made: type[Gateway], server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """So that a trace counts a call once; everything else is still told."""
    usage = {**USAGE, "cost": 0.1, "prompt_tokens_details": {"text_tokens": 20, "image_tokens": 100}}
    server.answer(
        {"object": "chat.completion", "choices": [], "id": "c-1", "usage": usage},
        headers={"x-litellm-call-id": "c", "x-litellm-response-cost": "0.1"},
    )
    with watching(made(server.base_url, broadcasts=True)):
        ask(server.base_url)
    (span,) = finished()
    attributes = span.attributes or {}
    assert not [name for name in attributes if name.startswith(("gen_ai.usage.", "byline.cost."))]
    assert attributes["gen_ai.response.id"] == "c-1"


def test_spans_of_others_are_exported_without_the_usage_of_a_gateway_that_broadcasts(
    server: testing.Gateway, watching: Watching, provider: TracerProvider
) -> None:
    """An instrumentation writes tokens on its span by itself, during the call or long after it."""
    tracer = provider.get_tracer("instrumentation")
    server.answer({"object": "chat.completion", "choices": [], "id": "c-1", "usage": USAGE})
    server.answer({"object": "chat.completion", "choices": [], "id": "c-2", "usage": USAGE})
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    found = []
    for broadcasts in (True, False):
        with watching(OpenRouter(server.base_url, broadcasts=broadcasts)):
            with tracer.start_as_current_span("chat m", attributes=attributes) as span:
                ask(server.base_url)
            own = state_of(span)
            assert own is not None
            other = SpanState(cast("ReadableSpan", span), span.get_span_context(), None)
            pairs: list[tuple[SpanState, str | None]] = [(own, None), (other, "c-1"), (other, "c-2")]
            found.append([results.is_duplicate(*each) for each in pairs])
    assert found == [[True, True, False], [False, False, True]]


def test_another_gateways_reply_is_not_read_as_its_own(
    server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """Headers of Portkey are not read from an address configured as OpenRouter."""
    server.answer(
        {"object": "chat.completion", "choices": [], "id": "c-1"},
        headers={"x-portkey-trace-id": "t", "x-portkey-cache-status": "HIT", "x-litellm-key-spend": "3"},
    )
    with watching(OpenRouter(server.base_url)):
        ask(server.base_url)
    (span,) = finished()
    assert (span.attributes or {})["byline.gateway.name"] == "openrouter"
    assert told(span) == {}


def test_a_gateway_of_the_app_is_recognised_by_its_own_headers_or_by_its_own_rule() -> None:
    class ByHeader(Gateway):
        name = "by header"
        response_headers = frozenset({"x-house-id"})

    class ByRule(Gateway):
        name = "by rule"

        def matches_response(self, headers: Mapping[str, str]) -> bool:
            return headers.get("server") == "house"

    by_header, by_rule = GatewayRegistry([ByHeader()]), GatewayRegistry([ByRule()])
    assert [registry.detect_from_response({"server": "other"}) for registry in (by_header, by_rule)] == [None, None]
    assert type(by_header.detect_from_response({"x-house-id": ""})) is ByHeader
    assert type(by_rule.detect_from_response({"server": "house"})) is ByRule
    for registry in (by_header, by_rule):
        assert type(registry.detect_from_response({"x-litellm-call-id": "1", "server": "other"})) is LiteLLM
