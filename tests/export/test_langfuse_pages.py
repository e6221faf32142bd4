"""What Langfuse's pages show of the calls that real instrumentations have recorded, column by column.

The cells are those of Langfuse 4.16: `tests.export.langfuse_model` has its rules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from byline.export import Langfuse
from byline.testing import Receiver
from tests.export.langfuse_model import Observation, Path, compact_cell, shown, tool_columns, traces
from tests.export.replay import MARKER, RECORDED, replay
from tests.export.support import running

pytestmark = pytest.mark.usefixtures("no_settings")

KEYS = ("pk-lf-1", "sk-lf-1")
ASKED, ANSWERED = f"{MARKER}hi", f"{MARKER}hello"
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])
#: Langfuse's SDK sets the columns itself, and byline leaves them.
WITH_CONTENT = [item for item in RECORDED if MARKER in json.dumps([item["start"], item["end"], item["events"]])]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


def recordings(*scenarios: str) -> Any:
    """Return a parametrization by the recordings of these scenarios that have content."""
    chosen = [item for item in WITH_CONTENT if item["scenario"].startswith(scenarios)]
    return pytest.mark.parametrize(
        "item", chosen, ids=[f"{item['instrumentation']}, {item['scenario']}, {item['name'][:20]}" for item in chosen]
    )


def export(receiver: Receiver, path: Path, item: dict[str, Any]) -> Observation:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(session_id="s", metadata={"plan": "gold"}):
        replay(app.provider, item)
    (found,) = shown(receiver.spans, path)
    return found


@both_paths
@recordings("chat", "responses")
def test_the_columns_input_and_output(receiver: Receiver, path: Path, item: dict[str, Any]) -> None:
    """The last message of each, also of the trace, whose only root the call is."""
    found = export(receiver, path, item)
    if found.type == "span":
        # LiteLLM's copy of the raw request is no call.
        assert item["name"] == "raw_gen_ai_request"
        return
    assert compact_cell(found.input) == ASKED
    output = compact_cell(found.output)
    if item["scenario"] == "chat_tool" or (item["instrumentation"], found.name[:4]) == ("logfire", "Chat"):
        # An answer that is a call has no text, and Logfire writes that of a stream onto a second span.
        assert output in (None, ANSWERED)
    elif (item["instrumentation"], item["scenario"]) == ("langfuse", "responses"):
        assert output[0]["text"] == ANSWERED
    else:
        assert output == ANSWERED
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.input, trace.output) == (found.input, found.output)


@both_paths
@recordings("chat_tool")
def test_the_columns_of_tools(receiver: Receiver, path: Path, item: dict[str, Any]) -> None:
    """Offered tools, and the one that was called with its arguments."""
    offered, called = tool_columns(export(receiver, path, item))
    assert called == [("get_weather", {"city": f"{MARKER}paris"})]
    # openlit does not record which tools were offered.
    assert offered == ([] if item["instrumentation"] == "openlit" else ["get_weather"])


@both_paths
@recordings("err")
def test_the_columns_of_an_error(receiver: Receiver, path: Path, item: dict[str, Any]) -> None:
    """Level, message, an output that states the error, and the question."""
    found = export(receiver, path, item)
    said = "the provider said no"
    status = {"429": f"429: {MARKER}error: {said}"}.get(str(item["end"].get("http.response.status_code")))
    own = str(item["end"].get("langfuse.observation.status_message", ""))
    assert found.level == "ERROR"
    assert found.status_message == (own or status or f"{MARKER}error: {said}")
    kinds = {"openllmetry", "openlit"}
    code = {"err429": "RateLimitError", "err500": "InternalServerError"}[item["scenario"]]
    stated = {"code": "429"} if status else {"code": code} if item["instrumentation"] in kinds else {}
    assert json.loads(str(found.output)) == {"error": {**stated, "message": f"{MARKER}error: {said}"}}
    assert compact_cell(found.input) == (None if item["instrumentation"] == "openlit" else ASKED)
    (trace,) = traces(receiver.spans, path).values()
    assert json.loads(str(trace.output)) == json.loads(str(found.output))


@recordings("embeddings")
def test_the_input_of_embeddings(receiver: Receiver, item: dict[str, Any]) -> None:
    """The text, and no vector."""
    found = export(receiver, "direct", item)
    if found.type == "embedding":
        assert ASKED in (found.input, compact_cell(found.input))
        assert not [name for span in receiver.spans for name in span.attributes if name.endswith(".vector")]


#: Values with a column of Langfuse's, in the spellings of all instrumentations.
COLUMNS = (
    *("gen_ai.input.", "gen_ai.output.messages", "gen_ai.system_instructions", "gen_ai.tool.definitions"),
    *("gen_ai.prompt", "gen_ai.completion", "gen_ai.response.finish_reasons", "gen_ai.response.id"),
    *("gen_ai.request.", "gen_ai.usage.", "gen_ai.provider.name", "llm.input_messages.", "llm.output_messages."),
    *("llm.token_count.", "llm.usage.", "llm.invocation_parameters", "llm.model_name", "llm.tools.", "input."),
    *("output.", "request_data", "response_data", "error.type"),
)
KEPT = {"gen_ai.usage.cost", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.request.model"}


@recordings("chat", "responses", "err")
def test_nothing_with_a_column_is_among_the_attributes_again(receiver: Receiver, item: dict[str, Any]) -> None:
    """Langfuse repeats under ``metadata.attributes`` all that it gets; the trace's metadata are the caller's alone."""
    found = export(receiver, "direct", item)
    (span,) = receiver.spans
    if found.type == "generation":
        repeated = [name for name in span.attributes if name.startswith(COLUMNS) and name not in KEPT]
        assert repeated == []
    of_trace = {name for name in span.attributes if name.startswith("langfuse.trace.metadata.")}
    assert of_trace == {"langfuse.trace.metadata.plan"}
