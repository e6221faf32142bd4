"""Attributes of instrumentations that Langfuse would misread are mapped to their meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from byline.export import Langfuse
from byline.genai.call_results import results
from byline.genai.span_state import state_of
from byline.testing import ReceivedSpan, Receiver
from tests.export.langfuse_model import Observation, Path, observations, session_cost, shown, traces
from tests.export.langfuse_spans import TYPES
from tests.export.replay import INSTRUMENTATIONS, recorded, replay
from tests.export.support import AGENT, CHAT, EXAMPLE, running

KEYS = ("pk-lf-1", "sk-lf-1")
OBSERVATION = "langfuse.observation."
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])
both_views = pytest.mark.parametrize("view", ["llm", "all"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    results.clear()
    with Receiver(keys=KEYS) as found:
        yield found
    results.clear()


def replayed(
    receiver: Receiver, instrumentation: str, scenario: str | None = None, **fields: Any
) -> list[ReceivedSpan]:
    """Return the spans of an instrumentation as Langfuse receives them."""
    options = {name: fields.pop(name) for name in ("spans", "privacy") if name in fields}
    with running(Langfuse(*KEYS, receiver.url, **options)) as app, app.request(**fields):
        for item in recorded(instrumentation, scenario):
            replay(app.provider, item)
    return receiver.spans


@both_views
@pytest.mark.parametrize("instrumentation", INSTRUMENTATIONS)
def test_every_span_states_type_model_parameters_and_tokens(
    receiver: Receiver, instrumentation: str, view: Any
) -> None:
    """The type of each span, and model, parameters and tokens of each model call."""
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
    """On the labels of the trace and on each observation; no cost is counted twice in a session."""
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
    """Langfuse's SDK passes them on as they are; cached tokens and reasoning are included in the totals there."""
    (item,) = shown(replayed(receiver, "langfuse", scenario), path)
    assert item.usage == {"input": 8, "input_cached_tokens": 3, "output": 7, "total": 18}


@both_paths
@pytest.mark.parametrize("cost", [None, 0.25])
def test_reasoning_is_apart_from_the_output_only_if_the_cost_is_known(
    receiver: Receiver, path: Path, cost: float | None
) -> None:
    """Langfuse prices the tokens of a generation without a cost, and has no price for reasoning with some models."""
    tokens: dict[str, Any] = {"gen_ai.usage.output_tokens": 7, "gen_ai.usage.reasoning.output_tokens": 2}
    priced = {} if cost is None else {"gen_ai.usage.cost": cost, "byline.cost.source": "gateway"}
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **tokens, **priced)
    usage = observations(receiver.spans, path)["call"].usage
    assert usage == ({"output": 7} if cost is None else {"output": 5, "output_reasoning_tokens": 2})


@both_paths
def test_tokens_in_the_form_of_anthropics_replies(receiver: Receiver, path: Path) -> None:
    """Cached tokens are not included in the input tokens there."""
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
    """OpenInference names the model in another attribute, or among the parameters alone; privacy keeps the model."""
    (item,) = shown(replayed(receiver, "openinference", scenario, privacy=privacy), path)
    assert item.model == model
    assert "model" not in item.parameters


@both_paths
def test_the_prompt_of_an_agent_is_metadata(receiver: Receiver, path: Path) -> None:
    """Langfuse links prompts to generations alone."""
    stated = {"gen_ai.prompt.name": "summary", "gen_ai.prompt.version": "latest"}
    with running(Langfuse(*KEYS, receiver.url)) as app, app.span("agent", {**AGENT, **stated}):
        pass
    agent = observations(receiver.spans, path)["agent"]
    assert agent.prompt is None
    assert (agent.metadata["prompt_name"], agent.metadata["prompt_version"]) == ("summary", "latest")


#: attributes, metadata key, metadata value
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
def test_attributes_without_a_column_are_metadata(
    receiver: Receiver, path: Path, attributes: dict[str, Any], name: str, value: Any
) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **attributes)
    assert observations(receiver.spans, path)["call"].metadata[name] == value


def test_privacy_removes_tool_definitions(receiver: Receiver) -> None:
    with running(Langfuse(*KEYS, receiver.url, privacy=True)) as app:
        app.chat("call", **{"gen_ai.tool.definitions": '[{"name": "search"}]'})
    assert "search" not in str(receiver.spans)


ASKED = {"input.value": "a question", "output.value": "an answer", "gen_ai.response.id": "r-1"}


@both_paths
def test_a_second_span_of_a_call_states_zero_tokens(receiver: Receiver, path: Path) -> None:
    """Langfuse counts and prices the content of a generation that states no tokens."""
    with running(Langfuse(*KEYS, receiver.url, root=False)) as app, app.request():
        with app.span("carrier", {**CHAT, **ASKED, "gen_ai.usage.input_tokens": 3}) as span:
            results.assign(state_of(span), "r-1")  # type: ignore[arg-type]
        app.chat("twin", **ASKED, **{"gen_ai.usage.input_tokens": 3})
    told = {item.name: item.usage for item in shown(receiver.spans, path)}
    assert told == {"carrier": {"input": 3}, "twin": {"input": 0, "output": 0}}


@both_paths
def test_a_call_that_the_gateway_exports_states_zero_tokens(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(), app.span("call", {**CHAT, **ASKED}) as span:
        results.assign_to_gateway(state_of(span), 0, "r-1")
    assert observations(receiver.spans, path)["call"].usage == {"input": 0, "output": 0}


@both_paths
def test_one_of_two_spans_of_a_stream_states_the_tokens(receiver: Receiver, path: Path) -> None:
    """The first span ends before the tokens are known, and may be sent before the second one starts."""
    items = [item for item in shown(replayed(receiver, "logfire", "chat_stream"), path) if item.type != "span"]
    assert [item.usage for item in items] == [{"input": 0, "output": 0}, {"input": 11, "output": 7}]


@both_paths
def test_langfuse_counts_a_call_without_known_tokens(receiver: Receiver, path: Path) -> None:
    """For a stream without usage an estimate is better than nothing."""
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.chat("call", **ASKED)
    assert observations(receiver.spans, path)["call"].usage["input"] > 0


@both_paths
@pytest.mark.parametrize("key", ["gen_ai.request.model", "llm.model_name", "langfuse.observation.model.name"])
def test_an_agent_that_names_a_model_states_zero_tokens(receiver: Receiver, path: Path, key: str) -> None:
    """Its input and output repeat those of its model calls."""
    attributes = {"openinference.span.kind": "AGENT", key: "gpt-4o", **ASKED}
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(), app.span("agent", attributes):
        pass
    agent = observations(receiver.spans, path)["agent"]
    assert (agent.type, sum(agent.usage.values())) == ("agent", 0)
