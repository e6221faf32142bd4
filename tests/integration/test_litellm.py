"""A real LiteLLM proxy between a real app and a model: one trace, the same ids, one cost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.integration.conftest import need, running
from tests.servers import free_port

pytestmark = pytest.mark.integration

KEY = "sk-team-blue-0123456789abcdef"
#: The price that the test gateway states for its responses, so that LiteLLM computes the same cost either way.
CONFIG = """
model_list:
  - model_name: smart
    litellm_params:
      model: openai/gpt-4o
      api_base: {upstream}/v1
      api_key: sk-upstream
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
litellm_settings:
  callbacks: ["langfuse_otel"]
  cache: true
  cache_params: {{type: local}}
  num_retries: 0
general_settings:
  master_key: sk-4f1d0c5e7b9a2386d1e0f7a6b5c4d3e2
  custom_auth: custom_auth.auth
"""
#: Virtual keys need a database; these values replace it.
AUTH = """
from litellm.proxy._types import UserAPIKeyAuth


async def auth(request, api_key):
    return UserAPIKeyAuth(
        api_key=api_key, key_alias="team-blue", user_id="owner", spend=1.25, max_budget=50.0,
        rpm_limit=600, tpm_limit=100000,
    )
"""
LIMITS = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "8.64s",
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-tokens": "199950",
    "x-ratelimit-reset-tokens": "15ms",
}
CLAIMED: dict[str, Any] = {
    "user": "ada",
    "trace": {
        "trace_name": "Pipeline",
        "generation_name": "Answer",
        "tags": ["a", "b"],
        "release": "r1",
        "team": "blue",
    },
}


class Setting(NamedTuple):
    """A proxy in one of its modes, its upstream, and the receiver of both proxy and app."""

    mode: str
    url: str
    upstream: Gateway
    receiver: Receiver
    directory: Path


@pytest.fixture(scope="module", params=["V1", "V2"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    program = need("BYLINE_LITELLM", "litellm")
    directory = tmp_path_factory.mktemp("litellm")
    with Gateway() as upstream, Receiver() as receiver:
        upstream.headers.update(LIMITS)
        (directory / "config.yaml").write_text(CONFIG.format(upstream=upstream.url), "utf-8")
        (directory / "custom_auth.py").write_text(AUTH, "utf-8")
        port = free_port()
        env = {
            "LANGFUSE_PUBLIC_KEY": "pk-lf-test",
            "LANGFUSE_SECRET_KEY": "sk-lf-test",
            "LANGFUSE_OTEL_HOST": receiver.url,
            "LANGFUSE_HOST": receiver.url,
            "LITELLM_OTEL_V2": "true" if request.param == "V2" else "false",
            "LITELLM_LOCAL_MODEL_COST_MAP": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "PYTHONPATH": "",
        }
        command = [program, "--config", str(directory / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
        base = f"http://127.0.0.1:{port}"
        with running(command, f"{base}/health/liveliness", directory / "log", env):
            yield Setting(request.param, base, upstream, receiver, directory)


@contextlib.contextmanager
def app_of(setting: Setting, **env: str) -> Iterator[str]:
    """Run the app in front of the proxy."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    settings = {
        "LITELLM_URL": setting.url,
        "OPENAI_API_KEY": KEY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": setting.receiver.url,
        "OTEL_SERVICE_NAME": "app",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **env,
    }
    command = [sys.executable, "-m", "uvicorn", "tests.integration.litellm_app:app", "--port", str(port)]
    with running(command, f"{base}/up", setting.directory / "app.log", settings):
        yield base


@pytest.fixture(scope="module")
def app(proxy: Setting) -> Iterator[str]:
    with app_of(proxy) as base:
        yield base


@pytest.fixture(scope="module", params=["0", "1"], ids=["own span", "instrumented"])
def broadcast_app(proxy: Setting, request: pytest.FixtureRequest) -> Iterator[str]:
    """The app with byline's own LLM spans, and with those of an instrumentation, which has tokens of its own."""
    with app_of(proxy, BROADCASTS="1", INSTRUMENTED=request.param) as base:
        yield base


class Exchange(NamedTuple):
    """The proxy's response, and the exported spans."""

    headers: dict[str, str]
    last: dict[str, Any]
    ours: ReceivedSpan
    theirs: ReceivedSpan
    trace: list[ReceivedSpan]


def is_complete(span: ReceivedSpan, spans: list[ReceivedSpan]) -> bool:
    """Whether everything above a span has arrived."""
    return bool({each.span_id for each in spans if each.parent_id is None} & set(ancestors(span, spans)))


