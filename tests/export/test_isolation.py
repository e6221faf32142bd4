"""Isolation: no value of one request on another request's span, also where gateways repeat reply ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import SpanKind

import byline
from byline.export import OTLP
from byline.testing import Receiver

CACHED = {
    "id": "chatcmpl-cached",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "answer"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    byline.uninstrument()


class DropSome(Sampler):
    """Drops the traces of the named routes."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.DROP if "dropped" in name else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "DropSome"


def ask_in_request(provider: TracerProvider, client: httpx2.Client, route: str, fields: dict[str, Any]) -> None:
    with (
        byline.bound(**fields),
        provider.get_tracer("app").start_as_current_span(f"POST {route}", kind=SpanKind.SERVER),
    ):
        client.post("http://localhost:1/v1/chat/completions", json={"model": "m", "messages": []})


def values_of(attributes: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: attributes[key] for key in keys if key in attributes}


def test_an_anonymous_call_with_a_cached_reply_carries_no_earlier_callers_values() -> None:
    """The owner's attribution must not wait under the id of a reply, which a gateway's cache repeats."""
    provider = TracerProvider(sampler=ParentBased(DropSome()), shutdown_on_exit=False)
    with (
        Receiver() as receiver,
        httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=CACHED))) as client,
    ):
        byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url)])
        for number in range(3):
            named = {"user_id": f"user-{number}", "session_id": f"s-{number}", "metadata": {"iban": f"DE{number}"}}
            ask_in_request(provider, client, "/dropped", named)
            ask_in_request(provider, client, "/anonymous", {})
        byline.flush()
        calls = [span for span in receiver.spans if span.kind == "CLIENT"]
    assert len(calls) == 3
    strange = ("user.id", "session.id", "langfuse.trace.metadata.iban")
    assert [values_of(span.attributes, strange) for span in calls] == [{}, {}, {}]
