"""What Langfuse would misread of what instrumentations write, and is shown as it is meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from byline.export import Langfuse
from byline.testing import ReceivedSpan, Receiver
from tests.export.langfuse_model import Observation, Path, observations, session_cost, shown, traces
from tests.export.langfuse_spans import TYPES
from tests.export.replay import INSTRUMENTATIONS, recorded, replay
from tests.export.support import AGENT, EXAMPLE, named, running

KEYS = ("pk-lf-1", "sk-lf-1")
OBSERVATION = "langfuse.observation."
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])
both_views = pytest.mark.parametrize("view", ["llm", "all"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


def replayed(
    receiver: Receiver, instrumentation: str, scenario: str | None = None, **fields: Any
) -> list[ReceivedSpan]:
    """What Langfuse gets of an instrumentation's spans."""
    options = {name: fields.pop(name) for name in ("spans", "privacy") if name in fields}
    with running(Langfuse(*KEYS, receiver.url, **options)) as app, app.request(**fields):
        for item in recorded(instrumentation, scenario):
            replay(app.provider, item)
    return receiver.spans


@both_views
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_nothing_is_left_to_guesses(receiver: Receiver, instrumentation: str, view: Any) -> None:
    """Each span says its type, each model call its model, parameters and tokens, so that no fallback is asked."""
    for span in replayed(receiver, instrumentation, spans=view, **EXAMPLE):
        kind = span.attributes[f"{OBSERVATION}type"]
        assert kind in TYPES
        if kind in ("generation", "embedding"):
            assert span.attributes[f"{OBSERVATION}model.name"]
            assert "model" not in json.loads(span.attributes[f"{OBSERVATION}model.parameters"])
            assert isinstance(span.attributes[f"{OBSERVATION}usage_details"], str)


@both_paths
@both_views
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_both_paths_agree(receiver: Receiver, instrumentation: str, view: Any, path: Path) -> None:
    """On whose the trace is, and on what each call was; nothing is counted twice in a session."""
    spans = replayed(receiver, instrumentation, spans=view, **EXAMPLE)
    legacy, direct = (next(iter(traces(spans, each).values())) for each in ("legacy", "direct"))
    assert legacy[:8] == direct[:8]
    assert (legacy.input, legacy.output) == (direct.input, direct.output)
    assert [_of_call(item) for item in shown(spans, "legacy")] == [_of_call(item) for item in shown(spans, "direct")]
    assert len(shown(spans, path)) == len(spans)
    total = sum(item.cost.get("total", 0.0) for item in shown(spans, path))
    assert session_cost(spans, path).get("session_abc", 0.0) == total


def _of_call(item: Observation) -> tuple[Any, ...]:
    return tuple(value for field, value in item._asdict().items() if field != "metadata")


@both_paths
@pytest.mark.parametrize("scenario", ["chat_sync", "responses"])
def test_tokens_in_the_form_of_openais_replies(receiver: Receiver, path: Path, scenario: str) -> None:
    """Langfuse's SDK hands them on as they came; what was cached and what was thought is within the sums there."""
    (item,) = shown(replayed(receiver, "langfuse", scenario), path)
    assert item.usage == {
        "input": 8,
        "input_cached_tokens": 3,
        "output": 5,
        "output_reasoning_tokens": 2,
        "total": 18,
    }


