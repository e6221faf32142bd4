"""Bad values, from the app's attribution and from replies: fitted or left out, and said without the value."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan

import byline
from byline import testing
from byline.attribution import Attribution
from byline.call_result import CallResult
from byline.gateways import (
    ALL,
    Bifrost,
    Cloudflare,
    Databricks,
    Gateway,
    GatewayRegistry,
    GatewayRequest,
    GatewayResponse,
    Helicone,
    LangfuseGateway,
    LiteLLM,
    OpenRouter,
    Portkey,
    TensorZero,
)
from byline.settings import SettingError
from tests.gateways.conftest import Watching, sdk

Finished = Callable[[], Sequence[ReadableSpan]]
CHAT: Any = {"model": "m", "messages": [{"role": "user", "content": "Who?"}]}
SECRET = "geheim-ä-日"


class Row(NamedTuple):
    """The attribution, the values that are sent (``None``: none), and the log of the others."""

    make: type[Gateway]
    known: dict[str, Any]
    headers: dict[str, str | None]
    log: list[str]
    body: dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it


MANY = {f"key-{index}": "v" * 400 for index in range(20)}
ROWS: dict[str, Row] = {
    "openrouter: a header cannot carry the session, the body can": Row(
        OpenRouter,
        {"session_id": SECRET},
        {"x-session-id": None},
        ["openrouter: x-session-id is not sent: not printable ASCII"],
        {"session_id": SECRET},
    ),
    "openrouter: user over 128 characters": Row(
        OpenRouter, {"user_id": "u" * 129}, {}, ["openrouter: user is not sent: too long"]
    ),
    "openrouter: user of 128 characters": Row(OpenRouter, {"user_id": "u" * 128}, {}, [], {"user": "u" * 128}),
    "openrouter: metadata under names of the trace object": Row(
        OpenRouter,
        {"trace_name": "T", "metadata": {"parent_span_id": SECRET, "trace_name": SECRET, "k": 1, "f": math.inf}},
        {},
        [
            "openrouter: metadata parent_span_id is not sent: the name is reserved",
            "openrouter: metadata trace_name is not sent: the name is reserved",
            "openrouter: metadata f is not sent: not a finite number",
        ],
        {"trace": {"trace_name": "T", "k": 1}},
    ),
    "litellm: session of another script": Row(
        LiteLLM,
        {"session_id": SECRET},
        {"x-litellm-session-id": None},
        ["litellm: x-litellm-session-id is not sent: not printable ASCII"],
    ),
    "litellm: session that it would refuse as x-session-id": Row(
        LiteLLM, {"session_id": "s:1"}, {"x-litellm-session-id": "s:1"}, []
    ),
    "litellm: tags with commas or of other scripts": Row(
        LiteLLM,
        {"tags": ["a", "b,c", SECRET, "d"]},
        {"x-litellm-tags": "a,d"},
        [
            "litellm: x-litellm-tags is not sent: has a comma",
            "litellm: x-litellm-tags is not sent: not printable ASCII",
        ],
    ),
    "litellm: user of another script": Row(
        LiteLLM,
        {"user_id": SECRET},
        {"x-litellm-end-user-id": None, "langfuse_trace_user_id": None},
        [
            "litellm: x-litellm-end-user-id is not sent: not printable ASCII",
            "litellm: langfuse_trace_user_id is not sent: not printable ASCII",
        ],
    ),
    "langfuse: everything is percent-encoded": Row(
        LangfuseGateway,
        {
            "session_id": "süß",
            "user_id": "a+b,c%",
            "tags": ["x,y", "ü"],
            "metadata": {"k:1": "a,b:c", "n": 1.5, "line": "a\nb"},
        },
        {
            "langfuse-session-id": "s%C3%BC%C3%9F",
            "langfuse-user-id": "a+b%2Cc%25",
            "langfuse-tags": "x%2Cy,%C3%BC",
            "langfuse-metadata": "k%3A1:a%2Cb:c,n:1.5,line:a b",
        },
        [],
    ),
    "langfuse: metadata over a kilobyte": Row(
        LangfuseGateway,
        {"metadata": {"k": "日" * 400, "n": 1}},
        {"langfuse-metadata": "n:1"},
        ["langfuse: langfuse-metadata k is not sent: too long"],
    ),
    "portkey: values over 128 characters": Row(
        Portkey,
        {"user_id": "u" * 129, "metadata": {"k": "v" * 129, "l": "w" * 128}},
        {"x-portkey-metadata": json.dumps({"l": "w" * 128}, separators=(",", ":"))},
        [
            "portkey: x-portkey-metadata _user is not sent: too long",
            "portkey: x-portkey-metadata k is not sent: too long",
        ],
    ),
    "portkey: JSON escapes what a header cannot carry": Row(
        Portkey,
        {"user_id": "äb"},
        {"x-portkey-metadata": r'{"_user":"\u00e4b"}'},
        [],
    ),
    "portkey: metadata that would pass for the user": Row(
        Portkey,
        {"metadata": {"_prompt": "p", "session_id": "stolen", "k": False}},
        {"x-portkey-metadata": '{"k":"false"}'},
        [
            "portkey: metadata _prompt is not sent: the name is reserved",
            "portkey: metadata session_id is not sent: the name is reserved",
        ],
    ),
    "helicone: names that are no header names": Row(
        Helicone,
        {"metadata": {"a b": 1, "ok": " x ", "ü": 2, "tags": 3, "environment": 4}},
        {"helicone-property-ok": "x", "helicone-property-tags": None, "helicone-property-environment": None},
        [
            "helicone: metadata tags is not sent: the name is reserved",
            "helicone: metadata environment is not sent: the name is reserved",
            "helicone: helicone-property a b is not sent: not a header name",
            "helicone: helicone-property ü is not sent: not a header name",
        ],
    ),
    "helicone: a value of several lines": Row(
        Helicone,
        {"metadata": {"k": "a\r\nhelicone-user-id: eve", "n": "-"}},
        {"helicone-property-k": "a helicone-user-id: eve", "helicone-property-n": "-", "helicone-user-id": None},
        [],
    ),
    "helicone: a step that looks like a path": Row(
        Helicone,
        {"session_id": "s", "span_name": "a/b", "generation_name": "c"},
        {"helicone-session-path": "/a b/c"},
        [],
    ),
    "helicone: more metadata than a server takes": Row(
        Helicone,
        {"session_id": "s", "metadata": MANY},
        {"helicone-session-id": "s", "helicone-property-key-0": "v" * 400, "helicone-property-key-19": None},
        [f"helicone: helicone-property-key-{index} is not sent: no room" for index in range(9, 20)],
    ),
    "cloudflare: five entries, ids first": Row(
        Cloudflare,
        {"user_id": "ada", "metadata": {"a": 1, "cf.user_id": "eve", "b": True, "c": 0.5, "d": "x", "e": "y"}},
        {"cf-aig-metadata": '{"user_id":"ada","a":1,"b":true,"c":0.5,"d":"x"}'},
        [
            "cloudflare: metadata cf.user_id is not sent: the name is reserved",
            "cloudflare: cf-aig-metadata e is not sent: more than five entries",
        ],
    ),
    "databricks: more metadata than a server takes": Row(
        Databricks,
        {"session_id": "s", "metadata": MANY},
        {
            "databricks-ai-gateway-request-tags": json.dumps(
                {"session_id": "s", **{f"key-{index}": "v" * 400 for index in range(9)}}, separators=(",", ":")
            )
        },
        [
            f"databricks: databricks-ai-gateway-request-tags key-{index} is not sent: no room"
            for index in range(19, 8, -1)
        ],
    ),
    "bifrost: metadata that would pass for the user": Row(
        Bifrost,
        {"metadata": {"user_id": SECRET, "k": 1}},
        {"x-bf-dim-user_id": None, "x-bf-dim-k": "1"},
        ["bifrost: metadata user_id is not sent: the name is reserved"],
    ),
    "tensorzero: attribute values are JSON": Row(
        TensorZero,
        {"session_id": 'ä"'},
        {"tensorzero-otlp-traces-extra-attribute-session.id": r'"\u00e4\""'},
        [],
        {"tensorzero::tags": {"session_id": 'ä"'}},
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_values_over_a_limit_are_left_out_and_logged(
    name: str, server: testing.Gateway, watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """The debug line names gateway, field and reason; the call itself goes through."""
    row = ROWS[name]
    caplog.set_level(logging.DEBUG, logger="byline")
    with (
        watching(row.make(server.base_url), llm_spans=False),
        byline.bound(**row.known),
        sdk(server.base_url) as client,
    ):
        client.chat.completions.create(**CHAT)
    (request,) = server.requests
    assert {header: request.headers.get(header) for header in row.headers} == row.headers
    assert {key: value for key, value in request.json().items() if key not in CHAT} == row.body
    lines = [record.getMessage() for record in caplog.records if record.name == "byline"]
    assert [line for line in lines if "is not sent" in line] == row.log
    assert SECRET not in caplog.text
    assert "v" * 100 not in caplog.text


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
def test_missing_ids_add_no_fields(made: type[Gateway]) -> None:
    """An GatewayRequest of nothing: no ids, no body, no span."""
    call = GatewayRequest(attribution=Attribution(), headers={"accept": "*/*"})
    made().inject(call)
    assert call.headers == {"accept": "*/*"}
    assert call.body is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"a":1}x', b"\xff\xfe{}", b'"x"', b'{"a": NaN}', b"[{}]"]
)
@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
def test_bodies_that_are_no_json_object_stay(made: type[Gateway], body: bytes) -> None:
    """The app gets the gateway's own response to them."""
    call = GatewayRequest(
        attribution=Attribution(session_id="session-0001", user_id="ada", tags=("a",)),
        headers={},
        body=body,
        path="/v1/chat/completions",
    )
    made().inject(call)
    assert call.body == body


