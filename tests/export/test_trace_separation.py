"""One job for many users: the attribution, masks and sampling of one part stay with that part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import byline
from byline.attribution import to_trace_id
from byline.export import OTLP, Langfuse
from byline.export.decisions import is_sampled
from byline.testing import ReceivedSpan, Receiver
from tests.export.support import AGENT, App, named, running, tree

KEYS = ("pk-lf-1", "sk-lf-1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def users(spans: list[ReceivedSpan]) -> dict[str, Any]:
    return {span.name: span.attributes.get("user.id") for span in spans}


def test_attributes_of_spans_stay_in_their_trace(receiver: Receiver) -> None:
    """Within one job, with a trace of the app for each item."""
    with running(OTLP(receiver.url)) as app, byline.bound(tags=["job"]):
        with app.span("first"), app.span("inner"):
            app.chat("alice's", **{"user.id": "alice", "session.id": "s-1", "langfuse.trace.public": True})
        with app.span("second"):
            app.chat("nobody's")
    assert users(receiver.spans) == {
        "first": "alice",
        "inner": "alice",
        "alice's": "alice",
        "second": None,
        "nobody's": None,
    }
    public = {span.name for span in receiver.spans if span.attributes.get("langfuse.trace.public")}
    assert public == {"first", "inner", "alice's"}


@pytest.mark.parametrize("named", [None, "workflow"])
def test_conflicting_values_of_two_parts_are_not_spread(receiver: Receiver, named: str | None) -> None:
    """Though each part repeats the value, and parts within it."""
    with running(OTLP(receiver.url)) as app, app.request(trace_id=named):
        with byline.bound(user_id="alice"):
            app.chat("alice's")
            with byline.bound():
                app.chat("alice's too")
        with byline.bound(user_id="bob"):
            app.chat("bob's")
        with byline.bound(tags=["third"]):
            app.chat("nobody's")
    assert users(receiver.spans) == {
        "alice's": "alice",
        "alice's too": "alice",
        "bob's": "bob",
        "nobody's": None,
        "POST /chat": None,
    }


def test_value_of_one_part_is_spread_to_the_trace(receiver: Receiver) -> None:
    with running(OTLP(receiver.url)) as app, app.request():
        with byline.bound(user_id="alice", session_id="s"):
            app.chat("chat")
        with app.span("store"):
            pass
    assert users(receiver.spans) == {"chat": "alice", "store": "alice", "POST /chat": "alice"}
    assert {span.attributes["session.id"] for span in receiver.spans} == {"s"}


def test_changed_value_is_not_a_conflict(receiver: Receiver) -> None:
    """The part still has one user, although its first span went out with another."""
    destination = OTLP(receiver.url)
    with running(destination) as app, app.request():
        with byline.bound(user_id="anonymous"):
            app.chat("early")
            assert destination.flush()
            byline.bind(user_id="ada")
            app.chat("late")
        with app.span("store"):
            pass
    assert users(receiver.spans) == {"early": "anonymous", "late": "ada", "store": "ada", "POST /chat": "ada"}


def test_the_memory_of_a_job_without_end_is_bounded(receiver: Receiver) -> None:
    from byline import request_context

    with running(Langfuse(*KEYS, receiver.url, sampling=0.5)) as app, byline.bound():
        owner = request_context.current_context()
        assert owner is not None
        for number in range(1200):
            with byline.bound(trace_id=f"t-{number}", user_id=f"u-{number}"):
                app.chat(**{"input.value": "q", "output.value": "a"})
            if number % 400 == 0:
                app.destinations[0].flush()
        app.destinations[0].flush()
        spans = owner.spans()
        assert len(spans.traces) <= 500
        assert any(trace.summaries for trace in spans.traces.values())
    assert 400 < len(receiver.spans) < 800


def test_a_question_is_not_shown_in_another_ones_trace(receiver: Receiver) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, byline.bound(span_name="Step"):
        for user in ("alice", "bob"):
            with byline.bound(trace_id=user, user_id=user):
                app.chat(f"{user}'s", **{"input.value": f"asked by {user}", "output.value": f"told {user}"})
    steps = {span.attributes["user.id"]: span.attributes for span in receiver.spans if span.name == "Step"}
    assert set(steps) == {"alice", "bob"}
    for user, attributes in steps.items():
        assert attributes["langfuse.observation.input"] == f"asked by {user}"
        assert attributes["langfuse.observation.output"] == f"told {user}"


def test_the_first_question_is_shown_masked(receiver: Receiver) -> None:
    """On the outermost span as on its own."""
    mask: dict[str, Any] = {"mask": lambda name, value: value.replace("secret", "***")}
    with running(Langfuse(*KEYS, receiver.url, spans="all", **mask)) as app, app.request(session_id="s"):
        app.chat("chat", **{"input.value": "a secret", "output.value": "my secret"})
    told = named(receiver.spans, "POST /chat").attributes
    assert (told["langfuse.observation.input"], told["langfuse.observation.output"]) == ("a ***", "my ***")


def sessions(app: App, count: int) -> None:
    for number in range(count):
        with app.span(f"item {number}", AGENT):
            app.chat(f"chat {number}", **{"session.id": f"s-{number}"})


def test_the_sessions_of_one_job_are_sampled_each_by_itself(receiver: Receiver) -> None:
    """Although they are all part of one request, and named by their spans alone."""
    with running(OTLP(receiver.url, spans="llm", sampling=0.5)) as app, byline.bound():
        sessions(app, 40)
    kept = {span.attributes["session.id"] for span in receiver.spans}
    assert kept == {f"s-{number}" for number in range(40) if is_sampled(f"s-{number}", 0.5)}
    assert len(receiver.spans) == 2 * len(kept)
    tree(receiver.spans)


def test_the_sessions_of_a_jobs_parts_are_sampled_each_by_itself(receiver: Receiver) -> None:
    with running(OTLP(receiver.url, spans="llm", sampling=0.5)) as app, app.request():
        for number in range(40):
            with byline.bound(session_id=f"s-{number}"), app.span("agent", AGENT):
                app.chat()
    kept = [span.attributes["session.id"] for span in receiver.spans]
    assert sorted(kept) == sorted(2 * [f"s-{number}" for number in range(40) if is_sampled(f"s-{number}", 0.5)])


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("how", ["bound to the whole", "set on the span"])
def test_a_session_that_is_known_late_does_not_divide_a_trace(receiver: Receiver, number: int, how: str) -> None:
    """Also if its first call was made in a part of the request."""
    destination = OTLP(receiver.url, sampling=0.5)
    with running(destination) as app, app.request(trace_id=f"t-{number}") as server:
        with byline.bound(tags=["part"]):
            app.chat("first")
        destination.flush()
        if how == "set on the span":
            server.set_attribute("session.id", f"s-{number}")
        else:
            byline.bind(session_id=f"s-{number}")
        with byline.bound(tags=["other"]):
            app.chat("second")
    assert tree(receiver.spans) in ({}, {None: ["POST /chat"], "POST /chat": ["first", "second"]})


def test_exported_parent_stays_in_the_trace_of_its_child(receiver: Receiver) -> None:
    """Although the caller's trace is known only after the child is gone."""
    destination = OTLP(receiver.url)
    with running(destination) as app, byline.bound(), app.span("root"):
        app.chat("early")
        assert destination.flush()
        byline.bind(trace_id="late", parent_span_id="00f067aa0ba902b7")
        app.chat("later")
    spans = {span.name: span for span in receiver.spans}
    assert spans["early"].parent_id == spans["root"].span_id
    assert spans["early"].trace_id == spans["root"].trace_id
    assert spans["root"].parent_id is None
    assert spans["later"].trace_id == f"{to_trace_id('late'):032x}"
    assert spans["later"].parent_id == "00f067aa0ba902b7"


def test_an_agent_that_outgrows_its_attributes_stays_the_parent(receiver: Receiver) -> None:
    """Also for spans that end meanwhile, after their attributes have changed."""
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app, app.request(), app.span("agent", AGENT) as agent:
        for number in range(300):
            agent.set_attribute(f"note.{number}", number)
        app.chat("chat")
        assert destination.flush()
    assert tree(receiver.spans) == {None: ["agent"], "agent": ["chat"]}


def test_a_span_that_turns_into_a_model_call_belongs_to_the_step(receiver: Receiver) -> None:
    """With the spans between."""
    with (
        running(OTLP(receiver.url)) as app,
        app.request(trace_id="t", span_name="Step"),
        app.span("plan"),
        app.span("plain") as span,
    ):
        span.set_attribute("gen_ai.operation.name", "chat")
    assert tree(receiver.spans) == {
        None: ["POST /chat"],
        "POST /chat": ["Step"],
        "Step": ["plan"],
        "plan": ["plain"],
    }
