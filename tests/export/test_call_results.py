"""Results of calls with several spans, or with a span that was created or ended apart from the HTTP exchange."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline.export import OTLP
from byline.gateways import OpenRouter
from byline.genai import call_results
from byline.genai.call_results import keep_result, results
from byline.genai.span_state import state_of
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.export.support import AGENT, CHAT, running

ASK: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}
#: Attributes that an instrumentation sets itself.
COUNTED = {"gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3, "llm.usage.total_tokens": 10}
FACTS: Any = {"gen_ai.response.id": "r-1", "gen_ai.usage.cost": 0.5, "byline.gateway.name": "openrouter"}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def usage_of(span: ReceivedSpan) -> dict[str, Any]:
    return {key: value for key, value in span.attributes.items() if "usage" in key or ".cost" in key}


def by_name(receiver: Receiver) -> dict[str, ReceivedSpan]:
    return {span.name: span for span in receiver.spans}


def test_of_two_spans_of_one_call_one_has_its_usage(receiver: Receiver) -> None:
    """Two instrumentations each make one, the one within the other, and each counts the tokens."""
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("app")
    with Gateway() as gateway:
        byline.instrument(
            tracer_provider=provider,
            destinations=[OTLP(receiver.url, spans="llm")],
            gateways=[OpenRouter(gateway.base_url)],
            llm_spans=False,
        )
        with tracer.start_as_current_span("agent", attributes={**AGENT, **COUNTED}):  # noqa: SIM117 - as they nest
            with tracer.start_as_current_span("outer", attributes={**CHAT, **COUNTED}):
                with tracer.start_as_current_span("inner", attributes=CHAT) as inner, httpx2.Client() as client:
                    client.post(f"{gateway.base_url}/chat/completions", json=ASK)
                    inner.set_attributes(COUNTED)
        byline.uninstrument()
    found = by_name(receiver)
    assert found.keys() == {"agent", "outer", "inner"}
    assert usage_of(found["outer"]) == {}
    assert usage_of(found["inner"])["gen_ai.usage.cost"] > 0
    # The tokens of the response, also if an instrumentation counts others.
    assert COUNTED.keys() <= usage_of(found["inner"]).keys()
    # The usage of an agent span is a total, which other backends compute themselves.
    assert usage_of(found["agent"]) == COUNTED


def test_span_created_later_gets_the_result_and_a_second_span_gets_none(receiver: Receiver) -> None:
    """The first span with the response id gets the result, at every destination; its own attributes stay."""
    results.add(0, "r-1", FACTS)
    with Receiver() as other, running(OTLP(receiver.url), OTLP(other.url, label="other")) as app:
        app.chat("first", **{"gen_ai.response.id": "r-1", "byline.gateway.name": "mine"})
        app.chat("twin", **{"gen_ai.response.id": "r-1", **COUNTED})
        app.chat("stranger", **{"gen_ai.response.id": "r-2", **COUNTED})
        for each in app.destinations:
            assert each.flush()
        for found in (by_name(receiver), by_name(other)):
            assert usage_of(found["first"]) == {"gen_ai.usage.cost": 0.5}
            assert found["first"].attributes["byline.gateway.name"] == "mine"
            assert usage_of(found["twin"]) == {}
            assert "byline.gateway.name" not in found["twin"].attributes
            assert usage_of(found["stranger"]) == COUNTED


def test_span_created_later_leaves_the_usage_to_a_gateway_that_exports_it(receiver: Receiver) -> None:
    """Nothing of the call was there to be marked when the gateway answered."""
    results.assign_to_gateway(None, 0, "r-1")
    with running(OTLP(receiver.url)) as app:
        app.chat("chat", **{"gen_ai.response.id": "r-1", **COUNTED})
    assert usage_of(by_name(receiver)["chat"]) == {}


def test_the_results_of_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first, because their spans have been sent long since."""
    monkeypatch.setattr(call_results, "MAX_ENTRIES", 4)
    with running() as app:
        for number in range(20):
            with app.span("outer", CHAT) as outer:
                span: Any = app.tracer.start_span("chat", attributes=CHAT)
            results.assign(state_of(span), f"r-{number}")  # type: ignore[arg-type]
            results.assign_to_gateway(state_of(outer), 0, f"e-{number}")
            results.add(0, f"c-{number}", FACTS)
    assert len(results) == 4


def test_span_that_ended_before_its_response_gets_the_result(receiver: Receiver) -> None:
    """As long as it has not been sent."""
    with running(OTLP(receiver.url)) as app:
        span: Any = app.tracer.start_span("early", attributes=CHAT)
        span.end()
        keep_result(FACTS, span=span, request_key=0, response_id="r-1")
    assert by_name(receiver)["early"].attributes.items() >= FACTS.items()


def test_usage_that_a_library_sets_on_the_server_span_is_removed(receiver: Receiver) -> None:
    """The server span has the request's totals, and would look like one of the calls."""
    with running(OTLP(receiver.url, spans="all")) as app, app.request() as server:
        server.set_attributes(
            {**CHAT, **COUNTED, "byline.llm.calls": 1, "http.route": "/chat", "llm.request.type": "chat"}
        )
        with trace.use_span(server):
            app.chat("chat", **COUNTED)
    found = by_name(receiver)
    assert found["POST /chat"].attributes == {"byline.llm.calls": 1, "http.route": "/chat"}
    assert usage_of(found["chat"]) == COUNTED