def is_ours(span: ReceivedSpan) -> bool:
    return span.resource.get("service.name") == "app" and "gen_ai.operation.name" in span.attributes


def is_theirs(span: ReceivedSpan) -> bool:
    return span.scope == "litellm" and ("litellm.call_id" in span.attributes or span.name == "litellm_request")


def until(receiver: Receiver, wanted: Callable[[list[ReceivedSpan]], Any]) -> list[ReceivedSpan]:
    """Wait until the spans that have arrived are those that are wanted."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        spans = receiver.spans
        if wanted(spans):
            return spans
        time.sleep(0.05)
    pytest.fail("missing: " + ", ".join(f"{span.scope}:{span.name}" for span in receiver.spans))


def ask(
    setting: Setting,
    app: str,
    question: str,
    session: str = "s-1",
    wanted: Callable[[ReceivedSpan], bool] = is_theirs,
    **options: Any,
) -> Exchange:
    """Ask the app, and wait for its LLM span, for the wanted one of the proxy, and for all above the two."""
    setting.receiver.clear()
    body = {"question": question, **CLAIMED, **options}
    answer = httpx2.post(f"{app}/ask", json=body, headers={"x-session-id": session}, timeout=60).json()
    spans = until(
        setting.receiver,
        lambda spans: (
            any(map(is_ours, spans))
            and any(map(wanted, spans))
            and all(span.parent_id is None or is_complete(span, spans) for span in spans)
        ),
    )
    (ours,) = filter(is_ours, spans)
    (theirs,) = filter(wanted, spans)
    return Exchange(answer["headers"], answer.get("last") or {}, ours, theirs, spans)


def ancestors(span: ReceivedSpan, spans: list[ReceivedSpan]) -> list[str]:
    """The ids above a span, the nearest first."""
    by_id = {each.span_id: each for each in spans}
    found = []
    parent = span.parent_id
    while parent is not None:
        found.append(parent)
        parent = by_id[parent].parent_id if parent in by_id else None
    return found


def cost_of(span: ReceivedSpan) -> float:
    """Return the cost of a span, under any instrumentation's name."""
    stated = {span.attributes[name] for name in COSTS if name in span.attributes}
    assert len(stated) <= 1
    return float(next(iter(stated), 0.0))


def price_of(span: ReceivedSpan) -> float:
    """The cost that LiteLLM computes from its configured prices."""
    names = (
        ("gen_ai.usage.input_tokens", "llm.token_count.prompt"),
        (
            "gen_ai.usage.output_tokens",
            "llm.token_count.completion",
        ),
    )
    sent, received = (next(span.attributes[name] for name in each if name in span.attributes) for each in names)
    return float(sent * 0.0000025 + received * 0.00001)


def is_a_hit(span: ReceivedSpan) -> bool:
    """With V2 a look into the cache is all that LiteLLM makes of a hit."""
    return is_theirs(span) or span.name.startswith("cache.get")


COSTS = ("gen_ai.usage.cost", "llm.cost.total", "litellm.cost.total")
kinds = pytest.mark.parametrize(
    "options",
    [{}, {"stream": True}, {"stream": True, "include_usage": True}],
    ids=["whole", "streamed", "streamed with usage"],
)


@pytest.mark.parametrize("mask", ["mask_input", "mask_output"])
def test_gateway_does_not_record_content_that_a_caller_masks(proxy: Setting, app: str, mask: str) -> None:
    """On its LLM span neither question nor answer, for it knows nothing of the two apart."""
    plain = ask(proxy, app, f"plainly {mask}")
    # Its second mode records no content by default.
    assert ("plainly" in str(plain.theirs)) is (proxy.mode == "V1")
    masked = ask(proxy, app, f"masked-question {mask}", metadata={mask: True})
    assert "masked-question" not in str(masked.theirs)
    assert masked.last["choices"][0]["message"]["content"] not in str(masked.theirs)
    assert masked.theirs.trace_id == masked.ours.trace_id


