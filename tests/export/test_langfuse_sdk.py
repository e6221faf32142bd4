"""The destination of the environment leaves its spans to Langfuse's SDK, whenever the SDK adds its span processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind

import byline
from byline.export import Langfuse
from byline.instrument import runtimes
from byline.testing import Gateway, Receiver
from tests.export.support import AGENT, CHAT

pytestmark = pytest.mark.usefixtures("not_instrumented")

KEYS = ("pk-lf-1", "sk-lf-1")
TRACE_ID = "7af15d27557f4b0547b66811c67d365d"


class SdkProcessor(SimpleSpanProcessor):
    """Stands for the span processor of Langfuse's SDK 5.0.4."""

    __module__ = "langfuse._client.span_processor"

    def __init__(self, public_key: str = KEYS[0]) -> None:
        self.exporter = InMemorySpanExporter()
        super().__init__(self.exporter)
        self.public_key = public_key

    @property
    def sent(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver() as found:
        monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", KEYS[0])
        monkeypatch.setenv("LANGFUSE_SECRET_KEY", KEYS[1])
        monkeypatch.setenv("LANGFUSE_BASE_URL", found.url)
        yield found


def instrument(**arguments: Any) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, clients=(), **arguments)
    return provider


def chat(provider: TracerProvider, name: str) -> None:
    with byline.bound(session_id="s", trace_id="workflow_12345"):
        provider.get_tracer("app").start_span(name, attributes=CHAT).end()


def arrived(receiver: Receiver) -> list[str]:
    assert byline.flush()
    return [span.name for span in receiver.spans]


def left_out() -> int:
    return byline.stats().get("langfuse.spans.left_out", 0)


def test_an_sdk_that_comes_later_sends_the_spans_from_then_on(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """``@observe()`` creates the SDK's client with its first call."""
    provider = instrument()
    chat(provider, "before")
    assert arrived(receiver) == ["before"]
    sdk = SdkProcessor()
    provider.add_span_processor(sdk)
    chat(provider, "first")
    chat(provider, "second")
    assert arrived(receiver) == ["before"]
    chat(provider, "third")
    assert arrived(receiver) == ["before"]
    assert sdk.sent == ["first", "second", "third"]
    assert [dict(span.attributes or {})["session.id"] for span in sdk.exporter.get_finished_spans()] == ["s"] * 3
    assert caplog.text.count("byline.E027") == 1
    # The spans that were in the queue when byline saw the SDK; later ones are not queued.
    assert left_out() == 2
    assert byline.stats()["langfuse.queue"] == 0


def test_the_end_of_the_process_sends_no_span_of_the_sdk(receiver: Receiver) -> None:
    provider = instrument()
    provider.add_span_processor(SdkProcessor())
    chat(provider, "first")
    byline.uninstrument()
    assert not receiver.spans
    assert left_out() == 1


def test_spans_that_wait_for_their_request_are_not_lost(receiver: Receiver) -> None:
    """The SDK has not got them: they ended before it was there."""
    provider = instrument()
    tracer = provider.get_tracer("app")
    with byline.bound(session_id="s"), tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER):
        tracer.start_span("held", attributes=CHAT).end()
        worker = runtimes.destinations()[0].processor().worker
        # A flush would let the span leave.
        worker._prepare_queued(1, sends=False)
        assert worker._pipeline.holds_spans
        provider.add_span_processor(SdkProcessor())
        tracer.start_span("sent by the SDK", attributes=CHAT).end()
    assert arrived(receiver) == ["held"]


@pytest.mark.parametrize("comes_first", [False, True])
def test_an_sdk_of_another_project_changes_nothing(
    comes_first: bool, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    if comes_first:
        provider.add_span_processor(SdkProcessor("pk-lf-2"))
    byline.instrument(tracer_provider=provider, clients=())
    if not comes_first:
        provider.add_span_processor(SdkProcessor("pk-lf-2"))
    chat(provider, "first")
    assert arrived(receiver) == ["first"]
    assert "byline.E027" not in caplog.text
    assert left_out() == 0


def test_an_sdk_with_a_provider_of_its_own_changes_nothing(receiver: Receiver) -> None:
    provider = instrument()
    TracerProvider(shutdown_on_exit=False).add_span_processor(SdkProcessor())
    chat(provider, "first")
    assert arrived(receiver) == ["first"]


def test_only_the_provider_with_the_sdk_is_left_to_it(receiver: Receiver) -> None:
    with_sdk, without = instrument(), instrument()
    with_sdk.add_span_processor(SdkProcessor())
    chat(with_sdk, "sent by the SDK")
    chat(without, "first")
    assert arrived(receiver) == ["first"]


def test_a_destination_that_the_app_names_goes_on(receiver: Receiver) -> None:
    provider = instrument(destinations=[Langfuse()])
    provider.add_span_processor(SdkProcessor())
    chat(provider, "first")
    assert arrived(receiver) == ["first"]


def test_a_collector_of_the_environment_goes_on(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{receiver.url}/collector")
    provider = instrument()
    provider.add_span_processor(SdkProcessor())
    chat(provider, "first")
    assert arrived(receiver) == ["first"]


def test_trace_ids_name_the_destination_no_more(receiver: Receiver) -> None:
    provider = instrument()
    with byline.bound(trace_id="workflow_12345"):
        assert byline.trace_ids().destinations["langfuse"].trace_id == TRACE_ID
    provider.add_span_processor(SdkProcessor())
    chat(provider, "first")
    assert arrived(receiver) == []
    with byline.bound(trace_id="workflow_12345"):
        assert byline.trace_ids().destinations == {}


def test_calls_that_the_apps_sampler_dropped_are_left_out_as_well(receiver: Receiver) -> None:
    """As if the SDK had been there first. The SDK does not get them either."""
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, clients="auto")
    provider.add_span_processor(sdk := SdkProcessor())
    with (
        Gateway() as gateway,
        byline.bound(session_id="s"),
        provider.get_tracer("app").start_as_current_span("POST /chat", kind=SpanKind.SERVER),
        openai.OpenAI(base_url=gateway.base_url, api_key="k") as client,
    ):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
    assert arrived(receiver) == []
    assert sdk.sent == []
    assert left_out() == 1


def test_a_parent_that_the_sdk_sends_is_not_sent_again(receiver: Receiver) -> None:
    """A child that byline has sent refers to the parent, which was open when the SDK came."""
    provider = instrument()
    tracer = provider.get_tracer("app")
    with byline.bound(session_id="s"):
        with tracer.start_as_current_span("agent", attributes=AGENT):
            chat(provider, "before")
            assert arrived(receiver) == ["before"]
            provider.add_span_processor(sdk := SdkProcessor())
        chat(provider, "first")
    byline.uninstrument()
    assert [span.name for span in receiver.spans] == ["before"]
    assert sdk.sent == ["agent", "first"]


def test_a_forked_worker_leaves_its_spans_to_the_sdk(receiver: Receiver) -> None:
    provider = instrument()
    chat(provider, "before")
    assert arrived(receiver) == ["before"]
    runtimes.destinations()[0].processor().worker.after_fork()
    provider.add_span_processor(sdk := SdkProcessor())
    chat(provider, "first")
    assert arrived(receiver) == ["before"]
    runtimes.destinations()[0].processor().worker.after_fork()
    chat(provider, "second")
    assert arrived(receiver) == ["before"]
    assert sdk.sent == ["first", "second"]
