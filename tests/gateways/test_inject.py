"""Requests to each gateway through the real OpenAI SDK: exactly the documented names, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.trace import ReadableSpan

import byline
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
from byline.gateways.providers import hash_user_id
from tests.gateways.conftest import Watching, sdk

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this? ü"}]}
KNOWN: dict[str, Any] = {
    "session_id": "session-0001",
    "user_id": "ada",
    "trace_id": "workflow-1",
    "trace_name": "Pipeline",
    "span_name": "Step",
    "generation_name": "Answer",
    "environment": "staging",
    "release": "r1",
    "tags": ["a", "b"],
    "metadata": {"team": "blue", "n": 2, "beta": True},
    "organization_id": "org-1",
}
JOINED = {"traceparent": "00-{trace}-{span}-01"}


class Row(NamedTuple):
    """One gateway: the added headers, and the members added to the app's body."""

    make: Callable[[str], Gateway]
    headers: dict[str, str]
    body: dict[str, Any] = {}  # noqa: RUF012 - nobody writes into it
    path: str = "/v1"


ROWS: dict[str, Row] = {
    "openrouter": Row(
        OpenRouter,
        {"x-session-id": "session-0001"},
        {
            "user": "ada",
            "trace": {
                "trace_id": "{trace}",
                "parent_span_id": "{span}",
                "trace_name": "Pipeline",
                "span_name": "Step",
                "generation_name": "Answer",
                "environment": "staging",
                "release": "r1",
                "team": "blue",
                "n": 2,
                "beta": True,
            },
        },
        "/api/v1",
    ),
    "litellm": Row(
        LiteLLM,
        {
            **JOINED,
            "x-litellm-session-id": "session-0001",
            "x-litellm-end-user-id": "ada",
            "x-litellm-tags": "a,b",
            "langfuse_trace_id": "{trace}",
            "langfuse_parent_observation_id": "{span}",
            "langfuse_trace_user_id": "ada",
            "langfuse_trace_name": "Pipeline",
            "langfuse_generation_name": "Answer",
            "langfuse_trace_release": "r1",
            "langfuse_trace_metadata": '{"team":"blue","n":2,"beta":true}',
        },
    ),
    "aptible": Row(Aptible, {"x-session-id": "session-0001"}),
    "langfuse": Row(
        LangfuseGateway,
        {
            **JOINED,
            "langfuse-session-id": "session-0001",
            "langfuse-user-id": "ada",
            "langfuse-trace-name": "Pipeline",
            "langfuse-tags": "a,b",
            "langfuse-metadata": "team:blue,n:2,beta:true",
        },
    ),
    "portkey": Row(
        Portkey,
        {
            **JOINED,
            "x-portkey-metadata": '{"_user":"ada","_environment":"staging","_organisation":"org-1",'
            '"session_id":"session-0001","team":"blue","n":"2","beta":"true"}',
        },
    ),
    "helicone": Row(
        Helicone,
        {
            "helicone-session-id": "session-0001",
            "helicone-session-name": "Pipeline",
            "helicone-session-path": "/Step/Answer",
            "helicone-user-id": "ada",
            "helicone-property-environment": "staging",
            "helicone-property-tags": "a,b",
            "helicone-property-team": "blue",
            "helicone-property-n": "2",
            "helicone-property-beta": "true",
        },
    ),
    "cloudflare": Row(
        Cloudflare,
        {
            "cf-aig-metadata": '{"session_id":"session-0001","user_id":"ada","trace_name":"Pipeline",'
            '"team":"blue","n":2}',
            "cf-aig-otel-trace-id": "{trace}",
            "cf-aig-otel-parent-span-id": "{span}",
        },
        path="/v1/account/gateway/openai",
    ),
    "vercel": Row(Vercel, {}, {"providerOptions": {"gateway": {"user": "ada", "tags": ["a", "b"]}}}),
    "envoy": Row(Envoy, {**JOINED, "agent-session-id": "session-0001"}),
    "bifrost": Row(
        Bifrost,
        {
            **JOINED,
            "x-bf-dim-session_id": "session-0001",
            "x-bf-dim-user_id": "ada",
            "x-bf-dim-trace_name": "Pipeline",
            "x-bf-dim-environment": "staging",
            "x-bf-dim-team": "blue",
            "x-bf-dim-n": "2",
            "x-bf-dim-beta": "true",
        },
    ),
    "tensorzero": Row(
        TensorZero,
        {
            **JOINED,
            "tensorzero-otlp-traces-extra-attribute-session.id": '"session-0001"',
            "tensorzero-otlp-traces-extra-attribute-user.id": '"ada"',
        },
        {
            "tensorzero::tags": {
                "session_id": "session-0001",
                "user_id": "ada",
                "trace_name": "Pipeline",
                "team": "blue",
                "n": "2",
                "beta": "true",
            }
        },
        "/openai/v1",
    ),
    "kong": Row(Kong, JOINED),
    "databricks": Row(
        Databricks,
        {
            "databricks-ai-gateway-request-tags": '{"session_id":"session-0001","user_id":"ada",'
            '"trace_name":"Pipeline","environment":"staging","team":"blue","n":"2","beta":"true"}'
        },
    ),
    "mlflow": Row(MLflow, JOINED),
    "braintrust": Row(Braintrust, {}),
    "azure_apim": Row(AzureAPIM, {}),
    "azure_apim, with headers of a policy": Row(
        lambda url: AzureAPIM(url, session_header="X-Conversation", user_header="X-User"),
        {"x-conversation": "session-0001", "x-user": "ada"},
    ),
    "openai": Row(OpenAI, {}),
    "openai, when it is asked for": Row(
        lambda url: OpenAI(url, safety_identifier=True), {}, {"safety_identifier": hash_user_id("ada")}
    ),
    "anthropic": Row(Anthropic, {}),
    "gemini": Row(Gemini, {}),
}

