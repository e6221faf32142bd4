"""Spans without an end: parents of exported children, and calls that ended abnormally."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import byline
from byline import internal_metrics
from byline.export import OTLP, Langfuse
from byline.genai.span_state import SpanStateProcessor
from byline.testing import Gateway, Receiver
from tests.export.support import AGENT, App, Memory, named, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def ask_and_forget(app: App, receiver: Receiver) -> None:
    """Start an agent that is never ended, although its call is sent."""
    agent = app.tracer.start_span("agent", attributes=AGENT)
    with trace.use_span(agent):
        app.chat("call")
    assert app.destinations[0].flush()
    assert [span.name for span in receiver.spans] == ["call"]


def test_agent_span_without_end_is_sent_once_released(receiver: Receiver) -> None:
    """With the next spans, as it was last seen, and as long as is known of it."""
    with running(OTLP(receiver.url, spans="llm")) as app, app.request(trace_id="t", session_id="s", span_name="Step"):
        ask_and_forget(app, receiver)
        gc.collect()
        app.chat("next")
        assert app.destinations[0].flush()
        assert {span.name for span in receiver.spans} == {"call", "next", "agent"}
    assert tree(receiver.spans) == {None: ["Step"], "Step": ["agent", "next"], "agent": ["call"]}
    agent = named(receiver.spans, "agent")
    assert agent.end >= named(receiver.spans, "call").end
    assert agent.attributes["session.id"] == "s"


@pytest.mark.parametrize("spans", ["llm", "all"])
def test_open_parents_are_sent_at_the_end_of_the_process(receiver: Receiver, spans: Any) -> None:
    """An agent that was cut off, and all that is around it."""
    destination = Langfuse("pk-lf-1", "sk-lf-1", receiver.url, spans=spans)
    app = App(destination)
    with app.request(session_id="s"), app.span("agent", AGENT) as agent:
        app.chat("call")
        assert destination.flush()
        byline.bind(user_id="ada")
        agent.set_attribute("byline.note", "late")
        app.close()
    expected: Any = {None: ["agent"], "agent": ["call"]}
    if spans == "all":
        expected = {None: ["POST /chat"], "POST /chat": ["agent"], "agent": ["call"]}
    assert tree(receiver.spans) == expected
    assert named(receiver.spans, "agent").attributes["byline.note"] == "late"
    assert named(receiver.spans, "agent").attributes["user.id"] == "ada"


def test_span_without_children_is_not_sent_before_its_end(receiver: Receiver) -> None:
    app = App(OTLP(receiver.url))
    with app.request(), app.span("agent", AGENT):
        app.close()
    assert receiver.spans == []


def test_a_parent_that_comes_is_sent_once(receiver: Receiver) -> None:
    """However many batches go in the meantime."""
    with running(OTLP(receiver.url)) as app, app.request(), app.span("agent", AGENT):
        for _ in range(3):
            app.chat("call")
            gc.collect()
            assert app.destinations[0].flush()
    assert tree(receiver.spans) == {None: ["POST /chat"], "POST /chat": ["agent"], "agent": ["call"] * 3}


def test_nothing_is_kept_of_parents_that_have_come_or_gone(receiver: Receiver) -> None:
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app:
        with app.request(), app.span("agent", AGENT):
            app.chat("call")
            assert destination.flush()
        assert destination.flush()
        receiver.clear()
        with app.request():
            ask_and_forget(app, receiver)
        gc.collect()
        app.chat("next")
        assert destination.flush()
        feed: Any = destination.processor()
        assert len(feed._decisions._parents) == 0


def test_a_parent_that_the_full_queue_dropped_is_counted_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    busy, go_on = threading.Event(), threading.Event()
    memory = Memory()
    with running(memory) as app:
        with app.span("parent"):
            app.chat("child")
            assert memory.flush()
            export = memory.kept.export

            def wait(spans: Any) -> Any:
                busy.set()
                go_on.wait(60)
                return export(spans)

            monkeypatch.setattr(memory.kept, "export", wait)
            app.tracer.start_span("other", context=Context()).end()
            thread = threading.Thread(target=memory.flush)
            thread.start()
            assert busy.wait(60)
        go_on.set()
        thread.join()
    assert memory.names == ["child", "other"]
    assert internal_metrics.counter_values()["destination.spans.dropped.queue_full"] == 1


class Forgetful:
    """An instrumentation that forgets the span of a call that fails, or of a stream that is not read to its end."""

    def __init__(self, receiver: Receiver, **options: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.own = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self.own))
        byline.instrument(tracer_provider=self.provider, destinations=[OTLP(receiver.url, **options)])
        self.tracer = self.provider.get_tracer("openlit.instrumentation.openai")

    def call(self, url: str, *, stream: bool, http_span: bool = False) -> Any:
        """Call the model, leave a stream after its first chunk, and return the span."""
        span = self.tracer.start_span("chat gpt-4o", attributes={"gen_ai.operation.name": "chat"})
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Who?"}], "stream": stream}
        with (
            trace.use_span(span),
            httpx2.Client() as client,
            client.stream("POST", f"{url}/chat/completions", json=body) as response,
        ):
            if http_span:
                self.provider.get_tracer("http").start_span("POST").end()
            next(chunk for chunk in response.iter_raw() if b"{" in chunk)
        return span


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        yield found
        byline.uninstrument()


def model_calls(receiver: Receiver) -> list[dict[str, Any]]:
    byline.flush()
    return [span.attributes for span in receiver.spans if span.name == "chat gpt-4o"]


@pytest.mark.parametrize("http_span", [False, True])
def test_forgotten_span_of_a_stream_that_the_app_left(http_span: bool, receiver: Receiver, gateway: Gateway) -> None:
    """It is sent once the app has released it, to byline's destinations only, and once."""
    app = Forgetful(receiver, spans="all")
    with byline.bound(session_id="s-1"):
        span = app.call(gateway.base_url, stream=True, http_span=http_span)
        assert model_calls(receiver) == []
        reference = weakref.ref(span)
        del span
        gc.collect()
        assert reference() is None
        (found,) = model_calls(receiver)
    assert found["byline.stream.cut"] == "app"
    assert found["gen_ai.response.model"]
    assert found["session.id"] == "s-1"
    assert "chat gpt-4o" not in [span.name for span in app.own.get_finished_spans()]
    assert len(model_calls(receiver)) == 1


