"""Facts that come apart from their span, and spans that stand for the same call."""

from __future__ import annotations

import time
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Span, TracerProvider

import byline
from byline.genai import pending_results, usage_ownership
from tests.http.conftest import Finished

FACTS: Any = {"gen_ai.response.id": "r-1", "gen_ai.usage.cost": 0.5}


def span_of(scope: str = "app", **attributes: Any) -> Any:
    return trace.get_tracer(scope).start_span("chat", attributes={"gen_ai.operation.name": "chat", **attributes})


def id_of(span: Span) -> int:
    return span.get_span_context().span_id


def test_facts_wait_by_the_replys_id_where_there_is_no_span_yet(provider: TracerProvider) -> None:
    pending_results.add(FACTS, response_id="r-1", span=None)
    assert pending_results.by_response_id("r-1") == FACTS
    assert pending_results.by_response_id("r-1") == FACTS  # for another destination
    assert pending_results.by_response_id("r-2") is None


def test_facts_wait_for_a_span_that_ended_before_its_call(provider: TracerProvider) -> None:
    span = span_of()
    span.end()
    pending_results.add(FACTS, response_id="r-1", span=span)
    assert pending_results.by_span_id(id_of(span)) == FACTS
    assert pending_results.by_response_id("r-1") is None


def test_what_waits_too_long_or_is_too_much_goes(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(pending_results._MAX + 10):
        pending_results.add(FACTS, response_id=f"r-{number}", span=None)
    assert pending_results.by_response_id("r-9") is None
    assert pending_results.by_response_id("r-10") == FACTS
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + pending_results._SECONDS + 1)
    pending_results.add(FACTS, response_id="young", span=None)
    assert pending_results.by_response_id(f"r-{pending_results._MAX}") is None
    assert pending_results.by_response_id("young") == FACTS


def test_a_second_span_of_the_same_stream_gets_the_facts_as_it_starts(finished: Finished) -> None:
    """One instrumentation ends its span at the headers, and makes another one with the tokens."""
    with byline.bound(session_id="s-1"), trace.get_tracer("app").start_as_current_span("work"):
        first = span_of("logfire.openai")
        first.end()
        pending_results.add(FACTS, response_id="r-1", span=first)
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


def test_of_spans_with_the_same_reply_one_carries_the_usage(provider: TracerProvider) -> None:
    """Beside each other; a reply from a cache is another call with the same id."""
    first, cached, twin = span_of(), span_of(), span_of()
    usage_ownership.assign(first, "r-1")
    usage_ownership.assign(cached, "r-1")
    assert [usage_ownership.is_duplicate(id_of(span), "r-1") for span in (first, cached, twin)] == [False, False, True]
    assert not usage_ownership.is_duplicate(id_of(twin), "r-2")
    assert not usage_ownership.is_duplicate(id_of(twin), None)


def test_of_nested_model_calls_the_inner_one_carries_the_usage(provider: TracerProvider) -> None:
    """Agents around it are no model calls."""
    agent = span_of(**{"gen_ai.operation.name": "invoke_agent"})
    with trace.use_span(agent), trace.use_span(span_of()) as outer:
        inner = span_of()
    usage_ownership.assign(inner, None)
    assert isinstance(outer, Span)
    assert usage_ownership.is_duplicate(id_of(outer), None)
    assert not usage_ownership.is_duplicate(id_of(inner), None)
    assert not usage_ownership.is_duplicate(id_of(agent), None)


def test_a_late_span_claims_a_reply_that_nobody_carries(provider: TracerProvider) -> None:
    first, second = span_of(), span_of()
    assert usage_ownership.try_claim("r-1", id_of(first))
    assert usage_ownership.try_claim("r-1", id_of(first))
    assert not usage_ownership.try_claim("r-1", id_of(second))


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
    assert usage_ownership.strip_usage({**kept, **usage}) == kept