Finished = Callable[[], Sequence[ReadableSpan]]


def ask(base_url: str, **options: Any) -> None:
    with sdk(base_url) as client:
        client.chat.completions.create(**CHAT, **options)


def changes(before: testing.Request, after: testing.Request) -> dict[str, str]:
    """The headers that are new or other, besides the length of the body."""
    assert before.headers.keys() <= after.headers.keys()
    return {
        name: value
        for name, value in after.headers.items()
        if before.headers.get(name) != value and name != "content-length"
    }


def filled(expected: Any, span: ReadableSpan) -> Any:
    """Put the ids of the LLM span into the expected values."""
    context = span.get_span_context()
    assert context is not None
    text = json.dumps(expected)
    return json.loads(text.replace("{trace}", f"{context.trace_id:032x}").replace("{span}", f"{context.span_id:016x}"))


def test_every_gateway_has_a_row() -> None:
    assert {name.partition(",")[0] for name in ROWS} == {made.name for made in ALL}


@pytest.mark.parametrize("name", ROWS)
def test_exactly_the_documented_fields_leave(
    name: str, server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """Header by header and member by member; the app's part of the body stays byte for byte."""
    row = ROWS[name]
    base = server.url + row.path
    ask(base)
    with watching(row.make(base)), byline.bound(**KNOWN):
        ask(base)
    before, after = server.requests
    (span,) = finished()
    assert changes(before, after) == filled(row.headers, span)
    assert after.json() == {**filled(row.body, span), **before.json()}
    assert after.body.endswith(before.body[1:])
    assert (after.body == before.body) is not bool(row.body)


@pytest.mark.parametrize("name", ROWS)
def test_request_without_attribution_is_unchanged(name: str, server: testing.Gateway, watching: Watching) -> None:
    """No LLM span and no attribution: the call goes out as the app made it."""
    row = ROWS[name]
    base = server.url + row.path
    ask(base)
    with watching(row.make(base), llm_spans=False):
        ask(base)
    before, after = server.requests
    assert changes(before, after) == {}
    assert after.body == before.body


@pytest.mark.parametrize("name", ROWS)
def test_headers_and_members_of_the_app_stay(name: str, server: testing.Gateway, watching: Watching) -> None:
    """Every header and member that byline would write, once set by the app, is left as it is."""
    row = ROWS[name]
    base = server.url + row.path
    own: dict[str, Any] = {member: {"gateway": {}, "own": 1} for member in row.body}
    headers = dict.fromkeys(row.headers, "own")
    options = {"extra_headers": headers, "extra_body": own}
    ask(base, **options)
    with watching(row.make(base)), byline.bound(**{**KNOWN, "metadata": {}}):
        ask(base, **options)
    before, after = server.requests
    added = changes(before, after)
    # Metadata that goes out as headers of their own is not told here.
    assert {name: value for name, value in added.items() if name in row.headers} == {}
    for member in row.body:
        mine = after.json()[member]
        assert {**mine, **own[member]} == mine if isinstance(mine, dict) else mine == own[member]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "traceparent" in row.headers])