#: Values in the place of a number, an id or a word.
BAD = [
    "",
    " ",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e13",
    "abc",
    "0x10",
    "1,5",
    "9" * 400,
    "\x00\x01",
    "x" * 300,
    "ü" * 201,
]
NAMES = sorted(
    {
        "x-generation-id",
        "x-openrouter-cache-status",
        "x-openrouter-cache-source-id",
        "x-litellm-call-id",
        "x-litellm-model-id",
        "x-litellm-model-group",
        "x-litellm-model-name",
        "x-litellm-overhead-duration-ms",
        "x-litellm-attempted-retries",
        "x-litellm-attempted-fallbacks",
        "x-litellm-key-max-budget",
        "x-litellm-key-spend",
        "x-litellm-response-cost",
        "x-litellm-response-cost-input",
        "x-litellm-key-rpm-limit",
        "x-litellm-key-remaining-tokens-m",
        "x-ratelimit-api_key-limit-requests",
        "x-portkey-trace-id",
        "x-portkey-retry-attempt-count",
        "x-portkey-cache-status",
        "x-portkey-last-used-option-index",
        "helicone-id",
        "helicone-cache",
        "helicone-fallback-index",
        "helicone-ratelimit-limit",
        "cf-aig-log-id",
        "cf-aig-step",
        "cf-aig-model",
        "cf-aig-cache-status",
        "x-bifrost-request-id",
        "x-bifrost-fallback-index",
        "x-bifrost-routing-info-provider",
        "x-bifrost-routing-info-is-fallback",
        "x-kong-request-id",
        "x-kong-llm-model",
        "x-kong-proxy-latency",
        "x-cache-status",
        "x-ai-ratelimit-limit-hour-openai",
        "x-ai-ratelimit-reset",
        "x-bt-span-id",
        "remaining-tokens",
        "langfuse-request-id",
        "langfuse-provider",
        "x-request-id",
        "request-id",
    }
)
BODIES: list[Any] = [
    None,
    {},
    {"usage": []},
    {
        "usage": {
            "cost": "x",
            "cost_details": 3,
            "tensorzero_cost": [],
            "tensorzero_provider_cache_write_input_tokens": -1,
        }
    },
    {"usage": {"cost": True, "cost_details": {"upstream_inference_cost": {}}, "tensorzero_cost": math.nan}},
    {"usage": {"cost": -1, "tensorzero_cost": 1e300}},
    {"openrouter_metadata": 1, "providerMetadata": [], "extra_fields": "x"},
    {"openrouter_metadata": {"attempt": "x", "endpoints": {"available": [1, {"selected": True, "provider": 3}]}}},
    {"providerMetadata": {"gateway": {"routing": {"attempts": 5, "finalProvider": {}}, "cost": []}}},
    {"extra_fields": {"cache_debug": {"cache_hit": "yes", "cache_id": 4}, "provider": 1}},
    {"id": 5, "provider": ["x"], "generationId": {}},
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
def test_malformed_responses_give_no_values(made: type[Gateway], streamed: bool) -> None:
    """Never an error, never a number that is none, never a text that is no short one."""
    gateway = made()
    for bad in BAD:
        for body in BODIES:
            facts = CallResult()
            headers = dict.fromkeys(NAMES, bad)
            gateway.read(GatewayResponse(status=200, headers=headers, body=body, streamed=streamed), facts)
            for field in facts.__struct_fields__:
                value = getattr(facts, field)
                if isinstance(value, float):
                    assert math.isfinite(value), (field, bad)
                    assert value >= 0, (field, bad)
                elif isinstance(value, str):
                    assert 0 < len(value) <= 200, (field, bad)
                    assert value.isprintable(), (field, bad)
            for limit in (facts.requests, facts.tokens):
                assert limit is None or (limit.limit or 0) >= 0


def test_malformed_responses_change_neither_call_nor_span(
    server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """The SDK gets its answer, the span its model."""
    bad = {name: "nan" for name in NAMES if name not in ("x-request-id", "request-id")}
    server.answer({"id": "c-1", "object": "chat.completion", "choices": [], "model": "m", "usage": None}, headers=bad)
    with watching(LiteLLM(server.base_url)), httpx2.Client() as client:
        answer = client.post(f"{server.base_url}/chat/completions", json=CHAT)
    assert answer.json()["id"] == "c-1"
    (span,) = finished()
    assert (span.attributes or {})["gen_ai.response.model"] == "m"
    assert "gen_ai.usage.cost" not in (span.attributes or {})


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("openrouter.ai", "openrouter"),
        ("openrouter.ai.evil.example", None),
        ("xopenrouter.ai", None),
        ("evil.example", None),
        ("oai.helicone.ai", "helicone"),
        ("helicone.ai", None),
        ("xhelicone.ai", None),
        ("helicone.ai.evil.example", None),
        # A proxy reads another host.
        (r"evil.example\.helicone.ai", None),
        ("evil.example%2f.helicone.ai", None),
        ("evil.example;.helicone.ai", None),
        ("evil.example@.helicone.ai", None),
        ("dbc-1.cloud.databricks.com", "databricks"),
        ("gateway.ai.cloudflare.com", "cloudflare"),
        ("ai-gateway.vercel.sh", "vercel"),
        ("api.portkey.ai", "portkey"),
        ("api.openai.com", "openai"),
        ("llm-gateway.aptible.com", "aptible"),
    ],
)
def test_hosts_of_their_own_are_known_without_configuration(host: str, found: str | None) -> None:
    gateway = GatewayRegistry().find(host, 443, "/v1/chat/completions")
    assert (gateway and gateway.name) == found


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/llm/v1/chat/completions", True),
        ("/llm", True),
        ("/llm/v1/..x/a", True),
        ("/llm/v1/...", True),
        ("/llm2/v1", False),
        ("/llm/../admin/chat/completions", False),
        ("/llm/%2e%2E/admin/chat/completions", False),
        ("/llm/.%2e%2fadmin/chat/completions", False),
        ("/llm/..", False),
    ],
)
def test_a_path_that_leads_out_of_a_gateway_is_none_of_its_own(path: str, expected: bool) -> None:
    assert LiteLLM("http://host.internal/llm").recognises("host.internal", 80, path) is expected


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
def test_no_call_costs_more_than_ten_thousand_dollars(made: type[Gateway]) -> None:
    """An endpoint that nobody has named could spoil every report of costs."""
    stated = {
        "usage": {"cost": 999_999_999.0, "cost_details": {"upstream_inference_cost": 1e9}, "tensorzero_cost": 1e9},
        "providerMetadata": {"gateway": {"cost": "1e9"}},
    }
    for streamed in (False, True):
        result = CallResult()
        headers = dict.fromkeys((name for name in NAMES if name.startswith("x-litellm-response-cost")), "999999999.0")
        made().extract(GatewayResponse(status=200, headers=headers, body=stated, streamed=streamed), result)
        assert result.cost is None
        assert not result.cost_details


@pytest.mark.parametrize(
    "base_url",
    ["", "llm.internal", "ftp://llm.internal", "http://", "http://h:port", "http://h:99999", "http://[::1", 5],
)
def test_base_url_that_is_none_fails_at_construction(base_url: Any) -> None:
    with pytest.raises(SettingError) as caught:
        LiteLLM(base_url)
    assert caught.value.id == "byline.E032"
    assert repr(base_url) in caught.value.problem


def test_password_in_a_base_url_is_not_said_again() -> None:
    with pytest.raises(SettingError) as caught:
        LiteLLM(f"ftp://ada:{SECRET}@llm.internal")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("port", "path", "found"),
    [
        (4000, "/v1/chat/completions", True),
        (4000, "/v1", True),
        (4000, "/v10/chat/completions", False),
        (4000, "/chat/completions", False),
        (4001, "/v1/chat/completions", False),
        (None, "/v1/chat/completions", False),
    ],
)
def test_configured_gateway_is_its_origin_and_path(port: int | None, path: str, found: bool) -> None:
    known = GatewayRegistry([LiteLLM("http://LLM.internal:4000/v1/")])
    assert (known.find("llm.internal", port, path) is not None) is found
