"""Parts of requests, several destinations, and late values are independent of each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind

import byline
from byline.attribution import to_trace_id
from byline.export import OTLP, Langfuse
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, named, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def test_a_job_for_several_users_keeps_their_labels_apart(receiver: Receiver) -> None:
    """Labels bound for one part are not written onto the next part, or onto spans outside."""
    with running(OTLP(receiver.url, spans="llm")) as app, byline.bound():
        with byline.bound(trace_id="t1", user_id="alice", session_id="s1", trace_name="A"):
            app.chat("alice's", **{"langfuse.trace.public": True})
        with byline.bound(trace_id="t2"):
            app.chat("nobody's")
        with byline.bound(user_id="bob"):
            app.chat("bob's", **{"langfuse.trace.name": "B"})
        app.chat("outside")
    said = {
        span.name: [span.attributes.get(key) for key in ("user.id", "session.id", "langfuse.trace.name")]
        for span in receiver.spans
    }
    assert said == {
        "alice's": ["alice", "s1", "A"],
        "nobody's": [None, None, None],
        "bob's": ["bob", None, "B"],
        "outside": [None, None, None],
    }
    public = [span.name for span in receiver.spans if span.attributes.get("langfuse.trace.public")]
    assert public == ["alice's"]


@pytest.mark.parametrize("number", range(6))
def test_a_session_that_is_bound_late_does_not_split_a_trace(receiver: Receiver, number: int) -> None:
    """The decision for the first span applies to all."""
    destination = OTLP(receiver.url, spans="llm", sampling=0.5)
    with running(destination) as app, app.request(trace_id=f"t-{number}"), app.span("agent", AGENT):
        app.chat("chat")
        destination.flush()
        byline.bind(session_id=f"s-{number}")
    assert tree(receiver.spans) in ({}, {None: ["agent"], "agent": ["chat"]})


def test_a_parent_of_an_exported_span_is_exported(receiver: Receiver) -> None:
    """Even if the predicate now rejects the parent."""
    destination = OTLP(receiver.url, spans="llm", where=lambda span: "spoilt" not in (span.attributes or {}))
    with running(destination) as app, app.request(), app.span("agent", AGENT) as agent:
        app.chat("chat")
        assert destination.flush()
        agent.set_attribute("spoilt", True)
    assert tree(receiver.spans) == {None: ["agent"], "agent": ["chat"]}


def test_one_step_in_two_traces_is_two(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, spans="llm")) as app, byline.bound(span_name="Step"):
        for name in ("a", "b"):
            with byline.bound(trace_id=name):
                app.chat(f"chat {name}")
    spans = receiver.spans
    assert tree(spans) == {None: ["Step", "Step"], "Step": ["chat a", "chat b"]}
    assert {span.trace_id for span in spans} == {f"{to_trace_id(name):032x}" for name in ("a", "b")}


@pytest.mark.parametrize("first", ["llm", "all"])
def test_the_order_of_destinations_makes_no_difference(receiver: Receiver, first: str) -> None:
    """This includes spans that are not current when their children end."""
    with Receiver() as other:
        llm, whole = OTLP(other.url, spans="llm"), OTLP(receiver.url)
        with running(*((llm, whole) if first == "llm" else (whole, llm))) as app, app.request(session_id="s"):
            server = trace.get_current_span()
            mid = app.tracer.start_span("mid")
            with trace.use_span(mid):
                app.chat("first")
            mid.end()
            late = app.tracer.start_span("late", context=trace.set_span_in_context(server))
            with trace.use_span(server):
                late.end()
        app.close()
        assert tree(other.spans) == {None: ["first"]}
    assert tree(receiver.spans) == {None: ["POST /chat"], "POST /chat": ["late", "mid"], "mid": ["first"]}
    assert {span.attributes["session.id"] for span in receiver.spans} == {"s"}


@pytest.mark.parametrize("spans", ["llm", "all"])
def test_a_model_call_stays_one_when_the_sdk_drops_its_first_attributes(receiver: Receiver, spans: Any) -> None:
    """The span was classified by the oldest attributes, which the SDK drops."""
    with (
        running(Langfuse("pk-lf-1", "sk-lf-1", receiver.url, spans=spans)) as app,
        app.request(session_id="s"),
        app.span("chat", CHAT) as span,
    ):
        for number in range(300):
            span.set_attribute(f"llm.input_messages.{number}.message.role", "user")
    attributes = named(receiver.spans, "chat").attributes
    assert attributes["langfuse.observation.type"] == "generation"
    assert attributes["langfuse.observation.model.name"] == "gpt-4o"
    assert attributes["session.id"] == "s"


def test_an_unsampled_span_of_the_caller_is_no_parent(receiver: Receiver) -> None:
    """No backend receives it."""
    context = trace.set_span_in_context(NonRecordingSpan(SpanContext(0xA1, 0xB2, is_remote=True)))
    with (
        running(OTLP(receiver.url), sampler=ALWAYS_ON) as app,
        app.tracer.start_as_current_span("POST", context=context, kind=SpanKind.SERVER),
    ):
        app.chat("chat")
    assert tree(receiver.spans) == {None: ["POST"], "POST": ["chat"]}