@kinds
def test_the_gateways_llm_span_hangs_below_ours(proxy: Setting, app: str, options: dict[str, Any]) -> None:
    """In the same trace; with V2 there is LiteLLM's own server span between the two."""
    found = ask(proxy, app, f"joined {options}", **options)
    above = ancestors(found.theirs, found.trace)
    assert found.theirs.trace_id == found.ours.trace_id
    assert above[0 if proxy.mode == "V1" else 1] == found.ours.span_id
    astray = [
        f"{span.scope}:{span.name}"
        for span in found.trace
        if span.resource.get("service.name") != "app" and found.ours.span_id not in ancestors(span, found.trace)
    ]
    # Whether it is alive was asked before; and V2 fills its cache in a trace of its own, after the reply.
    assert set(astray) <= {
        "opentelemetry.instrumentation.fastapi:GET /health/liveliness",
        "litellm:cache.set llm_response",
    }


@kinds
@pytest.mark.parametrize("session", ["s-1", "conversation:42/a"])
def test_both_have_the_same_session_user_and_names(
    proxy: Setting, app: str, options: dict[str, Any], session: str
) -> None:
    """Also a session that LiteLLM would not take as ``x-session-id``."""
    found = ask(proxy, app, f"ids {session} {options}", session, **options)
    for name, value in (("session.id", session), ("user.id", "ada"), ("langfuse.trace.name", "Pipeline")):
        assert found.ours.attributes[name] == value
        assert found.theirs.attributes[name] == value
    tags = found.theirs.attributes["langfuse.trace.tags"]
    assert (json.loads(tags) if isinstance(tags, str) else tags) == ["a", "b"]
    assert found.ours.attributes["langfuse.trace.tags"] == ["a", "b"]
    if proxy.mode == "V1":
        assert found.theirs.attributes["langfuse.generation.name"] == "Answer"
        assert found.theirs.attributes["langfuse.release"] == found.ours.attributes["langfuse.release"] == "r1"
        assert json.loads(found.theirs.attributes["langfuse.trace.metadata"]) == {"team": "blue"}
        assert found.ours.attributes["langfuse.trace.metadata.team"] == "blue"
        # Not the session, which LiteLLM would take for it otherwise.
        assert found.theirs.attributes["langfuse.trace.id"] == found.ours.trace_id


@kinds
def test_span_equals_the_headers_and_the_gateways_own_span(proxy: Setting, app: str, options: dict[str, Any]) -> None:
    """Request, model, provider, attempts, key, limits, tokens, and cost if the client is told."""
    found = ask(proxy, app, f"facts {options}", **options)
    ours, theirs, headers = found.ours.attributes, found.theirs.attributes, found.headers
    assert ours["byline.gateway.name"] == "litellm"
    assert ours["byline.gateway.request.id"] == headers["x-litellm-call-id"]
    assert ours["byline.gateway.model.id"] == headers["x-litellm-model-id"]
    assert ours["byline.gateway.model.group"] == headers["x-litellm-model-group"] == "smart"
    assert f"{ours['byline.gateway.provider']}/{ours['gen_ai.response.model']}" == headers["x-litellm-model-name"]
    assert ours["byline.gateway.attempts"] == 1 + int(headers["x-litellm-attempted-retries"])
    assert ours["byline.gateway.fallbacks"] == int(headers["x-litellm-attempted-fallbacks"])
    assert ours["byline.gateway.overhead"] == pytest.approx(float(headers["x-litellm-overhead-duration-ms"]) / 1000)
    for kind in ("requests", "tokens"):
        assert ours[f"byline.ratelimit.{kind}.limit"] == int(LIMITS[f"x-ratelimit-limit-{kind}"])
        assert ours[f"byline.ratelimit.{kind}.remaining"] == int(LIMITS[f"x-ratelimit-remaining-{kind}"])
    assert ours["byline.ratelimit.requests.reset"] == 8.64
    assert ours["byline.ratelimit.tokens.reset"] == 0.015

    key_hash = hashlib.sha256(KEY.encode()).hexdigest()
    assert ours["byline.gateway.key.hash"] == key_hash
    assert ours["byline.gateway.key.budget"] == 50.0
    if proxy.mode == "V1":
        about = json.loads(theirs["metadata"])
        assert about["user_api_key_hash"] == key_hash
        assert about["user_api_key_max_budget"] == 50.0
        tokens = theirs["llm.token_count.prompt"], theirs["llm.token_count.completion"]
        assert theirs["llm.response.id"] == ours["gen_ai.response.id"]
    else:
        assert theirs["litellm.api_key.hash"] == key_hash
        assert theirs["litellm.call_id"] == ours["byline.gateway.request.id"]
        tokens = theirs["gen_ai.usage.input_tokens"], theirs["gen_ai.usage.output_tokens"]
        assert theirs["gen_ai.response.id"] == ours["gen_ai.response.id"]
    if options == {"stream": True}:
        # This client gets no tokens and no cost; LiteLLM's own span has them.
        assert "gen_ai.usage.input_tokens" not in ours
        assert ours.get("byline.cost.source") != "gateway"
        return
    assert (ours["gen_ai.usage.input_tokens"], ours["gen_ai.usage.output_tokens"]) == tokens
    stated = found.last["usage"]["cost"] if options else float(headers["x-litellm-response-cost"])
    assert ours["byline.cost.source"] == "gateway"
    assert cost_of(found.ours) == pytest.approx(stated)
    assert cost_of(found.ours) == pytest.approx(cost_of(found.theirs))
    assert stated > 0
    if not options:
        assert ours["byline.gateway.key.spend"] == float(headers["x-litellm-key-spend"]) > 1.25
        parts = float(headers["x-litellm-response-cost-input"]), float(headers["x-litellm-response-cost-output"])
        assert (ours["byline.cost.input"], ours["byline.cost.output"]) == pytest.approx(parts)
        assert sum(parts) == pytest.approx(stated)


