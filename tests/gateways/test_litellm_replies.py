"""Replies of a real LiteLLM proxy, as they were captured, each with its trap."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan

import byline
from byline import request_context, testing
from byline.gateways import Aptible, Gateway, LiteLLM
from tests.gateways.conftest import Watching

Finished = Callable[[], Sequence[ReadableSpan]]
CAPTURES = Path(__file__).parent / "captures"
MODEL_ID = "afffd198098cb8a22d1a3b16144894ee02e3b8ffaa52fc6af398821737688a4d"

ROUTED = {
    "byline.gateway.model.id": MODEL_ID,
    "byline.gateway.model.group": "gpt-4o",
    "byline.gateway.provider": "openai",
    "byline.gateway.attempts": 1,
    "byline.gateway.fallbacks": 0,
}
LIMITED = {
    "byline.ratelimit.requests.limit": 10000,
    "byline.ratelimit.requests.remaining": 9999,
    "byline.ratelimit.requests.reset": 8.64,
    "byline.ratelimit.tokens.limit": 200000,
    "byline.ratelimit.tokens.remaining": 199950,
    "byline.ratelimit.tokens.reset": 0.015,
}
COST = 0.00037000000000000005
PRICED = {
    "gen_ai.usage.cost": COST,
    "byline.cost.source": "gateway",
    "byline.cost.input": 0.00014000000000000004,
    "byline.cost.output": 0.00015000000000000001,
    "byline.cost.cache_read": 8e-05,
    "byline.cost.reasoning": 7.000000000000001e-05,
    "byline.cost.tool_usage": 0.0,
}
UNSTATED = {"byline.gateway.request.id", "byline.gateway.overhead"}

#: capture → expected values, besides call id and overhead, which every capture has
ROWS: dict[str, dict[str, Any]] = {
    # The reset of the limits comes under the provider's name alone.
    "plain": {**ROUTED, **LIMITED, **PRICED, "byline.gateway.key.spend": COST},
    "responses": {**ROUTED, **LIMITED, **PRICED, "byline.gateway.key.spend": COST},
    "messages": {
        **ROUTED,
        **{name: value for name, value in PRICED.items() if name != "byline.cost.reasoning"},
        "byline.gateway.key.spend": COST,
    },
    # The headers say 0.0 for cost and spend, because they are sent before the tokens: nothing is read.
    "stream": {**ROUTED, **LIMITED},
    # The last chunk has the cost, if the client asked for usage.
    "stream_usage": {**ROUTED, **LIMITED, "gen_ai.usage.cost": COST, "byline.cost.source": "gateway"},
    "cache_miss": {
        **ROUTED,
        **LIMITED,
        **PRICED,
        "byline.gateway.key.spend": 1.25037,
        "byline.gateway.key.budget": 50.0,
    },
    # The headers repeat the full cost, which is the savings of the hit. No provider was asked, so that
    # the limits are the key's own.
    "cache_hit": {
        **ROUTED,
        "byline.ratelimit.requests.limit": 600,
        "byline.ratelimit.requests.remaining": 590,
        "byline.ratelimit.tokens.limit": 100000,
        "byline.ratelimit.tokens.remaining": 99401,
        "byline.cache.hit": True,
        "byline.cache.key": "419de2179e14065b57175b46aec3dc384ba809d5be276c0b476c126ff8395326",
        "byline.cache.savings": COST,
        "gen_ai.usage.cost": 0.0,
        "byline.cost.source": "gateway",
        "byline.gateway.key.spend": 1.25037,
        "byline.gateway.key.budget": 50.0,
    },
    "fallback": {
        "byline.gateway.model.id": "24d3faddc3aadcdf58bda2e9cdeee682b53422e46ba08b4234c0288c35421482",
        "byline.gateway.model.group": "gpt-mock",
        "byline.gateway.provider": "openai",
        "byline.gateway.attempts": 1,
        "byline.gateway.fallbacks": 1,
        "gen_ai.usage.cost": 1.35e-05,
        "byline.cost.source": "gateway",
        "byline.cost.input": 1.5e-06,
        "byline.cost.output": 1.2e-05,
        "byline.cost.tool_usage": 0.0,
        "byline.gateway.key.spend": 1.35e-05,
    },
    # An error's headers say cost 0 and spend 0.0.
    "error_429": {**LIMITED, "byline.ratelimit.requests.remaining": 0},
    "error_500": LIMITED,
}


def replay(server: testing.Gateway, name: str, **options: Any) -> dict[str, Any]:
    """Let the server answer as LiteLLM did, and call it as that was called."""
    capture: dict[str, Any] = json.loads((CAPTURES / f"litellm_{name}.json").read_text("utf-8"))
    body: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi there"}], "input": "hi"}
    headers = {key: value for key, value in capture["headers"].items() if key != "content-type"}
    if "chunks" in capture:
        body["stream"] = True
        chunks = [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in capture["chunks"]]
        server.answer([*chunks, b"data: [DONE]\n\n"], headers=headers)
    else:
        server.answer(capture["body"], status=capture["status"], headers=headers)
    with httpx2.Client(verify=False) as client, client.stream("POST", server.url + capture["path"], json=body) as reply:
        reply.read()
    return capture


def told(span: ReadableSpan) -> dict[str, Any]:
    usual = {"byline.duration", "byline.gateway.name", "byline.error.message", *UNSTATED}
    return {
        name: value
        for name, value in (span.attributes or {}).items()
        if (name.startswith("byline.") or name == "gen_ai.usage.cost") and name not in usual
    }


@pytest.mark.parametrize("made", [LiteLLM, Aptible], ids=lambda made: made.name)
@pytest.mark.parametrize("name", ROWS)
def test_captured_reply_has_the_expected_values(
    name: str, made: type[Gateway], server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """Value by value; Aptible's undocumented responses are read the same way if they look the same."""
    with watching(made(server.url)):
        capture = replay(server, name)
    (span,) = finished()
    attributes = span.attributes or {}
    assert told(span) == ROWS[name]
    assert attributes["byline.gateway.name"] == made.name
    assert attributes["byline.gateway.request.id"] == capture["headers"]["x-litellm-call-id"]


