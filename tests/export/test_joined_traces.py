"""Requests that join a trace of somebody else: a caller's own trace in Langfuse, or a trace of an earlier request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

import byline
from byline import request_context
from byline.asgi import AttributionMiddleware
from byline.attribution import to_span_id
from byline.export import OTLP, Langfuse, trace_view
from byline.genai.span_state import set_server_span
from byline.settings import SettingError
from byline.testing import ReceivedSpan, Receiver
from byline.wsgi import AttributionMiddleware as WsgiMiddleware
from tests.export.langfuse_model import Path, Trace, observations, session_cost, shown, traces
from tests.export.support import AGENT, CHAT, App, named, running, tree
from tests.support import Door, Sent, both_doors, claim, run_asgi, run_wsgi, tracer

pytestmark = pytest.mark.usefixtures("no_settings")

KEYS = ("pk-lf-1", "sk-lf-1")
TRACE_ID, PARENT_ID = f"{0xC0FFEE:032x}", f"{0xBEEF:016x}"
TRACEPARENT = ("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01")
#: What Langfuse's SDK 5.0.4 sends with each request that is made within one of its spans.
BELOW_LANGFUSE = (TRACEPARENT, ("baggage", f"a=b, langfuse_trace_id={TRACE_ID};p=1 ,c=d"))
CALL: dict[str, Any] = {
    **CHAT,
    "input.value": "question of the call",
    "output.value": "answer of the call",
    "gen_ai.usage.cost": 0.5,
}
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])
both_views = pytest.mark.parametrize("view", ["llm", "all"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


def caller_span(**more: Any) -> ReceivedSpan:
    """Return the span that the caller's own SDK sends to Langfuse. It starts before the request, and ends after."""
    attributes = {
        "langfuse.observation.input": "question of the caller",
        "langfuse.observation.output": "answer of the caller",
        "langfuse.release": "caller-1.0",
        "langfuse.version": "caller-v9",
        "langfuse.trace.tags": ["caller"],
        "session.id": "s-1",
        **more.pop("attributes", {}),
    }
    return ReceivedSpan(
        name="caller's agent",
        trace_id=TRACE_ID,
        span_id=PARENT_ID,
        parent_id=None,
        kind="INTERNAL",
        attributes=attributes,
        start=1,
        end=2,
        status="UNSET",
        status_message="",
        events=[],
        scope="langfuse-sdk",
        resource={},
    )


def call() -> None:
    with tracer.start_as_current_span("agent", attributes=AGENT):
        tracer.start_span("chat gpt-4o", attributes=CALL).end()


def serve(destination: Any, *requests: Sent, door: Door = "asgi", app: Callable[[], None] = call) -> None:
    """Answer requests with an app that calls a model, and export its spans."""

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        app()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        app()
        start_response("200 OK", [])
        return [b""]

    byline.instrument(destinations=[destination], clients=())
    try:
        for request in requests:
            if door == "asgi":
                assert asyncio.run(run_asgi(AttributionMiddleware(asgi_app), request)).error is None
            else:
                assert run_wsgi(WsgiMiddleware(wsgi_app), request).error is None
    finally:
        byline.uninstrument()


def labels(found: Trace) -> tuple[Any, ...]:
    return found.name, found.input, found.output, found.release, found.version, found.tags


CALLERS_LABELS = (
    "caller's agent",
    "question of the caller",
    "answer of the caller",
    "caller-1.0",
    "caller-v9",
    ["caller"],
)


# --- Below a caller's span in Langfuse


