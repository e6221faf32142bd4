"""The Langfuse destination, by the rules of Langfuse's server, on both of its write paths."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import byline
from byline.asgi import AttributionMiddleware
from byline.export import Langfuse
from byline.testing import Gateway, Receiver
from tests.export import client_requests
from tests.export.langfuse_model import Path, moment, observations, session_cost, traces
from tests.export.replay import INSTRUMENTATIONS, recorded, replay
from tests.export.support import AGENT, EXAMPLE, TOOL, named, running, tree

pytestmark = pytest.mark.usefixtures("no_settings")

KEYS = ("pk-lf-1", "sk-lf-1")
FILED = "7af15d27557f4b0547b66811c67d365d"
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])

#: The examples of OpenRouter's and LiteLLM's documentation, as a client sends them.
OPENROUTER: dict[str, Any] = {
    "model": client_requests.MODEL,
    "messages": client_requests.MESSAGES,
    **client_requests.OPENROUTER,
}
LITELLM: dict[str, Any] = {
    "model": client_requests.MODEL,
    "messages": client_requests.MESSAGES,
    "metadata": client_requests.BODY_CONTROLS,
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


def ask(receiver: Receiver, *bodies: dict[str, Any], **options: Any) -> None:
    """Send requests to an app that calls a model through a gateway, with byline and Langfuse set up."""

    async def chat(request: Request) -> JSONResponse:
        body = await request.json()
        async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="sk-or-v1-0123456789") as client:
            answer = await client.chat.completions.create(
                model=body["model"], messages=body["messages"], temperature=0.2, max_tokens=64
            )
        return JSONResponse({"text": answer.choices[0].message.content})

    async def send() -> None:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://app") as client:
            for body in bodies:
                assert (await client.post("/chat", json=body)).status_code == 200

    app = AttributionMiddleware(Starlette(routes=[Route("/chat", chat, methods=["POST"])]))
    known = byline.gateways.OpenRouter
    with Gateway() as gateway:
        byline.instrument(
            destinations=[Langfuse(*KEYS, receiver.url, **options)],
            gateways=[known(base_url=gateway.base_url)],
            capture_content=True,
        )
        try:
            asyncio.run(send())
        finally:
            byline.uninstrument()


@both_paths
def test_openrouters_example(receiver: Receiver, path: Path) -> None:
    """The keys, the picture and the custom keys of OpenRouter's documentation, end to end."""
    ask(receiver, OPENROUTER)
    spans = receiver.spans
    assert tree(spans) == {None: ["Summarization Step"], "Summarization Step": ["Generate Summary"]}
    (trace_id,) = traces(spans, path)
    trace = traces(spans, path)[trace_id]
    assert trace_id == FILED
    assert trace.name == "Document Processing Pipeline"
    assert trace.session == "session_abc"
    assert trace.user == "user_12345"
    assert trace.environment == "production"
    assert trace.metadata["pipeline_version"] == "2.1.0"
    shown = observations(spans, path)
    assert shown["Summarization Step"].type == "span"
    generation = shown["Generate Summary"]
    assert generation.type == "generation"
    assert generation.model == "openai/gpt-4o"
    assert generation.parameters == {"temperature": 0.2, "max_tokens": 64}
    assert generation.usage["input"] > 0
    assert generation.usage["output"] > 0
    assert generation.cost["total"] > 0
    assert session_cost(spans, path) == {"session_abc": generation.cost["total"]}
    assert "Summarize this document" in generation.input
    assert generation.output
    assert generation.metadata["gateway_name"] == "openrouter"
    assert generation.level == "DEFAULT"


@both_paths
@pytest.mark.parametrize(("spans", "step"), [("llm", "Step"), ("all", None), ("all", "Step")])
def test_the_trace_has_the_first_input_and_the_last_output(
    receiver: Receiver, path: Path, spans: Any, step: str | None
) -> None:
    """The root is a step or the server span, which has neither."""
    with running(Langfuse(*KEYS, receiver.url, spans=spans)) as app, app.request(span_name=step):
        app.chat(**{"gen_ai.input.messages": "first question", "gen_ai.output.messages": "first answer"})
        with app.span("agent", AGENT):
            app.chat(**{"input.value": "second question", "output.value": "second answer"})
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.input, trace.output) == ("first question", "second answer")


