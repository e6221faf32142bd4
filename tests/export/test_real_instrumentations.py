"""The documented fields of OpenRouter, LiteLLM and Langfuse through real instrumentations, each in its own environment.

Langfuse shows the same for all of them, on both of its write paths.
"""

from __future__ import annotations

import subprocess
from typing import Any, NamedTuple

import pytest

from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.export.client_requests import ANSWER, MESSAGES, MODEL, PARAMETERS, PARENT, QUESTION, REQUESTS, TOOL, price
from tests.export.langfuse_model import Observation, Path, Trace, session_cost, shown, traces
from tests.export.support import tree
from tests.matrix import environments
from tests.matrix.cells import find

pytestmark = pytest.mark.matrix

INSTRUMENTATIONS = ("none", "genai-openai", "openllmetry-openai", "openinference-openai", "openlit", "langfuse")
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])


class Drained(NamedTuple):
    """The exported spans of all requests to an app with one instrumentation."""

    cell: str
    langfuse: list[ReceivedSpan]
    collector: list[ReceivedSpan]

    def of(self, asked: str) -> list[ReceivedSpan]:
        """The spans in the trace of a request."""
        return [span for span in self.langfuse if span.trace_id == REQUESTS[asked].filed]

    def trace(self, asked: str, path: Path) -> Trace:
        (found,) = traces(self.of(asked), path).values()
        return found

    def generation(self, asked: str, path: Path) -> Observation:
        (found,) = [item for item in shown(self.of(asked), path) if item.type == "generation"]
        return found


