"""``byline demo`` from end to end, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from byline.testing import Receiver


def demo(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "byline.cli", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("arguments", [(), ("--wsgi",)], ids=["fastapi", "flask"])
def test_json_is_one_object_of_signed_spans(arguments: tuple[str, ...]) -> None:
    """Two generations in two requests, each below its app span, with the caller's ids and the gateway's cost."""
    done = demo("--json", *arguments)
    assert done.returncode == 0, done.stderr
    spans: list[dict[str, Any]] = json.loads(done.stdout)["spans"]
    assert all({"name", "trace_id", "span_id", "parent_id", "kind", "attributes"} == span.keys() for span in spans)
    generations = [span for span in spans if span["attributes"].get("gen_ai.operation.name") == "chat"]
    servers = {span["trace_id"]: span for span in spans if span["kind"] == "SERVER"}
    assert [span["name"] for span in generations] == ["Generate Summary"] * 2
    assert len(servers) == 2
    for span in generations:
        attributes = span["attributes"]
        assert attributes["session.id"] == attributes["gen_ai.conversation.id"] == "session_abc"
        assert attributes["user.id"] == "user_12345"
        assert attributes["langfuse.trace.name"] == "Document Processing Pipeline"
        assert attributes["byline.trace.id"] == "workflow_12345"
        assert attributes["langfuse.trace.metadata.pipeline_version"] == "2.1.0"
        assert attributes["byline.gateway.name"] == "openrouter"
        assert attributes["byline.cost.source"] == "gateway"
        server = servers[span["trace_id"]]["attributes"]
        assert server["byline.llm.calls"] == 1
        assert server["byline.llm.cost"] == pytest.approx(attributes["gen_ai.usage.cost"])
        assert server["byline.llm.input_tokens"] == attributes["gen_ai.usage.input_tokens"]


def test_tree_shows_the_steps_with_session_user_model_and_cost() -> None:
    """What a reader of the terminal looks for."""
    done = demo()
    assert done.returncode == 0, done.stderr
    for text in ("Document Processing Pipeline", "Summarization Step", "Generate Summary", "session_abc", "user_12345"):
        assert text in done.stdout
    assert "openai/gpt-4o" in done.stdout
    assert "$0.0" in done.stdout


def test_otlp_sends_to_a_backend_as_well() -> None:
    """The same spans arrive at the endpoint that is named."""
    with Receiver() as receiver:
        done = demo("--json", "--otlp", receiver.url)
        assert done.returncode == 0, done.stderr
        shown = {span["span_id"] for span in json.loads(done.stdout)["spans"]}
        assert {span.span_id for span in receiver.spans} == shown


def test_langfuse_without_keys_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is half done."""
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    done = demo("--langfuse")
    assert done.returncode == 1
    assert "byline.E041" in done.stderr
    assert "LANGFUSE_PUBLIC_KEY" in done.stderr