def test_unsampled_span_is_not_joined(name: str, server: testing.Gateway, watching: Watching, unsampled: None) -> None:
    """A gateway exports nothing at all for an unsampled parent; the ids go out all the same."""
    row = ROWS[name]
    base = server.url + row.path
    with watching(row.make(base)), byline.bound(**KNOWN):
        ask(base)
    (request,) = server.requests
    assert "traceparent" not in request.headers
    sent = {header for header, value in row.headers.items() if "{" not in value or value.startswith('{"')}
    assert sent <= request.headers.keys()
    assert not (row.headers.keys() - sent) & request.headers.keys()


def test_no_trace_ids_leave_for_an_unsampled_span(server: testing.Gateway, watching: Watching, unsampled: None) -> None:
    """OpenRouter and Cloudflare take them by other names."""
    with watching(OpenRouter(server.base_url), Cloudflare(server.url + "/cf")), byline.bound(**KNOWN):
        ask(server.base_url)
        ask(server.url + "/cf")
    first, second = server.requests
    assert first.json()["trace"]["trace_name"] == "Pipeline"
    assert not {"trace_id", "parent_span_id"} & first.json()["trace"].keys()
    assert not {"cf-aig-otel-trace-id", "cf-aig-otel-parent-span-id"} & second.headers.keys()


def test_body_is_left_alone_for_the_response_cache(server: testing.Gateway, watching: Watching) -> None:
    """OpenRouter's cache is keyed by the body: two users of one question share its answer."""
    cache = {"x-openrouter-cache": "true"}
    with watching(OpenRouter(server.base_url)):
        for user in ("ada", "bob"):
            with (
                byline.bound(session_id=f"session-{user}", user_id=user),
                sdk(server.base_url) as client,
            ):
                raw = client.chat.completions.with_raw_response.create(**CHAT, extra_headers=cache)
    first, second = server.requests
    assert first.body == second.body
    assert first.headers["x-session-id"] == "session-ada"
    assert raw.headers["x-openrouter-cache-status"] == "HIT"


@pytest.mark.parametrize("masks", [{"mask_input": True}, {"mask_output": "true"}, {"mask_input": 1, "mask_output": 1}])
def test_litellm_is_told_of_the_callers_masks(
    masks: dict[str, Any], server: testing.Gateway, watching: Watching
) -> None:
    """Its OpenTelemetry export reads only the last header, which is for both."""
    base = server.url + "/v1"
    with watching(LiteLLM(base)):
        for metadata in (masks, dict.fromkeys(masks, False), {}):
            with byline.bound(metadata=metadata):
                ask(base)
    asked, *others = [
        {name for name in request.headers if "mask" in name or "redact" in name} for request in server.requests
    ]
    assert asked == {*(f"langfuse_{mask}" for mask in masks), "x-litellm-enable-message-redaction"}
    assert others == [set(), set()]


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("litellm")])
def test_masks_are_not_sent_to_gateways_without_masks(name: str, server: testing.Gateway, watching: Watching) -> None:
    """Some gateways take five entries of metadata."""
    row = ROWS[name]
    base = server.url + row.path
    with watching(row.make(base)), byline.bound(**{**KNOWN, "metadata": {"mask_input": True, "team": "blue"}}):
        ask(base)
    (request,) = server.requests
    assert "mask" not in f"{request.headers} {request.body!r}"


