"""Privacy beside each instrumentation: it captures all it can of calls that are marked wherever content can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.matrix import running
from tests.matrix.cells import CELLS, Cell
from tests.matrix.content.marks import PLAN, content_in
from tests.matrix.verdict import COST, USAGE, is_llm

PRIVATE = ("private", "langfuse", "spool")
#: Attributes of each cell's spans with content, besides byline's own.
SHOWN = {
    "openai-v2": {"gen_ai.input.messages"},
    "openllmetry-openai": {"gen_ai.request.structured_output_schema", "gen_ai.headers"},
    "openinference-openai": {"llm.input_messages.0.message.content", "embedding.embeddings.0.embedding.text"},
    "openlit": {"gen_ai.tool.args"},
    "langfuse": {"langfuse.observation.input", "langfuse.observation.metadata.response_format"},
    "logfire": {"exception exception.message"},
    "pydantic-ai": {"pydantic_ai.all_messages", "gen_ai.tool.call.result", "embeddings"},
    "litellm": {"llm.openai.messages", "llm.openai.response_format"},
    "litellm-request-span": {"llm.openai.messages", "llm.request.functions.0.description"},
    "google-genai-otel": {"gen_ai.tool.call.result"},
    "http-spans": {"http.url"},
}
#: Personal data of the caller, which a private destination does not get either.
PERSONAL = {"byline.caller.address", "byline.caller.user_agent"}
#: Attributes with content of the GenAI conventions, in every cell.
ALWAYS = {"gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions", "byline.error.message"}


#: The cells of the SDKs that a program of calls with content exists for.
WITH_CONTENT = [cell for cell in CELLS if (Path(__file__).parent / "content" / "sdks" / f"{cell.sdk}.py").exists()]


@pytest.mark.matrix
@pytest.mark.parametrize("cell", WITH_CONTENT, ids=[cell.name for cell in WITH_CONTENT])
def test_content_reaches_only_destinations_that_capture_it(cell: Cell) -> None:
    """Nothing that is marked is in any byte for a private destination, on the wire or in its spool.

    An open destination gets it, or else this would show nothing; credentials and pictures go nowhere;
    and what is no content stands in the private ones all the same.
    """
    found = running.run(cell, "tests.matrix.content.run")
    places, spans = found["places"], found["spans"]
    assert all(found["sizes"].values()), "every destination was sent something"
    assert {name: found["content"][name] for name in PRIVATE} == {name: [] for name in PRIVATE}, places
    assert [place for place in places["masked"] if "embedding" not in place] == [], "a mask sees texts, and all of them"
    assert not any(found["forbidden"].values()), found["forbidden"]
    shown = {place.partition(": ")[2].removeprefix("event ") for place in places["open"]}
    assert (ALWAYS | SHOWN.get(cell.name, set())) <= shown
    for name in ("private", "langfuse"):
        _compare(spans["open"], spans[name], is_mapped=name == "langfuse")


def _compare(whole: list[dict[str, Any]], private: list[dict[str, Any]], *, is_mapped: bool) -> None:
    """Every span is there, with all its numbers, its ids, its model, its cost and the custom metadata."""
    by_id = {span["span_id"]: span for span in private}
    assert {span["span_id"] for span in whole} == set(by_id)
    names: set[str] = set()
    for span in whole:
        kept = by_id[span["span_id"]]["attributes"]
        lost = {name for name, value in span["attributes"].items() if name not in kept and _must_stay(name, value)}
        # Langfuse gets most of them once, under the names of its own fields and metadata.
        assert is_mapped or not lost, f"{span['name']} has lost {lost}"
        if is_llm(span):
            names |= kept.keys()
            assert kept.get("langfuse.trace.metadata.plan", PLAN) == PLAN
    assert {"session.id", "user.id", "langfuse.trace.name", "langfuse.trace.metadata.plan"} <= names
    for one_of in (USAGE, COST, ("gen_ai.request.model", "llm.model_name", "langfuse.observation.model.name")):
        assert not names.isdisjoint(one_of)


def _must_stay(name: str, value: Any) -> bool:
    if name in PERSONAL or content_in(f"{name} {value}".encode()):
        return False
    return isinstance(value, bool | int | float) or name.startswith(
        (
            "byline.",
            "gen_ai.request.",
            "gen_ai.response.",
            "gen_ai.usage.",
            "langfuse.trace.",
            "session.",
            "user.",
            "server.",
            "app.",
        )
    )