@pytest.mark.parametrize("name", [name for name in ROWS if name != "stream"])
def test_cost_equals_that_of_litellms_own_span(
    name: str, server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """As LiteLLM exported it for the very same call; a stream without usage states none."""
    with watching(LiteLLM(server.url)), byline.bound():
        owner = request_context.current_context()
        capture = replay(server, name)
    (span,) = finished()
    assert (span.attributes or {}).get("gen_ai.usage.cost", 0.0) == pytest.approx(capture["own_cost"])
    assert owner is not None
    assert (owner.totals.cost or 0.0) == pytest.approx(capture["own_cost"])


def test_stream_is_read_if_the_client_reads_the_whole_body(
    server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """Without asking for a stream of its own."""
    capture = json.loads((CAPTURES / "litellm_stream_usage.json").read_text("utf-8"))
    server.answer(
        [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in capture["chunks"]], headers=capture["headers"]
    )
    with watching(LiteLLM(server.url)), httpx2.Client(verify=False) as client:
        client.post(f"{server.url}/v1/chat/completions", json={"model": "gpt-4o", "messages": [], "stream": True})
    (span,) = finished()
    assert told(span) == ROWS["stream_usage"]
    assert (span.attributes or {})["gen_ai.usage.input_tokens"] == 120


def test_refused_key_is_an_error_and_nothing_else(
    server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """That reply has no headers of LiteLLM's at all."""
    with watching(LiteLLM(server.url)):
        replay(server, "bad_key")
    (span,) = finished()
    assert told(span) == {}
    assert (span.attributes or {})["error.type"] == "no_db_connection"


def test_overhead_is_in_seconds(server: testing.Gateway, watching: Watching, finished: Finished) -> None:
    with watching(LiteLLM(server.url)):
        replay(server, "plain")
    (span,) = finished()
    assert (span.attributes or {})["byline.gateway.overhead"] == pytest.approx(0.5625148)


def test_model_of_the_deployment_is_read_if_the_body_names_the_group(
    server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """LiteLLM rewrites the body's model to the name that was asked for."""
    server.answer(
        {"id": "c-1", "model": "smart", "choices": []},
        headers={
            "x-litellm-call-id": "1",
            "x-litellm-model-group": "smart",
            "x-litellm-model-name": "anthropic/claude-sonnet-4-5",
        },
    )
    with watching(LiteLLM(server.url)), httpx2.Client(verify=False) as client:
        client.post(f"{server.url}/v1/chat/completions", json={"model": "smart", "messages": []})
    (span,) = finished()
    assert (span.attributes or {})["gen_ai.response.model"] == "claude-sonnet-4-5"
