"""The tree groups spans by the caller's trace and step, and prints all values of a generation."""

from __future__ import annotations

from typing import Any

import pytest

from byline.cli import demo_tree
from byline.testing import ReceivedSpan


def make_span(name: str, number: int, parent: int | None = None, trace: str = "a", **more: Any) -> ReceivedSpan:
    defaults: dict[str, Any] = {
        "kind": "INTERNAL",
        "attributes": {},
        "start": number * 1_000_000,
        "end": number * 1_000_000 + 5_000_000,
        "status": "UNSET",
        "status_message": "",
        "events": [],
        "scope": "tests",
        "resource": {},
    }
    parent_id = None if parent is None else f"{parent:016x}"
    identity = {"name": name, "trace_id": trace * 32, "span_id": f"{number:016x}", "parent_id": parent_id}
    return ReceivedSpan(**{**defaults, **identity, **more})


def chat(name: str, number: int, parent: int | None, trace: str = "a", **attributes: Any) -> ReceivedSpan:
    said = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", **attributes}
    return make_span(name, number, parent, trace, kind="CLIENT", attributes=said)


def lines(capsys: pytest.CaptureFixture[str], spans: list[ReceivedSpan]) -> list[str]:
    demo_tree.print_tree(spans, framework="FastAPI")
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_requests_of_one_caller_trace_are_one_tree(capsys: pytest.CaptureFixture[str]) -> None:
    """Even if each request has its own W3C trace."""
    named = {"byline.trace.id": "workflow_1", "langfuse.trace.name": "Pipeline"}
    said = lines(
        capsys,
        [
            make_span("POST /a", 1, trace="a", kind="SERVER"),
            chat("first", 2, 1, "a", **named),
            make_span("POST /b", 3, trace="b", kind="SERVER"),
            chat("second", 4, 3, "b", **named),
        ],
    )
    assert said.count("Pipeline  trace workflow_1") == 1
    assert "├── POST /a  server span · 5 ms" in said
    assert "└── POST /b  server span · 5 ms" in said


def test_traces_without_a_name_are_separate(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(capsys, [chat("first", 1, None, "a"), chat("second", 2, None, "b")])
    assert f"trace  trace {'a' * 32}" in said
    assert f"trace  trace {'b' * 32}" in said


def test_inner_spans_of_frameworks_are_hidden_and_their_children_move_up(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = lines(
        capsys,
        [make_span("POST /a", 1, kind="SERVER"), make_span("endpoint", 2, 1), make_span("x", 3, 2), chat("c", 4, 3)],
    )
    assert "    └── c  generation · 5 ms" in said
    assert not any("endpoint" in line for line in said if not line.startswith("Not in the tree: "))
    assert said.count("Not in the tree: endpoint, x.") == 1


def test_tree_with_all_spans_mentions_no_hidden_spans(capsys: pytest.CaptureFixture[str]) -> None:
    said = lines(capsys, [make_span("POST /a", 1, kind="SERVER"), chat("c", 2, 1)])
    assert not any("Not in the tree" in line for line in said)


def test_generations_of_a_step_are_its_children(capsys: pytest.CaptureFixture[str]) -> None:
    step = {"byline.step.name": "Summarize"}
    said = lines(
        capsys,
        [
            make_span("POST /a", 1, kind="SERVER"),
            make_span("Summarize", 4, 1, scope="byline", attributes=step),
            chat("c", 2, 4, **step),
            chat("d", 3, 4, **step),
        ],
    )
    assert said.count("    └── Summarize  step") == 1
    assert "        ├── c  generation · 5 ms" in said
    assert "        └── d  generation · 5 ms" in said


def test_a_generation_has_model_tokens_cost_session_user_and_error(capsys: pytest.CaptureFixture[str]) -> None:
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.response.model": "openai/gpt-4o",
        "byline.gateway.name": "openrouter",
        "gen_ai.usage.input_tokens": 18,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cost": 0.000125,
        "gen_ai.request.stream": True,
        "session.id": "s-[1]",
        "user.id": "ada",
        "error.type": "RateLimitError",
    }
    said = lines(capsys, [make_span("c", 1, status="ERROR", attributes=attributes)])
    assert "└── c  generation · 5 ms · streamed" in said
    assert "    openai/gpt-4o via openrouter · 18 in + 8 out tokens · $0.000125" in said
    # Brackets are not treated as rich markup.
    assert "    session s-[1] · user ada" in said
    assert "    error RateLimitError" in said


def test_the_server_span_has_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    totals = {
        "byline.llm.calls": 2,
        "byline.llm.input_tokens": 3,
        "byline.llm.output_tokens": 4,
        "byline.llm.cost": 1.0,
    }
    said = lines(capsys, [make_span("POST /a", 1, kind="SERVER", attributes=totals)])
    assert "    2 calls · 7 tokens · $1.000000" in said


def test_a_run_without_generations_is_summarized(capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 generations, $0.000000, session unknown." in " ".join(lines(capsys, []))