@kinds
def test_a_trace_with_a_gateway_that_broadcasts_costs_one_call(
    proxy: Setting, broadcast_app: str, options: dict[str, Any]
) -> None:
    """LiteLLM's span alone carries usage and cost; ours keeps everything else. Both are in the caller's trace."""
    named = {**CLAIMED["trace"], "trace_id": "workflow_12345"}
    found = ask(proxy, broadcast_app, f"broadcast {broadcast_app} {options}", trace=named, **options)
    assert found.ours.trace_id == found.theirs.trace_id == "7af15d27557f4b0547b66811c67d365d"
    assert found.ours.span_id in ancestors(found.theirs, found.trace)
    assert sum(map(cost_of, found.trace)) == pytest.approx(cost_of(found.theirs))
    assert cost_of(found.theirs) == pytest.approx(price_of(found.theirs))
    assert not [name for name in found.ours.attributes if name.startswith(("gen_ai.usage.", "byline.cost."))]
    assert found.ours.attributes["byline.gateway.request.id"] == found.headers["x-litellm-call-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_cache_hit_costs_nothing_and_has_its_savings(proxy: Setting, app: str, stream: bool) -> None:
    """Its headers repeat the cost of the call that filled the cache."""
    options: dict[str, Any] = {"stream": True, "include_usage": True} if stream else {}
    first = ask(proxy, app, f"cached {stream}", **options)
    again = ask(proxy, app, f"cached {stream}", wanted=is_a_hit, **options)
    assert cost_of(first.ours) == pytest.approx(price_of(first.theirs))
    assert "byline.cache.hit" not in first.ours.attributes
    assert again.ours.attributes["byline.cache.hit"] is True
    assert again.ours.attributes["byline.cache.key"] == again.headers["x-litellm-cache-key"]
    assert again.ours.attributes["gen_ai.usage.cost"] == 0.0
    assert again.ours.attributes["byline.cache.savings"] == pytest.approx(price_of(first.theirs))
    assert sum(map(cost_of, again.trace)) == 0.0


def test_error_hangs_below_ours_too(proxy: Setting, app: str) -> None:
    """Its headers say cost 0, which is no price."""
    proxy.upstream.fail(400, times=4)
    found = ask(proxy, app, "failing")
    proxy.upstream._script.clear()
    assert found.ours.status == "ERROR"
    assert found.ours.attributes["http.response.status_code"] == 400
    assert found.theirs.status == "ERROR"
    assert found.ours.span_id in ancestors(found.theirs, found.trace)
    assert "gen_ai.usage.cost" not in found.ours.attributes


def test_app_that_samples_nothing_does_not_silence_the_gateway(proxy: Setting) -> None:
    """LiteLLM exports nothing for an unsampled parent, so that it gets none: its span is a root, with the ids."""
    with app_of(proxy, OTEL_TRACES_SAMPLER="always_off") as app:
        proxy.receiver.clear()
        httpx2.post(
            f"{app}/ask", json={"question": "unsampled", **CLAIMED}, headers={"x-session-id": "s-2"}, timeout=60
        )
        spans = until(proxy.receiver, lambda spans: any(map(is_theirs, spans)))
    (theirs,) = filter(is_theirs, spans)
    assert theirs.attributes["session.id"] == "s-2"
    assert theirs.attributes["user.id"] == "ada"
    assert not [span for span in spans if span.resource.get("service.name") == "app"]
