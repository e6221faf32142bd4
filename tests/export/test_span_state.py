"""The state of open spans: the same for all threads of a request, and freed afterwards."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from byline.export import OTLP, Langfuse
from byline.genai.span_state import SpanState
from byline.request_spans import RequestSpans
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, App, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def states_of(others: list[Any]) -> list[Any]:
    """Return all states of spans and requests, without those that other tests left."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (SpanState, RequestSpans)]
    return [each for each in found if not any(each is other for other in others)]


def test_threads_of_one_request_share_its_step(receiver: Receiver) -> None:
    """The first caller creates the state, and it is created once."""
    with running(OTLP(receiver.url, spans="llm")) as app, app.request(trace_id="t", span_name="Step"):
        together = threading.Barrier(16)

        def work() -> None:
            together.wait(20)
            for _ in range(20):
                with app.span("agent", AGENT):
                    app.chat("chat")

        threads = [threading.Thread(target=copy_context().run, args=(work,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tree(receiver.spans) == {None: ["Step"], "Step": ["agent"] * 320, "agent": ["chat"] * 320}


def test_requests_at_once_keep_their_own(receiver: Receiver) -> None:
    """A hundred tasks in one loop, each a request with calls of its own."""

    async def ask(app: App, number: int) -> None:
        with app.request(trace_id=f"t-{number}", span_name=f"step {number}", session_id=f"s-{number}"):
            for _ in range(3):
                await asyncio.sleep(0)
                app.chat(f"chat {number}")

    async def all_of_them(app: App) -> None:
        await asyncio.gather(*(ask(app, number) for number in range(100)))

    with running(Langfuse("pk-lf-1", "sk-lf-1", receiver.url)) as app:
        asyncio.run(all_of_them(app))
    expected: dict[str | None, list[str]] = {f"step {number}": [f"chat {number}"] * 3 for number in range(100)}
    expected[None] = sorted(f"step {number}" for number in range(100))
    assert tree(receiver.spans) == expected
    for span in receiver.spans:
        number = span.name.split()[1]
        assert span.attributes["session.id"] == f"s-{number}"
        assert span.attributes["byline.trace.id"] == f"t-{number}"


def test_nothing_is_kept_of_requests_that_are_over(receiver: Receiver) -> None:
    before = states_of([])
    with Receiver() as other, running(OTLP(receiver.url), OTLP(other.url, spans="llm")) as app:
        for _ in range(50):
            with app.request(span_name="Step"), app.span("agent", AGENT):
                app.chat()
        for destination in app.destinations:
            assert destination.flush()
        gc.collect()
        assert states_of(before) == []


def test_spans_that_never_end_do_not_fill_the_memory(receiver: Receiver) -> None:
    """Some instrumentations forget theirs when a stream is dropped."""
    before = states_of([])
    with running(OTLP(receiver.url)) as app:
        forgotten = [app.tracer.start_span("chat", attributes=CHAT) for _ in range(100)]
        with app.span("root"):
            app.chat("kept")
        forgotten.clear()
        assert app.destinations[0].flush()
        gc.collect()
        assert states_of(before) == []
    assert tree(receiver.spans) == {None: ["root"], "root": ["kept"]}


def test_a_span_that_started_before_anybody_looked_is_sent_all_the_same(receiver: Receiver) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    tracer: Any = provider.get_tracer("app")
    with tracer.start_as_current_span("early"):
        provider.add_span_processor(OTLP(receiver.url).processor())
        tracer.start_span("inner").end()
    provider.shutdown()
    assert tree(receiver.spans) == {None: ["early"], "early": ["inner"]}


@pytest.mark.parametrize("spans", ["llm", "all"])
def test_exported_spans_are_freed_without_the_garbage_collector(receiver: Receiver, spans: Any) -> None:
    """Also of spans that were not selected, and of spans that turned into LLM spans."""
    ended: list[weakref.ref[ReadableSpan]] = []

    class Watching(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(weakref.ref(span))

    with running(OTLP(receiver.url, spans=spans), OTLP(receiver.url, spans="llm", label="other")) as app:
        app.provider.add_span_processor(Watching())
        gc.collect()
        gc.disable()
        try:
            with app.request(session_id="s", span_name="Step"), app.span("plain"), app.span("agent", AGENT):
                app.chat("chat")
                with app.span("late") as late:
                    late.set_attributes(CHAT)
                del late
            for destination in app.destinations:
                assert destination.flush()
            assert len(ended) == 5
            assert [reference() for reference in ended] == [None] * 5
        finally:
            gc.enable()


def test_a_span_that_ends_in_another_request_is_not_taken_for_its(receiver: Receiver) -> None:
    """It turned into an LLM span after its start, when its state was gone."""
    with running(OTLP(receiver.url, spans="llm")) as app:
        with app.request(session_id="first"):
            span = app.tracer.start_span("chat")
            span.set_attributes(CHAT)
        with app.request(session_id="second"):
            span.end()
    assert receiver.spans[0].attributes.get("session.id") == "first"