@pytest.mark.parametrize("path", ["/embeddings", "/api/generate"])
def test_only_bodies_that_take_the_fields_get_them(path: str, server: testing.Gateway, watching: Watching) -> None:
    """Other endpoints get the header alone."""
    import httpx2

    base = server.base_url
    body = b'{"model":"m","input":"x"}'
    with watching(OpenRouter(base), Vercel(base), TensorZero(base)), byline.bound(**KNOWN), httpx2.Client() as client:
        client.post(base + path, content=body, headers={"content-type": "application/json"})
    (request,) = server.requests
    assert request.body == body
    assert request.headers["x-session-id"] == "session-0001"


def test_subclass_of_gateway_writes_its_fields(server: testing.Gateway, watching: Watching) -> None:
    """An unknown gateway takes a few lines."""
    from byline.gateways import Field

    class House(Gateway):
        name = "house"
        sends_traceparent = True
        fields = (
            Field("session_id", "header", "x-house-session", sent=True),
            Field("tags", "header", "x-house-tags", "tags", sent=True),
            Field("user_id", "header", "x-house-user"),
        )

    base = server.url + "/v1"
    ask(base)
    with watching(House(base)), byline.bound(**KNOWN):
        ask(base)
    assert changes(*server.requests).keys() == {"traceparent", "x-house-session", "x-house-tags"}


@pytest.mark.parametrize(
    ("named", "filed"),
    [
        ("workflow_12345", "7af15d27557f4b0547b66811c67d365d"),
        ("7AF15D27-557F-4B05-47B6-6811C67D365D",) * 2,
        (None, None),
    ],
)
def test_gateway_that_broadcasts_joins_the_trace_that_the_caller_names(
    named: str | None, filed: str | None, server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """There byline's destinations file the call, so that the gateway's generation hangs below it there too."""
    gateways = [
        made(f"{server.url}/{made.name}", broadcasts=True) for made in (OpenRouter, LiteLLM, Cloudflare, Portkey)
    ]
    with watching(*gateways), byline.bound(session_id="session-0001", trace_id=named):
        for gateway in gateways:
            ask(gateway.base_url or "")
    openrouter, litellm, cloudflare, portkey = server.requests
    spans = [filled(["{trace}", "{span}"], span) for span in finished()]
    expected = [(filed.lower().replace("-", "") if filed else trace, span) for trace, span in spans]
    trace = openrouter.json()["trace"]
    assert (trace["trace_id"], trace["parent_span_id"]) == expected[0]
    assert tuple(litellm.headers["traceparent"].split("-")[1:3]) == expected[1]
    assert litellm.headers["langfuse_trace_id"] == expected[1][0]
    names = ("cf-aig-otel-trace-id", "cf-aig-otel-parent-span-id")
    assert tuple(cloudflare.headers[name] for name in names) == expected[2]
    assert tuple(portkey.headers["traceparent"].split("-")[1:3]) == expected[3]


@pytest.mark.parametrize(
    ("own", "joined"),
    [
        ({"trace_name": "Own", "feature": "x"}, True),
        ({}, True),
        ({"trace_id": "own"}, False),
        ({"parent_span_id": "own", "trace_name": "Own"}, False),
    ],
)
def test_trace_member_of_the_app_is_completed(
    own: dict[str, Any], joined: bool, server: testing.Gateway, watching: Watching, finished: Finished
) -> None:
    """OpenRouter's: names of the app stay, and its ids are not mixed with ours."""
    base = server.base_url
    with watching(OpenRouter(base)), byline.bound(**KNOWN):
        ask(base, extra_body={"trace": own})
    (request,) = server.requests
    (span,) = finished()
    expected = {**filled(ROWS["openrouter"].body["trace"], span), **own}
    if not joined:
        for name in {"trace_id", "parent_span_id"} - own.keys():
            del expected[name]
    assert request.json()["trace"] == expected
    assert request.json()["user"] == "ada"


@pytest.mark.parametrize("own", ["text", 1, None, ["a"]])
def test_trace_that_is_no_object_is_left_alone(own: Any, server: testing.Gateway, watching: Watching) -> None:
    base = server.base_url
    with watching(OpenRouter(base)), byline.bound(**KNOWN):
        ask(base, extra_body={"trace": own})
    (request,) = server.requests
    assert request.json()["trace"] == own