@both_paths
def test_tokens_in_the_form_of_anthropics_replies(receiver: Receiver, path: Path) -> None:
    """What was cached stands beside the sum there, and is not taken off it."""
    stated = json.dumps({"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 30})
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **{"langfuse.observation.usage_details": stated})
    usage = observations(receiver.spans, path)["call"].usage
    assert usage == {"input": 10, "output": 7, "cache_read_input_tokens": 30}


@both_paths
@pytest.mark.parametrize("privacy", [False, True])
@pytest.mark.parametrize(
    ("scenario", "model"), [("embeddings", "text-embedding-3-small"), ("err429", "gpt-4o-mini-err429")]
)
def test_the_model_of_openinferences_embeddings_and_failed_calls(
    receiver: Receiver, path: Path, scenario: str, model: str, privacy: bool
) -> None:
    """It stands under another name there, or among the parameters alone; it is no content."""
    (item,) = shown(replayed(receiver, "openinference", scenario, privacy=privacy), path)
    assert item.model == model
    assert "model" not in item.parameters


@both_paths
def test_a_conversation_that_an_instrumentation_names_is_the_session_of_the_trace(
    receiver: Receiver, path: Path
) -> None:
    """Where nobody has named a session: one path hears of conversations at the root alone."""
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app, app.request():
        app.chat(**{"gen_ai.conversation.id": "conv_1"})
    (trace,) = traces(receiver.spans, path).values()
    assert trace.session == "conv_1"


@both_paths
def test_a_conversation_is_no_session_where_there_is_one(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(session_id="s-1"):
        app.chat("call", **{"gen_ai.conversation.id": "conv_1"})
    (trace,) = traces(receiver.spans, path).values()
    assert trace.session == observations(receiver.spans, path)["call"].session == "s-1"


@both_paths
@both_views
@pytest.mark.parametrize("mark", ["langfuse.internal.as_root", "langfuse.internal.is_app_root"])
def test_what_hangs_below_another_span_is_no_root(receiver: Receiver, path: Path, mark: str, view: Any) -> None:
    """Langfuse's SDK marks a span whose parent it does not send itself; here the parent is sent."""
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app, app.request(), app.span("agent", AGENT):
        marked: dict[str, Any] = {mark: True, f"{OBSERVATION}input": "the call's"}
        app.chat(**marked)
    (trace,) = traces(receiver.spans, path).values()
    assert trace.name == ("agent" if view == "llm" else "POST /chat")
    assert mark not in named(receiver.spans, "chat gpt-4o").attributes


@both_paths
def test_a_span_that_nothing_is_sent_above_stays_a_root(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request():
        app.chat("call", **{"langfuse.internal.as_root": True, "langfuse.internal.is_app_root": True})
    (trace,) = traces(receiver.spans, path).values()
    assert trace.name == "call"


@both_paths
@pytest.mark.parametrize(("view", "step"), [("llm", "Step"), ("all", None), ("all", "Step")])
def test_tenant_and_totals_are_on_the_outermost_span_too(
    receiver: Receiver, path: Path, view: Any, step: str | None
) -> None:
    """One path takes the metadata of a trace from there alone, whatever kind of span it is."""
    with (
        running(Langfuse(*KEYS, receiver.url, spans=view)) as app,
        app.request(organization_id="org", environment_id="env", span_name=step) as span,
    ):
        span.set_attribute("byline.route", "/chat")
        app.chat()
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.metadata["organization_id"], trace.metadata["environment_id"]) == ("org", "env")
    if view == "all":
        assert observations(receiver.spans, path)["POST /chat"].metadata["route"] == "/chat"


@both_paths
def test_a_prompt_is_no_generations_alone(receiver: Receiver, path: Path) -> None:
    """On an agent it can be filtered by, as text or as number."""
    stated = {"gen_ai.prompt.name": "summary", "gen_ai.prompt.version": "latest"}
    with running(Langfuse(*KEYS, receiver.url)) as app, app.span("agent", {**AGENT, **stated}):
        pass
    agent = observations(receiver.spans, path)["agent"]
    assert agent.prompt is None
    assert (agent.metadata["prompt_name"], agent.metadata["prompt_version"]) == ("summary", "latest")


#: attribute → what can be filtered by, under which name
FURTHER: list[tuple[dict[str, Any], str, Any]] = [
    ({"gen_ai.response.finish_reasons": ("stop",)}, "finish_reasons", ["stop"]),
    ({"llm.finish_reason": "length"}, "finish_reasons", "length"),
    ({"gen_ai.response.id": "chatcmpl-1"}, "response_id", "chatcmpl-1"),
    ({"gen_ai.provider.name": "openai"}, "provider", "openai"),
    ({"gen_ai.tool.definitions": '[{"name": "search"}]'}, "tool_definitions", '[{"name": "search"}]'),
    ({"error.type": "openai.RateLimitError"}, "error_type", "openai.RateLimitError"),
]


@both_paths
@pytest.mark.parametrize(("attributes", "name", "value"), FURTHER, ids=[str(list(row[0])) for row in FURTHER])
def test_what_langfuse_has_no_place_for_can_be_filtered_by(
    receiver: Receiver, path: Path, attributes: dict[str, Any], name: str, value: Any
) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **attributes)
    assert observations(receiver.spans, path)["call"].metadata[name] == value


def test_tool_definitions_are_content(receiver: Receiver) -> None:
    """And stay here where content does."""
    with running(Langfuse(*KEYS, receiver.url, privacy=True)) as app:
        app.chat("call", **{"gen_ai.tool.definitions": '[{"name": "search"}]'})
    assert "search" not in str(receiver.spans)


@both_paths
@both_views
def test_metadata_of_the_same_name_is_not_lost(receiver: Receiver, path: Path, view: Any) -> None:
    """One path has one room for that of the trace and that of the span: byline's own gives way to another name."""
    custom = {"route": "premium", "provider": "house", "request_id": "r-1"}
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app, app.request(metadata=custom) as span:
        span.set_attribute("byline.request.id", "r-2")
        app.chat("call", **{"byline.route": "/chat", "byline.request.id": "r-2"})
    (trace,) = traces(receiver.spans, path).values()
    call = observations(receiver.spans, path)["call"]
    assert {key: trace.metadata[key] for key in custom} == custom
    assert (call.metadata["byline_route"], call.metadata["byline_request_id"]) == ("/chat", "r-2")
    assert call.metadata["byline_provider"] == "openai"
    if path == "direct":
        assert {key: call.metadata[key] for key in custom} == custom


@both_paths
@both_views
def test_nobody_passes_for_another_tenant_by_way_of_metadata(receiver: Receiver, path: Path, view: Any) -> None:
    """Metadata is a claim; the tenant is known."""
    claimed = {"organization_id": "other", "environment_id": "other"}
    known = {"organization_id": "org-1", "environment_id": "env-1"}
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app, app.request(metadata=claimed, **known):
        app.chat("call")
    (trace,) = traces(receiver.spans, path).values()
    call = observations(receiver.spans, path)["call"]
    assert {key: trace.metadata[key] for key in known} == known
    assert {key: call.metadata[key] for key in known} == known


@both_paths
@pytest.mark.parametrize(("key", "field"), [("langfuse.session.id", "session"), ("langfuse.user.id", "user")])
def test_what_the_app_calls_session_or_user_counts_for_the_whole_trace(
    receiver: Receiver, path: Path, key: str, field: str
) -> None:
    """Langfuse's names go before the ones that the caller's are signed under, on each span by itself."""
    fields = {"session_id": "caller", "user_id": "caller", "span_name": "Step"}
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app, app.request(**fields):
        app.chat("first", **{key: "app"})
        app.chat("second")
    (trace,) = traces(receiver.spans, path).values()
    told = {item.name: getattr(item, field) for item in shown(receiver.spans, path)}
    assert set(told.values()) == {"app"} == {getattr(trace, field)}