@both_paths
def test_requests_with_one_trace_id_are_one_trace(receiver: Receiver, path: Path) -> None:
    other = {**OPENROUTER, "trace": {**OPENROUTER["trace"], "span_name": "Check", "generation_name": "Judge"}}
    ask(receiver, OPENROUTER, other)
    spans = receiver.spans
    assert list(traces(spans, path)) == [FILED]
    assert tree(spans) == {
        None: ["Check", "Summarization Step"],
        "Summarization Step": ["Generate Summary"],
        "Check": ["Judge"],
    }


def test_parent_span_id_links_to_an_existing_span(receiver: Receiver) -> None:
    """The last row of OpenRouter's table."""
    body = {**OPENROUTER, "trace": {**OPENROUTER["trace"], "parent_span_id": "00f067aa0ba902b7"}}
    ask(receiver, body)
    assert named(receiver.spans, "Summarization Step").parent_id == "00f067aa0ba902b7"


@both_paths
def test_litellms_metadata_controls(receiver: Receiver, path: Path) -> None:
    """Each one is mapped as by LiteLLM's own integration."""
    ask(receiver, LITELLM)
    (span,) = receiver.spans
    generation = observations(receiver.spans, path)["welcome-message"]
    (trace,) = traces(receiver.spans, path).values()
    assert span.trace_id == byline_trace("trace-123")
    assert generation.type == "generation"
    assert (trace.session, trace.user, trace.name) == ("sess-42", "user-7", "Onboarding")
    assert set(trace.tags) == {"prod", "beta-user"}
    assert (trace.release, trace.version) == ("2026.11", "v9")
    # With a parent of the caller's, there is no outermost span of which the direct path would take it.
    shown = trace.metadata if path == "legacy" else generation.metadata
    assert (shown["team"], shown["plan"]) == ("blue", "gold")
    assert span.parent_id == "00f067aa0ba902b7"


def byline_trace(name: str) -> str:
    from byline.attribution import to_trace_id

    return f"{to_trace_id(name):032x}"


TABLE: list[tuple[dict[str, Any], str, Any]] = [
    ({"gen_ai.usage.cost": 0.5}, "cost", {"total": 0.5}),
    ({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 7}, "usage", {"input": 100, "output": 7}),
    ({"gen_ai.usage.prompt_tokens": 9, "gen_ai.usage.total_tokens": 9}, "usage", {"input": 9, "total": 9}),
    ({"gen_ai.request.model": "gpt-4o"}, "model", "gpt-4o"),
    ({"gen_ai.request.model": "gpt-4o", "gen_ai.response.model": "gpt-4o-2026"}, "model", "gpt-4o-2026"),
    (
        {"gen_ai.request.temperature": 0.5, "gen_ai.request.stream": True},
        "parameters",
        {"temperature": 0.5, "stream": "true"},
    ),
    ({"langfuse.session.id": "s"}, "session", "s"),
    ({"session.id": "s"}, "session", "s"),
    ({"langfuse.user.id": "u"}, "user", "u"),
    ({"user.id": "u"}, "user", "u"),
    ({"gen_ai.prompt": "in"}, "input", "in"),
    ({"gen_ai.completion": "out"}, "output", "out"),
]


@both_paths
@pytest.mark.parametrize(("attributes", "property_", "value"), TABLE, ids=[str(list(row[0])) for row in TABLE])
def test_langfuses_own_table(
    receiver: Receiver, path: Path, attributes: dict[str, Any], property_: str, value: Any
) -> None:
    """Every mapping in Langfuse's documentation of OpenTelemetry holds for byline's exports."""
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.tracer.start_span("call", attributes={"gen_ai.operation.name": "chat", **attributes}).end()
    assert getattr(observations(receiver.spans, path)["call"], property_) == value


#: The tokens that each instrumentation states for one call: 11 in, 3 of them cached, 7 out, 2 of them reasoning.
FULL = {"input": 8, "input_cached_tokens": 3, "output": 5, "output_reasoning_tokens": 2}
EXPECTED: dict[str, tuple[str, dict[str, int]]] = {
    "genai_openai": ("chat_sync", FULL),
    "openllmetry": ("chat_sync", {**FULL, "total": 18}),
    "openlit": ("chat_sync", {"input": 8, "input_cached_tokens": 3, "output": 7}),
    "openinference": ("chat_sync", {**FULL, "total": 18}),
    "pydantic_ai": ("chat_v5", FULL),
}


