"""Spans that an instrumentation makes while, or after, the exchange is under way."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import byline
from byline.testing import Gateway
from tests.http.conftest import Finished

SCOPE = "opentelemetry.instrumentation.openai.v1"
ASK = {"model": "openai/gpt-4o", "input": "Who?"}


@pytest.fixture(autouse=True)
def openllmetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The instrumentation that makes its span of a response late, as far as byline looks at it."""

    class OpenAIInstrumentor:
        is_instrumented_by_opentelemetry = True

    module = SimpleNamespace(OpenAIInstrumentor=OpenAIInstrumentor)
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.openai", module)


def make_span(scope: str = SCOPE, name: str = "openai.response", **attributes: Any) -> Any:
    return trace.get_tracer(scope).start_span(name, attributes=attributes)


def costs(finished: Finished) -> list[Any]:
    return [(span.attributes or {}).get("gen_ai.usage.cost") for span in finished()]


def test_span_made_after_the_exchange_gets_the_result_at_its_start(gateway: Gateway, finished: Finished) -> None:
    """Once: neither the next span of the instrumentation nor anybody else's has them."""
    with byline.bound(session_id="s-1"), httpx2.Client() as client:
        client.post(f"{gateway.base_url}/responses", json=ASK)
        make_span("another").end()
        make_span(name="openai.chat").end()
        make_span(**{"gen_ai.operation.name": "execute_tool"}).end()
        make_span().end()
        make_span().end()
    assert [cost is not None for cost in costs(finished)] == [False, False, False, True, False]
    assert (finished()[3].attributes or {})["session.id"] == "s-1"


def test_span_made_at_the_headers_gets_the_result_of_the_stream(gateway: Gateway, finished: Finished) -> None:
    with byline.bound(session_id="s-1"), httpx2.Client() as client:
        body = {**ASK, "stream": True}
        with client.stream("POST", f"{gateway.base_url}/responses", json=body) as response:
            span = make_span()
            assert "gen_ai.usage.cost" not in (span.attributes or {})
            response.read()
        span.end()
    (cost,) = costs(finished)
    assert cost > 0


def test_span_made_of_an_error_has_the_values_of_the_gateway(gateway: Gateway, finished: Finished) -> None:
    """There is no id of a reply by which it could be found later."""
    gateway.fail(429)
    with byline.bound(session_id="s-1"), httpx2.Client() as client:
        client.post(f"{gateway.base_url}/responses", json=ASK)
        span = make_span()
        span.set_status(StatusCode.ERROR)
        span.end()
    (found,) = finished()
    assert (found.attributes or {})["http.response.status_code"] == 429
    assert "byline.error.message" not in (found.attributes or {})


def test_call_without_a_span_is_replaced_by_the_next_call(gateway: Gateway, finished: Finished) -> None:
    with byline.bound(session_id="s-1"), httpx2.Client() as client:
        client.post(f"{gateway.base_url}/responses", json=ASK)
        second = client.post(f"{gateway.base_url}/responses", json=ASK).json()["id"]
        make_span().end()
        client.post(f"{gateway.base_url}/responses", json=ASK)
        client.post(f"{gateway.base_url}/chat/completions", json={"model": "m", "messages": []})
        make_span().end()
    late, chat, last = (span.attributes or {} for span in finished())
    assert late["gen_ai.response.id"] == second
    assert chat["gen_ai.operation.name"] == "chat"
    assert "gen_ai.response.id" not in last