@pytest.fixture(scope="module", params=INSTRUMENTATIONS)
def drained(request: pytest.FixtureRequest) -> Drained:
    python = environments.make(find(request.param))
    with Receiver() as langfuse, Receiver() as collector, Gateway() as gateway:
        gateway.answer(ANSWER)
        gateway.fail(429)
        command = [str(python), "-m", "tests.export.instrumented_app", request.param]
        done = subprocess.run(
            [*command, gateway.base_url, langfuse.url, collector.url],
            cwd=environments.ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return Drained(request.param, langfuse.spans, collector.spans)


def test_each_request_is_in_its_trace(drained: Drained) -> None:
    """And nothing else is sent."""
    assert {span.trace_id for span in drained.langfuse} == {asked.filed for asked in REQUESTS.values()}
    assert sum(item.type == "generation" for item in shown(drained.langfuse, "direct")) == len(REQUESTS)


# --- OpenRouter's page


def test_openrouters_picture(drained: Drained) -> None:
    """`trace_id` groups both requests; below it stand `span_name`, then `generation_name`."""
    assert tree(drained.of("whole")) == {
        None: ["Summarization Step"] * 2,
        "Summarization Step": ["Generate Summary"] * 2,
    }
    types = {item.name: item.type for item in shown(drained.of("whole"), "direct")}
    assert types == {"Summarization Step": "span", "Generate Summary": "generation"}


@both_paths
def test_openrouters_trace(drained: Drained, path: Path) -> None:
    """`trace_name`, `user`, `session_id`, `environment`, and further keys as metadata."""
    trace = drained.trace("whole", path)
    assert trace.name == "Document Processing Pipeline"
    assert (trace.user, trace.session, trace.environment) == ("user_12345", "session_abc", "production")
    assert trace.metadata["pipeline_version"] == "2.1.0"
    assert QUESTION in str(trace.input)
    assert "This is the answer" in str(trace.output)


@both_paths
def test_openrouters_generations(drained: Drained, path: Path) -> None:
    """Whole and streamed: model, tokens, cost once in the session, and when the stream began."""
    generations = [item for item in shown(drained.of("whole"), path) if item.type == "generation"]
    assert len(generations) == 2
    for item in generations:
        # OpenLLMetry takes the provider off the name.
        assert item.model in (MODEL, MODEL.partition("/")[2])
        assert item.metadata["gateway_name"] == "openrouter"
        assert item.cost["total"] == pytest.approx(price(item.usage))
        assert item.level == "DEFAULT"
    total = sum(item.cost["total"] for item in generations)
    linked = drained.generation("linked", path).cost["total"]
    assert session_cost(drained.langfuse, path)["session_abc"] == pytest.approx(total + linked)
    calls = [span for span in drained.of("whole") if span.name == "Generate Summary"]
    (last,) = shown([max(calls, key=lambda span: span.start)], path)
    assert last.completion_start is not None


@both_paths
def test_openrouters_further_rows(drained: Drained, path: Path) -> None:
    """`parent_span_id` links to a span that exists; `release` and `environment` are Langfuse's own."""
    (step,) = [span for span in drained.of("linked") if span.name == "Summarization Step"]
    assert step.parent_id == PARENT
    trace = drained.trace("linked", path)
    assert (trace.release, trace.environment) == ("2026.11", "production")
    assert trace.name == "Document Processing Pipeline"


# --- calls with errors, streams and masks


@both_paths
def test_a_call_that_fails(drained: Drained, path: Path) -> None:
    """Its model, its error, and nothing to pay."""
    item = drained.generation("failed", path)
    assert item.name == "Try"
    assert item.model in (MODEL, MODEL.partition("/")[2])
    assert item.level == "ERROR"
    assert "told to fail" in str(item.status_message)
    assert item.metadata["error_type"]
    assert (item.usage, item.cost) == ({}, {})


@both_paths
def test_a_call_that_asks_for_a_tool(drained: Drained, path: Path) -> None:
    """It keeps its own name, and shows which."""
    item = drained.generation("tools", path)
    assert item.name == "Pick a tool"
    assert TOOL["function"]["name"] in str(item.output)
    # OpenLLMetry has a word of its own for it.
    assert "tool_call" in str(item.metadata["finish_reasons"])
    assert item.cost["total"] == pytest.approx(price(item.usage))


# --- LiteLLM's page


@both_paths
@pytest.mark.parametrize("asked", ["controls", "headers"])
def test_litellms_controls(drained: Drained, path: Path, asked: str) -> None:
    """In the body's metadata and as headers: each ends in its place."""
    trace, generation = drained.trace(asked, path), drained.generation(asked, path)
    assert generation.name == "welcome-message"
    assert (trace.session, trace.user, trace.name) == ("sess-42", "user-7", "Onboarding")
    assert set(trace.tags) == {"prod", "beta-user"}
    assert (trace.release, trace.version) == ("2026.11", "v9")
    assert (generation.session, generation.user) == ("sess-42", "user-7")
    assert generation.parent == (PARENT if asked == "controls" else None)
    # Below a parent of the caller's, there is no outermost span of which one path takes a trace's metadata.
    metadata = trace.metadata if path == "legacy" else generation.metadata
    assert (metadata["plan"], metadata["generation_id"]) == ("gold", "gen-7")
    assert metadata.get("team") == ("blue" if asked == "controls" else None)
    assert not {"update_trace_keys", "debug_langfuse"} & metadata.keys()


@both_paths
def test_litellms_existing_trace(drained: Drained, path: Path) -> None:
    trace = drained.trace("existing", path)
    assert trace.version == "v9"
    assert drained.generation("existing", path).cost["total"] > 0


@both_paths
def test_litellms_masks(drained: Drained, path: Path) -> None:
    """Masked content is on no span; the other side is."""
    for asked, hidden, kept in (
        ("mask_input", QUESTION, "This is the answer"),
        ("mask_output", "This is the answer", QUESTION),
    ):
        sent = [span for span in (*drained.langfuse, *drained.collector) if span.trace_id == REQUESTS[asked].filed]
        assert len(sent) == 2
        assert not [span for span in sent if hidden in str(span)]
        generation = drained.generation(asked, path)
        assert kept in str((generation.input, generation.output))
        assert generation.usage["input"] > 0


def test_litellms_names_of_attributes(drained: Drained) -> None:
    """A destination writes them if configured."""
    (span,) = [span for span in drained.collector if span.trace_id == REQUESTS["controls"].filed]
    expected = {
        "langfuse.generation.name": "welcome-message",
        "langfuse.trace.id": "trace-123",
        "langfuse.trace.session_id": "sess-42",
        "langfuse.trace.tags": ["prod", "beta-user"],
        "langfuse.trace.user_id": "user-7",
        "langfuse.trace.release": "2026.11",
        "langfuse.trace.version": "v9",
        "langfuse.generation.parent_observation_id": PARENT,
        "langfuse.trace.name": "Onboarding",
        "metadata.plan": "gold",
        "metadata.team": "blue",
    }
    assert {key: span.attributes.get(key) for key in expected} == expected


# --- Langfuse's page


@both_paths
def test_langfuses_table(drained: Drained, path: Path) -> None:
    """`gen_ai.usage.*`, `.cost`, `gen_ai.response.model`, `gen_ai.request.*`, prompt and completion."""
    item = drained.generation("resolved", path)
    usage: dict[str, Any] = ANSWER["usage"]
    assert item.cost["total"] == pytest.approx(usage["cost"])
    expected = {
        "input": usage["prompt_tokens"] - 4,
        "input_cached_tokens": 4,
        "output": usage["completion_tokens"] - 2,
        "output_reasoning_tokens": 2,
    }
    total = item.usage.pop("total", usage["total_tokens"])
    assert (item.usage, total) == (expected, usage["total_tokens"])
    assert item.model in (ANSWER["model"], ANSWER["model"].partition("/")[2])
    assert {key: item.parameters.get(key) for key in PARAMETERS} == PARAMETERS
    assert all(message["content"] in str(item.input) for message in MESSAGES)
    assert ANSWER["choices"][0]["message"]["content"] in str(item.output)


@both_paths
@pytest.mark.parametrize("key", ["langfuse.session.id", "session.id"])
def test_langfuses_names_of_a_session(drained: Drained, path: Path, key: str) -> None:
    """Set by the app itself on its spans."""
    assert drained.trace(key, path).session == drained.generation(key, path).session == "stated"


@both_paths
@pytest.mark.parametrize("key", ["langfuse.user.id", "user.id"])
def test_langfuses_names_of_a_user(drained: Drained, path: Path, key: str) -> None:
    assert drained.trace(key, path).user == drained.generation(key, path).user == "stated"
