"""Parents without an end: exported children must have an exported parent."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context

import byline
from byline import internal_metrics
from byline.export import OTLP, Langfuse
from byline.testing import Receiver
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