@both_doors
@both_paths
@both_views
def test_the_trace_of_a_caller_in_langfuse_stays_as_it_is(
    receiver: Receiver, door: Door, path: Path, view: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller's span has ended after those of the app, or before: the order of their arrival changes nothing."""
    monkeypatch.setenv("LANGFUSE_RELEASE", "app-2.0")
    sent = claim({"trace": {"span_name": "Step"}, "metadata": {"team": "blue"}}, headers=BELOW_LANGFUSE)
    serve(Langfuse(*KEYS, receiver.url, spans=view), sent, door=door)
    for spans in ([caller_span(), *receiver.spans], [*receiver.spans, caller_span()]):
        found = traces(spans, path)
        assert list(found) == [TRACE_ID]
        assert labels(found[TRACE_ID]) == CALLERS_LABELS
        assert found[TRACE_ID].session == "s-1"
        outermost = "Step" if view == "llm" else named_server(receiver).name
        assert tree(spans)["caller's agent"] == [outermost]
    assert observations(receiver.spans, path)["chat gpt-4o"].metadata["team"] == "blue"


def named_server(receiver: Receiver) -> ReceivedSpan:
    (server,) = [span for span in receiver.spans if span.kind == "SERVER"]
    return server


@both_paths
def test_claims_are_stated_on_each_observation_below_a_caller_in_langfuse(receiver: Receiver, path: Path) -> None:
    """Langfuse counts the cost of a session on observations that have the session."""
    body = {"session_id": "s-1", "user": "u-1", "trace": {"tags": ["beta"], "span_name": "Step"}}
    serve(Langfuse(*KEYS, receiver.url), claim(body, headers=BELOW_LANGFUSE))
    items = shown(receiver.spans, path)
    assert {(item.session, item.user) for item in items} == {("s-1", "u-1")}
    assert session_cost(receiver.spans, path) == {"s-1": 0.5}
    (found,) = traces([caller_span(), *receiver.spans], path).values()
    assert (found.release, found.version, found.session) == ("caller-1.0", "caller-v9", "s-1")


@both_paths
def test_labels_that_the_request_claims_are_the_callers_wish(receiver: Receiver, path: Path) -> None:
    body = {"trace": {"trace_name": "Mine", "release": "r-2", "version": "v-2"}, "session_id": "s-2"}
    serve(Langfuse(*KEYS, receiver.url), claim(body, headers=BELOW_LANGFUSE))
    (found,) = traces([caller_span(), *receiver.spans], path).values()
    assert labels(found)[:5] == ("Mine", "question of the caller", "answer of the caller", "r-2", "v-2")
    assert found.session == "s-2"


@contextmanager
def below_a_caller(app: App, **parent: Any) -> Iterator[None]:
    """Make a request whose server span is the child of a caller's span."""
    remote = SpanContext(int(TRACE_ID, 16), int(PARENT_ID, 16), is_remote=True, **parent)
    context = trace.set_span_in_context(NonRecordingSpan(remote))
    span = app.tracer.start_as_current_span("POST /chat", context=context, kind=SpanKind.SERVER)
    with byline.bound(session_id="s-1") as _, span as server:
        set_server_span(cast("Any", request_context.current_context()), server)
        yield


@both_paths
def test_the_apps_version_is_no_version_of_the_callers_trace(receiver: Receiver, path: Path) -> None:
    """But stays in the metadata of the observation."""
    resource = Resource({"service.version": "app-2.0", "langfuse.release": "app-2.0", "service.name": "app"})
    destination = Langfuse(*KEYS, receiver.url, caller_spans="here")
    with running(destination, resource=resource) as app, below_a_caller(app, trace_flags=TraceFlags(1)):
        app.chat("call")
    (found,) = traces([caller_span(), *receiver.spans], path).values()
    assert labels(found) == CALLERS_LABELS
    (call,) = shown(receiver.spans, path)
    assert call.metadata["service_version"] == "app-2.0"
    assert receiver.spans[0].resource["service.name"] == "app"


def test_a_caller_that_is_not_sampled_exports_no_parent(receiver: Receiver) -> None:
    destination = Langfuse(*KEYS, receiver.url, caller_spans="here")
    with running(destination, sampler=ALWAYS_ON) as app, below_a_caller(app, trace_flags=TraceFlags(0)):
        app.chat("call")
    (span,) = receiver.spans
    assert (span.parent_id, span.trace_id) == (None, TRACE_ID)


@both_paths
def test_a_caller_elsewhere_leaves_the_trace_to_the_app(receiver: Receiver, path: Path) -> None:
    """Callers of most apps are traced, and not in Langfuse: the trace has the name and the content of the call."""
    serve(Langfuse(*KEYS, receiver.url), claim({"session_id": "s-1"}, headers=[TRACEPARENT]))
    (found,) = traces(receiver.spans, path).values()
    assert (found.name, found.session) == ("agent", "s-1")
    assert tree(receiver.spans) == {None: ["agent"], "agent": ["chat gpt-4o"]}
    assert {span.trace_id for span in receiver.spans} == {TRACE_ID}


@pytest.mark.parametrize(
    "baggage",
    [
        f"langfuse_trace_id={0xBAD:032x}",
        f"not_langfuse_trace_id={TRACE_ID}",
        f"langfuse_trace_id={TRACE_ID}0",
        "langfuse_trace_id=",
        f"{'x' * 8192},langfuse_trace_id={TRACE_ID}",
    ],
)
def test_only_the_trace_of_the_parent_counts(receiver: Receiver, baggage: str) -> None:
    serve(Langfuse(*KEYS, receiver.url), claim(headers=[TRACEPARENT, ("baggage", baggage)]))
    assert named(receiver.spans, "agent").parent_id is None


@both_views
def test_other_backends_do_not_have_the_span_of_a_caller_in_langfuse(view: Any) -> None:
    with Receiver() as receiver:
        serve(OTLP(receiver.url, spans=view), claim(headers=BELOW_LANGFUSE))
        outermost = named(receiver.spans, "agent") if view == "llm" else named_server(receiver)
        assert outermost.parent_id == (None if view == "llm" else PARENT_ID)


# --- The setting


@both_paths
def test_callers_that_are_said_to_be_here_keep_their_trace(
    receiver: Receiver, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without baggage of Langfuse's SDK, e.g. if the caller is another app with byline."""
    monkeypatch.setenv("BYLINE_CALLER_SPANS", "here")
    serve(Langfuse(*KEYS, receiver.url), claim({"session_id": "s-1"}, headers=[TRACEPARENT]))
    spans = [caller_span(), *receiver.spans]
    (found,) = traces(spans, path).values()
    assert labels(found) == CALLERS_LABELS
    assert tree(spans)["caller's agent"] == ["agent"]


@both_views
def test_callers_that_are_said_to_be_elsewhere_are_no_parents(receiver: Receiver, view: Any) -> None:
    destination = Langfuse(*KEYS, receiver.url, spans=view, caller_spans="elsewhere")
    serve(destination, claim(headers=BELOW_LANGFUSE))
    assert [span.trace_id for span in receiver.spans if span.parent_id is None] == [TRACE_ID]


@both_views
@pytest.mark.parametrize(("where", "parent"), [("here", PARENT_ID), ("elsewhere", None)])
def test_the_setting_counts_for_other_backends_too(view: Any, where: Any, parent: str | None) -> None:
    with Receiver() as receiver:
        serve(OTLP(receiver.url, spans=view, caller_spans=where), claim(headers=[TRACEPARENT]))
        outermost = named(receiver.spans, "agent") if view == "llm" else named_server(receiver)
        assert outermost.parent_id == parent


@pytest.mark.parametrize("wrong", ["same", True, 1])
def test_another_value_is_refused(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"byline\.E100") as refused:
        OTLP("https://h", caller_spans=wrong)
    assert "elsewhere" in refused.value.advice
    monkeypatch.setenv("BYLINE_CALLER_SPANS", "same")
    with pytest.raises(SettingError, match=r"byline\.E100"):
        OTLP("https://h")


# --- A parent that the caller names


@both_paths
def test_a_named_parent_below_traceparent_is_the_parent(receiver: Receiver, path: Path) -> None:
    body = {"trace": {"parent_span_id": PARENT_ID, "span_name": "Step"}, "session_id": "s-1"}
    headers = [("traceparent", f"00-{TRACE_ID}-{0xF00:016x}-01")]
    serve(Langfuse(*KEYS, receiver.url), claim(body, headers=headers))
    spans = [caller_span(), *receiver.spans]
    (found,) = traces(spans, path).values()
    assert labels(found) == CALLERS_LABELS
    assert tree(spans) == {
        None: ["caller's agent"],
        "caller's agent": ["Step"],
        "Step": ["agent"],
        "agent": ["chat gpt-4o"],
    }


@both_paths
@pytest.mark.parametrize("step", [None, "Step"])
def test_a_named_parent_alone_is_the_parent_in_the_apps_trace(receiver: Receiver, path: Path, step: str | None) -> None:
    """Of which nobody else can name anything, so that the trace has name and content of the call."""
    destination = Langfuse(*KEYS, receiver.url)
    with running(destination) as app, app.request(parent_span_id="upstream step", span_name=step, session_id="s"):
        app.chat("first", **{"input.value": "q", "output.value": "a"})
    outermost = named(receiver.spans, step or "first")
    assert outermost.parent_id == f"{to_span_id('upstream step'):016x}"
    (found,) = traces(receiver.spans, path).values()
    assert (found.name, found.session) == (step or "first", "s")
    if path == "legacy":
        # The direct path takes content of spans without a parent alone.
        assert (found.input, found.output) == ("q", "a")


# --- A trace id that an earlier request used

FIRST: dict[str, Any] = {
    "trace_id": "workflow",
    "trace_name": "Pipeline",
    "release": "r-1",
    "version": "v-1",
    "tags": ["first"],
    "session_id": "s-1",
}


@both_paths
@both_views
@pytest.mark.parametrize("step", [None, "Step"])
@pytest.mark.parametrize("first", [FIRST, {**FIRST, "trace_name": None}])
def test_a_later_request_with_the_trace_id_alone_replaces_nothing(
    receiver: Receiver, path: Path, view: Any, step: str | None, first: dict[str, Any]
) -> None:
    """Also if the first request has no name, so that its outermost span names the trace."""
    content = {"input.value": "first question", "output.value": "first answer"}
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app:
        with app.request(**first, span_name="First step"):
            app.chat("first", **content)
        (before,) = traces(flushed(app.destinations[0], receiver), path).values()
        for _ in range(2):
            with app.request(trace_id="workflow", span_name=step, session_id="s-1"):
                app.chat("later", **{"input.value": "other question", "output.value": "other answer"})
    (after,) = traces(receiver.spans, path).values()
    assert labels(before) == (
        first["trace_name"] or before.name,
        "first question",
        "first answer",
        "r-1",
        "v-1",
        ["first"],
    )
    assert labels(after) == labels(before)
    assert after.session == "s-1"


def flushed(destination: Any, receiver: Receiver) -> list[ReceivedSpan]:
    assert destination.flush()
    return receiver.spans


def test_a_later_request_is_beside_the_first_one(receiver: Receiver) -> None:
    """Langfuse shows a span beside the roots if its parent is missing; all later requests have the same parent."""
    with running(Langfuse(*KEYS, receiver.url)) as app:
        for step in ("First", "Second", "Third"):
            with app.request(trace_id="workflow", span_name=step):
                app.chat(f"{step} call")
    spans = receiver.spans
    first, second, third = (named(spans, step) for step in ("First", "Second", "Third"))
    assert first.parent_id is None
    assert second.parent_id == third.parent_id not in {None, *(span.span_id for span in spans)}
    for parent in (first, second, third):
        assert named(spans, f"{parent.name} call").parent_id == parent.span_id


@both_paths
def test_a_stranger_who_names_the_trace_gets_no_value_of_it(receiver: Receiver, path: Path) -> None:
    """A trace id is a claim. What the first request stated is on its own spans alone."""
    with running(Langfuse(*KEYS, receiver.url)) as app:
        with app.request(**FIRST, user_id="alice", metadata={"iban": "DE1"}):
            app.chat("first", **{"input.value": "secret question", "output.value": "secret answer"})
        flushed(app.destinations[0], receiver)
        with app.request(trace_id="workflow", user_id="mallory", session_id="s-2"):
            app.chat("strange")
    strange = named(receiver.spans, "strange")
    text = str(strange.attributes)
    assert not [word for word in ("Pipeline", "r-1", "v-1", "s-1", "alice", "DE1", "secret", "first") if word in text]
    item = observations([strange], path)["strange"]
    assert (item.user, item.session) == ("mallory", "s-2")


@both_paths
def test_a_later_request_that_names_the_trace_names_it(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app:
        for name in ("Pipeline", "Renamed"):
            with app.request(trace_id="workflow", trace_name=name, span_name=name):
                app.chat(f"{name} call")
            flushed(app.destinations[0], receiver)
    (found,) = traces(receiver.spans, path).values()
    assert found.name == "Renamed"
    assert tree(receiver.spans)[None] == ["Pipeline", "Renamed"]


@both_paths
def test_labels_of_the_app_itself_are_equal_in_all_requests(
    receiver: Receiver, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So they are stated again, because one path of Langfuse would take a span without them for a trace without."""
    monkeypatch.setenv("LANGFUSE_RELEASE", "app-2.0")
    resource = Resource({"service.version": "v-2"})
    with running(Langfuse(*KEYS, receiver.url), resource=resource) as app:
        for number in range(2):
            with app.request(trace_id="workflow", session_id=f"s-{number}"):
                app.chat(f"call {number}")
            flushed(app.destinations[0], receiver)
    (found,) = traces(receiver.spans, path).values()
    assert (found.name, found.release, found.version, found.session) == ("call 0", "app-2.0", "v-2", "s-1")


def test_how_many_traces_are_remembered_is_bounded(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each destination remembers its own. The trace that was used last stays longest."""
    monkeypatch.setattr(trace_view, "_MAX_FIRST_REQUESTS", 2)
    with running(Langfuse(*KEYS, receiver.url)) as app:
        for number, trace_id in enumerate(("a", "b", "a", "c", "a", "b")):
            with app.request(trace_id=trace_id):
                app.chat(f"{trace_id} {number}")
    assert [span.name for span in receiver.spans if span.parent_id is None] == ["a 0", "b 1", "c 3", "b 5"]
    assert len(shown(receiver.spans, "direct")) == 6


def test_spans_of_the_first_request_stay_roots_however_late(receiver: Receiver) -> None:
    destination = Langfuse(*KEYS, receiver.url)
    with running(destination) as app, app.request(trace_id="workflow"):
        app.chat("early")
        flushed(destination, receiver)
        with byline.unbound(), app.request(trace_id="workflow"):
            app.chat("other")
        app.chat("late")
    assert [span.name for span in receiver.spans if span.parent_id is None] == ["early", "late"]