def test_forgotten_span_of_a_call_that_failed(receiver: Receiver, gateway: Gateway) -> None:
    app = Forgetful(receiver, spans="llm")
    gateway.fail(429)
    with byline.bound(session_id="s-1"):
        app.call(gateway.base_url, stream=False)
    gc.collect()
    (found,) = model_calls(receiver)
    assert found["http.response.status_code"] == 429
    assert receiver.spans[0].status == "ERROR"


def test_span_of_such_a_call_that_is_still_open_at_the_end_of_the_process(receiver: Receiver, gateway: Gateway) -> None:
    app = Forgetful(receiver, spans="llm")
    with byline.bound(session_id="s-1"):
        span = app.call(gateway.base_url, stream=True)
        byline.uninstrument()
        (found,) = model_calls(receiver)
        span.end()
    assert found["byline.stream.cut"] == "app"
    assert len(model_calls(receiver)) == 1


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forgotten_span_is_not_sent_by_a_forked_process_too(receiver: Receiver, gateway: Gateway) -> None:
    """Neither when the child releases the span nor when the child ends."""
    app = Forgetful(receiver, spans="llm")
    with byline.bound(session_id="s-1"):
        spans = [app.call(gateway.base_url, stream=True) for _ in range(2)]
        child = os.fork()
        if child == 0:
            try:
                spans.pop()
                gc.collect()
                byline.flush()
                byline.uninstrument()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert model_calls(receiver) == []
        spans.clear()
        gc.collect()
        assert len(model_calls(receiver)) == 2


@pytest.mark.parametrize("stream", [True, False])
def test_span_that_ends_is_sent_as_it_ends(stream: bool, receiver: Receiver, gateway: Gateway) -> None:
    """However late, after a stream that was cut and after a call that went well."""
    app = Forgetful(receiver, spans="llm")
    with byline.bound(session_id="s-1"):
        span = app.call(gateway.base_url, stream=stream)
        gc.collect()
        assert model_calls(receiver) == []
        span.set_attribute("note", "late")
        span.end()
        del span
        gc.collect()
        (found,) = model_calls(receiver)
    assert found["note"] == "late"


def test_span_that_ends_is_sent_once_by_a_provider_without_on_ending(
    receiver: Receiver, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of an app whose own processor passes the start and the end on, and nothing else."""
    monkeypatch.delattr(SpanStateProcessor, "_on_ending")
    app = Forgetful(receiver, spans="llm")
    with byline.bound(session_id="s-1"):
        app.call(gateway.base_url, stream=True).end()
        gc.collect()
        assert len(model_calls(receiver)) == 1
        open_span = app.call(gateway.base_url, stream=True)
        open_span.end()
        byline.uninstrument()
    assert len(model_calls(receiver)) == 2


def test_span_that_is_not_sampled_is_not_sent(receiver: Receiver, gateway: Gateway) -> None:
    app = Forgetful(receiver, spans="llm", sampling=0.0)
    with byline.bound(session_id="s-1"):
        app.call(gateway.base_url, stream=True)
    gc.collect()
    assert model_calls(receiver) == []