@both_paths
@pytest.mark.parametrize("instrumentation", EXPECTED)
def test_each_instrumentation_is_mapped_alike(receiver: Receiver, path: Path, instrumentation: str) -> None:
    """Type, model, tokens counted once, and the labels of the request."""
    scenario, usage = EXPECTED[instrumentation]
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(**EXAMPLE):
        for item in recorded(instrumentation, scenario):
            replay(app.provider, item, **{"gen_ai.usage.cost": 0.25, "byline.cost.source": "gateway"})
    shown = observations(receiver.spans, path)
    generation = shown["Generate Summary"]
    assert generation.type == "generation"
    assert generation.model in ("gpt-4o-mini-2026-01-01", "gpt-4o-mini")
    assert generation.usage == usage
    assert generation.cost == {"total": 0.25}
    assert (generation.session, generation.user) == ("session_abc", "user_12345")
    assert sum(item.cost.get("total", 0.0) for item in shown.values()) == 0.25


@both_paths
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_nothing_of_an_instrumentation_is_refused_or_misread(
    receiver: Receiver, path: Path, instrumentation: str
) -> None:
    """All scenarios: every span is shown, errors as errors, and counts are numbers."""
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(**EXAMPLE):
        for item in recorded(instrumentation):
            replay(app.provider, item)
    spans = receiver.spans
    for span in spans:
        (shown,) = observations([span], path).values()
        assert all(isinstance(count, int | float) for count in shown.usage.values())
        assert all(isinstance(cost, int | float) for cost in shown.cost.values())
        assert (shown.level == "ERROR") is (span.status == "ERROR")
        assert shown.session == "session_abc"
        assert shown.environment == "production"
        if span.status == "ERROR":
            assert shown.status_message
        if shown.type not in ("generation", "embedding"):
            assert not shown.usage
            assert not shown.cost
    (trace,) = traces(spans, path).values()
    assert (trace.name, trace.session, trace.user) == ("Document Processing Pipeline", "session_abc", "user_12345")


@both_paths
def test_every_span_states_the_same_labels_of_the_trace(receiver: Receiver, path: Path) -> None:
    """The blanks of the last span would overwrite the labels; this includes the server span."""
    fields = {**EXAMPLE, "release": "r1", "version": "v9", "tags": ["a", "b"]}
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app, app.request(**fields):
        with app.span("load"):
            pass
        with app.span("agent", AGENT), app.span("tool", {**TOOL, "langfuse.trace.public": True}):
            app.chat()
    keys = (
        "session.id user.id langfuse.trace.name langfuse.trace.tags langfuse.release langfuse.version "
        "langfuse.environment langfuse.trace.public langfuse.trace.metadata.pipeline_version"
    ).split()
    told = {tuple(str(span.attributes.get(key)) for key in keys) for span in receiver.spans}
    assert len(receiver.spans) == 6
    assert len(told) == 1
    assert "None" not in next(iter(told))
    (trace,) = traces(receiver.spans, path).values()
    assert trace[:8] == (
        "Document Processing Pipeline", "session_abc", "user_12345", ["a", "b"], "r1", "v9", "production", True,
    )  # fmt: skip


@both_paths
def test_types_of_agents_tools_and_other_spans(receiver: Receiver, path: Path) -> None:
    kinds = {
        "agent": AGENT,
        "tool": TOOL,
        "embed": {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "e"},
        "oi chain": {"openinference.span.kind": "CHAIN"},
        "oi retriever": {"openinference.span.kind": "RETRIEVER"},
        "workflow": {"traceloop.span.kind": "workflow"},
        "stated": {"gen_ai.operation.name": "chat", "langfuse.observation.type": "evaluator"},
        "plain": {"model": "a car"},
    }
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app:
        for name, attributes in kinds.items():
            app.tracer.start_span(name, attributes={**attributes, "gen_ai.usage.input_tokens": 5}).end()
    shown = observations(receiver.spans, path)
    types = {"oi chain": "chain", "oi retriever": "retriever", "workflow": "chain", "embed": "embedding"}
    types |= {"stated": "evaluator", "plain": "span", "agent": "agent"}
    assert {name: shown[name].type for name in types} == types
    assert shown["search"].type == "tool"
    assert shown["plain"].model is None
    assert shown["plain"].metadata["model"] == "a car"
    assert {name for name, item in shown.items() if item.usage} == {"embed"}


