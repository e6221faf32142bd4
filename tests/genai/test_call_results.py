"""Results that arrive apart from their span, and several spans of one call."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span

import byline
from byline.genai import call_results
from byline.genai.call_results import CallResults, keep_result, results, strip_usage
from byline.genai.span_state import SpanState, state_of
from tests.http.conftest import Finished

FACTS: Any = {"gen_ai.response.id": "r-1", "gen_ai.usage.cost": 0.5}


def span_of(scope: str = "app", **attributes: Any) -> Any:
    return trace.get_tracer(scope).start_span("chat", attributes={"gen_ai.operation.name": "chat", **attributes})


def state(span: Span) -> SpanState:
    found = state_of(span)
    assert found is not None
    return found


def claimed(span: Span, response_id: str) -> Any:
    """Return the result that a finished span gets by its response id."""
    results.claim(state(span), response_id)
    return state(span).result


def test_a_result_waits_for_the_span_that_states_its_response_id(finished: Finished) -> None:
    keep_result(FACTS, span=None, request_key=0, response_id="r-1")
    span = span_of()
    assert claimed(span, "r-2") is None
    assert claimed(span, "r-1") == FACTS
    assert claimed(span, "r-1") == FACTS  # for another destination


def test_a_result_stays_with_a_span_that_ended_before_its_response(finished: Finished) -> None:
    span = span_of()
    span.end()
    keep_result(FACTS, span=span, request_key=0, response_id="r-1")
    assert state(span).result == FACTS
    assert claimed(span_of(), "r-1") is None


def test_a_result_is_never_found_from_another_request(finished: Finished) -> None:
    """Caches of gateways repeat response ids."""
    with byline.bound(session_id="first"):
        first = span_of()
    with byline.bound(session_id="second"):
        second = span_of()
    keep_result(FACTS, span=None, request_key=state(first).request_key, response_id="r-1")
    assert claimed(second, "r-1") is None
    assert claimed(span_of(), "r-1") is None
    assert claimed(first, "r-1") == FACTS


def test_results_are_bounded_by_number_and_age(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    table = CallResults()
    spans = [span_of() for _ in range(3)]
    monkeypatch.setattr(call_results, "MAX_ENTRIES", 4)
    for number in range(14):
        table.add(0, f"r-{number}", FACTS)
    assert len(table) == 4
    table.claim(state(spans[0]), "r-9")
    table.claim(state(spans[1]), "r-10")
    assert [state(span).result for span in spans[:2]] == [None, FACTS]
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + call_results.MAX_SECONDS + 1)
    table.add(0, "young", FACTS)
    assert len(table) == 1
    table.claim(state(spans[2]), "young")
    assert state(spans[2]).result == FACTS


def test_results_are_bounded_by_bytes(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured conversation may have megabytes."""
    monkeypatch.setattr(call_results, "MAX_BYTES", 10_000)
    table = CallResults()
    for number in range(100):
        table.add(number, "r", {"gen_ai.input.messages": "x" * 900})
    assert 4 <= len(table) <= 8
    table.add(0, "huge", {"gen_ai.input.messages": "x" * 20_000})
    assert len(table) == 0


def test_second_span_of_a_stream_gets_the_result_at_its_start(finished: Finished) -> None:
    """One instrumentation ends its span at the headers, and makes another one with the tokens."""
    with byline.bound(session_id="s-1"), trace.get_tracer("app").start_as_current_span("work"):
        first = span_of("logfire.openai")
        first.end()
        keep_result(FACTS, span=first, request_key=0, response_id="r-1")
        span_of("logfire.openai", **{"logfire.span_type": "span"}).end()  # the next call
        span_of("logfire.openai", **{"logfire.span_type": "log"}).end()
        span_of("logfire.openai", **{"logfire.span_type": "log"}).end()
    costs = [(span.attributes or {}).get("gen_ai.usage.cost") for span in finished()]
    assert costs == [None, None, 0.5, None, None]


def test_a_span_made_after_its_request_is_signed_like_its_parent(finished: Finished) -> None:
    """As by a stream that is dropped, and ends when the memory is tidied up."""
    with byline.bound(session_id="s-1", tags=["a"], metadata={"k": "v"}):
        parent = span_of()
    parent.end()
    with trace.use_span(parent):
        span_of(**{"gen_ai.conversation.id": "own"}).end()
    attributes = finished()[1].attributes or {}
    assert attributes["session.id"] == "s-1"
    assert attributes["gen_ai.conversation.id"] == "own"
    assert attributes["langfuse.trace.tags"] == ("a",)
    assert attributes["langfuse.trace.metadata.k"] == "v"


def test_of_spans_with_the_same_response_one_carries_the_usage(finished: Finished) -> None:
    """Beside each other; a response from a cache belongs to another call with the same id."""
    first, cached, twin = span_of(), span_of(), span_of()
    results.assign(state(first), "r-1")
    results.assign(state(cached), "r-1")
    assert [results.is_duplicate(state(span), "r-1") for span in (first, cached, twin)] == [False, False, True]
    assert not results.is_duplicate(state(twin), "r-2")
    assert not results.is_duplicate(state(twin), None)


def test_any_number_of_calls_with_one_response_id_keep_their_usage(finished: Finished) -> None:
    """Ollama's OpenAI endpoint draws its ids from 999."""
    spans = [span_of() for _ in range(100)]
    for span in spans:
        results.assign(state(span), "chatcmpl-0")
    assert not any(results.is_duplicate(state(span), "chatcmpl-0") for span in spans)


def test_of_nested_model_calls_the_inner_one_carries_the_usage(finished: Finished) -> None:
    """Agents around the call are no model calls."""
    agent = span_of(**{"gen_ai.operation.name": "invoke_agent"})
    with trace.use_span(agent), trace.use_span(span_of()) as outer:
        inner = span_of()
    results.assign(state(inner), None)
    assert isinstance(outer, Span)
    assert results.is_duplicate(state(outer), None)
    assert not results.is_duplicate(state(inner), None)
    assert not results.is_duplicate(state(agent), None)


def test_a_late_span_takes_a_result_that_no_span_carries(finished: Finished) -> None:
    first, second = span_of(), span_of()
    results.add(0, "r-1", FACTS)
    assert claimed(first, "r-1") == FACTS
    assert claimed(second, "r-1") is None
    assert [results.is_duplicate(state(span), "r-1") for span in (first, second)] == [False, True]


def test_usage_is_left_out_in_every_spelling() -> None:
    """Everything else stays."""
    kept = {"gen_ai.request.model": "m", "gen_ai.response.id": "r", "llm.model_name": "m"}
    usage = {
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.cost": 1.0,
        "llm.token_count.prompt": 1,
        "llm.usage.total_tokens": 1,
        "llm.cost.total": 1.0,
        "byline.cost.input": 1.0,
        "langfuse.observation.usage_details": "{}",
    }
    assert strip_usage({**kept, **usage}) == kept


def test_results_that_were_taken_or_replaced_take_no_room() -> None:
    """Thousands of results may pass through one response id: some servers repeat a constant one."""
    table = CallResults()
    table.add(1, "kept", FACTS)
    call = object()
    for _ in range(40):
        table.add(2, "constant", {"text": "x" * 1_000_000})
        taker = SpanState(span_of(), span_of().get_span_context(), None)
        taker._request_key = 2
        table.claim(taker, "constant")
        assert taker.result is not None
        table.add(3, "streamed", {"text": "x" * 1_000_000}, call)
    taker = SpanState(span_of(), span_of().get_span_context(), None)
    taker._request_key = 1
    table.claim(taker, "kept")
    assert taker.result == FACTS
