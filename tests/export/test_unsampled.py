"""LLM calls of requests that the app's sampler dropped reach the destinations all the same, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind

import byline
from byline.export import OTLP, Destination, Langfuse
from byline.testing import Gateway, Receiver, assert_signed
from tests.export.support import tree

KEYS = ("pk-lf-1", "sk-lf-1")
CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        yield found


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    byline.uninstrument()


def instrument(*destinations: Destination, sampler: Sampler = ParentBased(ALWAYS_OFF), **more: Any) -> TracerProvider:  # noqa: B008
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, destinations=list(destinations), **more)
    return provider


def ask(provider: TracerProvider, gateway: Gateway, calls: int = 1, **fields: Any) -> SpanContext:
    """Serve a request with a model call; return the context of its server span."""
    with (
        byline.bound(**fields),
        provider.get_tracer("app").start_as_current_span("POST /chat", kind=SpanKind.SERVER) as server,
        provider.get_tracer("db").start_as_current_span("SELECT"),
        openai.OpenAI(base_url=gateway.base_url, api_key="k") as client,
    ):
        for _ in range(calls):
            assert client.chat.completions.create(**CHAT).choices[0].message.content
    return server.get_span_context()


def test_calls_of_a_dropped_request_have_attribution_and_results(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url, root=False))
    context = ask(provider, gateway, calls=2, session_id="s", user_id="ada")
    assert byline.flush()
    spans = receiver.spans
    assert tree(spans) == {None: ["chat openai/gpt-4o"] * 2}
    assert {span.trace_id for span in spans} == {f"{context.trace_id:032x}"}
    for span in spans:
        assert_signed(span, session_id="s", user_id="ada")
        assert span.attributes["gen_ai.usage.input_tokens"] > 0
        assert span.attributes["gen_ai.usage.cost"] > 0


def test_they_are_regrouped_like_all_others(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url))
    ask(provider, gateway, trace_id="workflow_12345", span_name="Step", generation_name="Ask")
    assert byline.flush()
    assert tree(receiver.spans) == {None: ["Step"], "Step": ["Ask"]}
    assert {span.trace_id for span in receiver.spans} == {"7af15d27557f4b0547b66811c67d365d"}


@pytest.mark.newest
def test_other_spans_of_a_dropped_request_are_not_recorded(receiver: Receiver, gateway: Gateway) -> None:
    """Neither its other spans here, nor anything in the app's own exporters; nor do its headers claim otherwise."""
    others = InMemorySpanExporter()
    with Receiver() as whole:
        provider = instrument(Langfuse(*KEYS, receiver.url), OTLP(whole.url, unsampled="record"))
        provider.add_span_processor(SimpleSpanProcessor(others))
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor

        instrumentor = HTTPX2ClientInstrumentor()
        instrumentor.instrument(tracer_provider=provider)
        try:
            ask(provider, gateway)
        finally:
            instrumentor.uninstrument()
        assert byline.flush()
        assert [span.name for span in whole.spans] == ["chat openai/gpt-4o"]
        assert whole.spans[0].parent_id is None
    assert [span.name for span in receiver.spans] == ["chat openai/gpt-4o"]
    assert others.get_finished_spans() == ()
    sent = gateway.requests[-1].headers.get("traceparent", "-00")
    assert not int(sent[-2:], 16) & 1


def test_skip_means_skip(receiver: Receiver, gateway: Gateway) -> None:
    """Also by default, for a destination of all spans."""
    with Receiver() as recording:
        provider = instrument(
            Langfuse(*KEYS, receiver.url, unsampled="skip"), OTLP(receiver.url), OTLP(recording.url, unsampled="record")
        )
        ask(provider, gateway)
        assert byline.flush()
        assert len(recording.spans) == 1
    assert receiver.spans == []


def test_sampled_requests_are_sent_once(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url), sampler=TraceIdRatioBased(0.5))
    for _ in range(20):
        ask(provider, gateway)
    assert byline.flush()
    assert len(receiver.spans) == 20
    assert len({span.span_id for span in receiver.spans}) == 20


def test_a_caller_that_was_not_sampled_drops_no_call_either(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url))
    remote = NonRecordingSpan(SpanContext(0xA1, 0xB2, is_remote=True))
    with trace.use_span(remote):
        ask(provider, gateway)
    assert byline.flush()
    assert [(span.trace_id, span.parent_id) for span in receiver.spans] == [(f"{0xA1:032x}", None)]


@pytest.mark.newest
def test_an_instrumentation_at_work_changes_nothing(receiver: Receiver, gateway: Gateway) -> None:
    """Its own span of a dropped request is dropped too, so that byline makes one."""
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    provider = instrument(Langfuse(*KEYS, receiver.url), sampler=ParentBased(TraceIdRatioBased(0.5)))
    instrumentor = OpenAIInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        for _ in range(20):
            ask(provider, gateway, session_id="s")
    finally:
        instrumentor.uninstrument()
    assert byline.flush()
    assert len(receiver.spans) == 20
    assert {span.scope for span in receiver.spans} == {"byline", "opentelemetry.instrumentation.genai.openai"}
    for span in receiver.spans:
        assert_signed(span, session_id="s")
        assert span.attributes["gen_ai.usage.cost"] > 0


def test_byline_that_makes_no_spans_makes_none_here(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url), llm_spans=False)
    ask(provider, gateway)
    assert byline.flush()
    assert receiver.spans == []


def test_other_requests_leave_nothing(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url))
    with provider.get_tracer("app").start_as_current_span("POST /chat"), httpx2.Client() as client:
        client.get(f"{gateway.url}/health")
    assert byline.flush()
    assert receiver.spans == []


class _RecordOnly(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        from opentelemetry.sdk.trace.sampling import Decision

        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "record only"


def test_a_sampler_that_records_without_sampling(receiver: Receiver, gateway: Gateway) -> None:
    """The LLM span that is there is taken; the app's own are not."""
    provider = instrument(Langfuse(*KEYS, receiver.url, spans="all"), sampler=_RecordOnly())
    ask(provider, gateway, session_id="s")
    assert byline.flush()
    assert [span.name for span in receiver.spans] == ["chat openai/gpt-4o"]
    assert_signed(receiver.spans[0], session_id="s")


def test_after_uninstrument_nothing_is_recorded(receiver: Receiver, gateway: Gateway) -> None:
    provider = instrument(Langfuse(*KEYS, receiver.url))
    byline.uninstrument()
    ask(provider, gateway)
    assert receiver.spans == []
