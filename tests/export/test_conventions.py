"""Other dialects: added at the user's wish, nothing taken away, and documented as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from byline.export import OTLP
from byline.genai.dialects import CONVENTIONS
from byline.settings import SettingError
from byline.testing import Receiver
from tests.export.support import EXAMPLE, named, running

CALL: dict[str, Any] = {
    "gen_ai.response.model": "gpt-4o-2026",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.request.temperature": 0.5,
    "gen_ai.usage.input_tokens": 11,
    "gen_ai.usage.output_tokens": 7,
    "gen_ai.usage.cache_read.input_tokens": 3,
    "gen_ai.usage.cost": 0.5,
    "byline.cost.input": 0.2,
    "byline.gateway.provider": "azure",
    "byline.gateway.key.alias": "team-red",
    "gen_ai.input.messages": '[{"role": "user"}]',
    "gen_ai.output.messages": '[{"role": "assistant"}]',
}
EXPECTED: dict[str, dict[str, Any]] = {
    "openinference": {
        "openinference.span.kind": "LLM",
        "llm.model_name": "gpt-4o-2026",
        "llm.provider": "openai",
        "llm.token_count.prompt": 11,
        "llm.token_count.completion": 7,
        "llm.token_count.prompt_details.cache_read": 3,
        "llm.cost.total": 0.5,
        "llm.cost.prompt": 0.2,
        "llm.finish_reason": "stop",
        "input.value": '[{"role": "user"}]',
        "output.value": '[{"role": "assistant"}]',
        "tag.tags": ["beta"],
        "session.id": "session_abc",
        "user.id": "user_12345",
    },
    "openrouter": {
        "session.id": "session_abc",
        "user.id": "user_12345",
        "trace.metadata.environment": "production",
        "trace.metadata.pipeline_version": "2.1.0",
        "trace.metadata.openrouter.provider_slug": "azure",
        "gen_ai.usage.total_cost": 0.5,
        "gen_ai.usage.prompt_tokens": 11,
        "gen_ai.response.finish_reason": "stop",
        "gen_ai.prompt": '[{"role": "user"}]',
    },
    "litellm": {
        "langfuse.generation.name": "Generate Summary",
        "langfuse.trace.id": "workflow_12345",
        "langfuse.trace.session_id": "session_abc",
        "langfuse.trace.tags": ["beta"],
        "metadata.user_api_key_alias": "team-red",
        "metadata.pipeline_version": "2.1.0",
    },
    "traceloop": {
        "traceloop.workflow.name": "Document Processing Pipeline",
        "traceloop.association.properties.session_id": "session_abc",
        "traceloop.association.properties.pipeline_version": "2.1.0",
        "llm.request.type": "chat",
        "gen_ai.system": "openai",
    },
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_dialect_is_added_to_existing_attributes(receiver: Receiver, convention: str) -> None:
    with running(OTLP(receiver.url, conventions=[convention])) as app, app.request(**EXAMPLE, tags=["beta"]):
        app.chat(**CALL)
    attributes = named(receiver.spans, "Generate Summary").attributes
    assert EXPECTED[convention].items() <= attributes.items()
    assert CALL.items() <= attributes.items()
    (server,) = [span for span in receiver.spans if span.kind == "SERVER"]
    assert not {"llm.model_name", "llm.request.type", "gen_ai.system"} & server.attributes.keys()
    expected = (EXAMPLE["trace_name"], "CHAIN") if convention == "openinference" else ("POST /chat", None)
    assert (server.name, server.attributes.get("openinference.span.kind")) == expected


def test_all_dialects_at_once(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, conventions=list(CONVENTIONS))) as app, app.request(**EXAMPLE, tags=["beta"]):
        app.chat(**CALL)
    attributes = named(receiver.spans, "Generate Summary").attributes
    for expected in EXPECTED.values():
        assert expected.items() <= attributes.items()
    assert json.loads(attributes["metadata"]) == {"pipeline_version": "2.1.0"}
    assert json.loads(attributes["llm.invocation_parameters"])["temperature"] == 0.5


def test_numbers_that_are_none_leave_the_json_readable(receiver: Receiver) -> None:
    """Python's own JSON has a word for them, which no other parser reads."""
    with (
        running(OTLP(receiver.url, conventions=["openinference"])) as app,
        app.request(**{**EXAMPLE, "metadata": {"score": float("inf"), "round": 2}}),
    ):
        app.chat(**{**CALL, "gen_ai.request.top_p": float("nan"), "gen_ai.request.weights": (0.5, float("-inf"))})
    attributes = named(receiver.spans, "Generate Summary").attributes

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    metadata = json.loads(attributes["metadata"], parse_constant=refuse)
    parameters = json.loads(attributes["llm.invocation_parameters"], parse_constant=refuse)
    assert (metadata["round"], parameters["temperature"], parameters["weights"]) == (2, 0.5, [0.5, None])
    assert "score" not in metadata
    assert "top_p" not in parameters


def test_none_is_added_unasked(receiver: Receiver) -> None:
    with running(OTLP(receiver.url)) as app, app.request(**EXAMPLE):
        app.chat(**CALL)
    attributes = named(receiver.spans, "Generate Summary").attributes
    assert not [key for key in attributes if key.startswith(("llm.", "trace.", "traceloop.", "metadata", "input."))]


def test_attributes_of_an_instrumentation_stay(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, conventions=["openinference"])) as app:
        app.chat(**{**CALL, "llm.model_name": "its own"})
    assert receiver.spans[0].attributes["llm.model_name"] == "its own"


def test_privacy_reaches_other_dialects_too(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, conventions=list(CONVENTIONS), privacy=True)) as app:
        app.chat(**CALL)
    text = str(receiver.spans[0].attributes)
    assert '"role"' not in text
    assert receiver.spans[0].attributes["llm.token_count.prompt"] == 11


@pytest.mark.parametrize("wrong", ["openinference", ["unknown"], 3])
def test_unknown_dialects_are_said(wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"byline\.E063"):
        OTLP("https://collector.example", conventions=wrong)