@both_paths
def test_values_that_langfuse_would_refuse_are_corrected(receiver: Receiver, path: Path) -> None:
    """Names that are too long, costs and prompt versions as text, and values that are no numbers of tokens."""
    bad = {
        "gen_ai.usage.cost": "0.5",
        "gen_ai.usage.raw": '{"input": 3}',
        "gen_ai.usage.speed": "fast",
        "langfuse.observation.prompt.name": "summary",
        "langfuse.observation.prompt.version": "3",
        "gen_ai.tool.name": "get_weather",
        "langfuse.observation.level": "warn",
    }
    destination = Langfuse(*KEYS, receiver.url, root=False)
    with running(destination) as app, app.request(session_id="s", generation_name="Ask"):
        app.chat(**bad)
        app.chat("x", **{"langfuse.trace.name": "a name " * 300})
        app.chat("x", **{"langfuse.prompt.name": "p", "langfuse.prompt.version": "latest"})
    shown = observations([receiver.spans[0]], path)["Ask"]
    assert shown.cost == {"total": 0.5}
    assert shown.usage == {}
    assert shown.prompt == ("summary", 3)
    assert shown.level == "WARNING"
    assert len(receiver.spans) == 3
    third = observations([receiver.spans[2]], path)["Ask"]
    assert third.prompt is None
    assert (third.metadata["prompt_name"], third.metadata["prompt_version"]) == ("p", "latest")
    (trace,) = traces(receiver.spans, path).values()
    assert trace.session == "s"
    assert trace.name is not None
    assert len(trace.name) == 1000


@both_paths
def test_the_callers_prompt_is_linked(receiver: Receiver, path: Path) -> None:
    prompt = {"prompt_name": "summary", "prompt_version": 4}
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(metadata=prompt):
        app.chat("first")
        app.chat("second", **{"gen_ai.prompt.name": "other", "gen_ai.prompt.version": "2"})
    shown = observations(receiver.spans, path)
    assert (shown["first"].prompt, shown["second"].prompt) == (("summary", 4), ("other", 2))


@both_paths
def test_gateway_values_are_metadata(receiver: Receiver, path: Path) -> None:
    """The list of Aptible: identity, key, budget, cache, limits, overhead."""
    facts = {
        "byline.gateway.name": "aptible",
        "byline.gateway.key.hash": "abc",
        "byline.gateway.key.spend": 1.5,
        "byline.gateway.key.budget_reset": "2026-12-01",
        "byline.gateway.overhead": 0.01,
        "byline.cache.hit": True,
        "byline.cache.savings": 0.2,
        "byline.ratelimit.tokens.remaining": 99,
        "byline.route": "/chat",
    }
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(organization_id="org", environment_id="env"):
        app.chat("call", **facts)
    shown = observations(receiver.spans, path)["call"].metadata
    for name, value in facts.items():
        assert shown[name.removeprefix("byline.").replace(".", "_")] == value
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.metadata["organization_id"], trace.metadata["environment_id"]) == ("org", "env")


@both_paths
def test_the_time_of_the_first_token_is_mapped(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        span = app.tracer.start_span("call", start_time=10**18, attributes={"gen_ai.operation.name": "chat"})
        span.set_attribute("gen_ai.response.time_to_first_chunk", 0.25)
        span.end(10**18 + 10**9)
    shown = observations(receiver.spans, path)["call"]
    assert shown.completion_start == moment(10**18 + 250_000_000)


@both_paths
def test_the_environment_falls_back_to_the_resource(receiver: Receiver, path: Path) -> None:
    """Also on spans for which an instrumentation states another environment."""
    from opentelemetry.sdk.resources import Resource

    resource = Resource({"deployment.environment": "staging", "service.version": "1.2"})
    with running(Langfuse(*KEYS, receiver.url), resource=resource) as app, app.request(session_id="s"):
        for item in recorded("openlit", "chat_sync"):
            replay(app.provider, item)
    assert {item.environment for item in observations(receiver.spans, path).values()} == {"staging"}
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.environment, trace.version) == ("staging", "1.2")


def test_exports_ask_for_ingestion_version_4(receiver: Receiver) -> None:
    """Without the headers of Langfuse's SDK."""
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat()
    (request,) = receiver.requests
    assert request.path == "/api/public/otel/v1/traces"
    assert request.headers["x-langfuse-ingestion-version"] == "4"
    assert request.headers["content-encoding"] == "gzip"
    assert not [name for name in request.headers if name.startswith("x-langfuse-sdk")]


@both_paths
def test_stream_that_was_cut_is_a_warning(receiver: Receiver, path: Path) -> None:
    """A level that the span states already is kept, and an error stays one."""
    with running(Langfuse(*KEYS, receiver.url, root=False)) as app, app.request(session_id="s"):
        app.chat(**{"byline.stream.cut": "app"})
        app.chat(**{"byline.stream.cut": "app", "langfuse.observation.level": "debug"})
    cut, stated = (next(iter(observations([span], path).values())) for span in receiver.spans)
    assert (cut.level, cut.status_message) == ("WARNING", "The stream was cut (app).")
    assert stated.level == "DEBUG"
