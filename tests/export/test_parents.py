"""Parents: the exported parent of a span is exported too, also beside other processors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind

import byline
from byline import request_context
from byline.attribution import to_trace_id
from byline.export import OTLP
from byline.export.decisions import is_sampled
from byline.genai.span_state import set_server_span
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, named, running, tree


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


class RecordOnly(Sampler):
    """Lets spans record without being sampled, all of them or those of some names."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        *_: Any,
        **__: Any,
    ) -> SamplingResult:
        recorded = not self._names or name in self._names
        return SamplingResult(Decision.RECORD_ONLY if recorded else Decision.RECORD_AND_SAMPLE, attributes)

    def get_description(self) -> str:
        return "record only"


@pytest.mark.parametrize("spans", ["llm", "all"])
@pytest.mark.parametrize("unsampled", ["skip", "record"])
def test_a_span_that_records_and_is_not_sampled_is_no_parent(receiver: Receiver, spans: Any, unsampled: Any) -> None:
    """Unless it is taken all the same, as LLM spans may be."""
    destination = OTLP(receiver.url, spans=spans, unsampled=unsampled)
    with (
        running(destination, sampler=RecordOnly("POST /chat", "agent")) as app,
        app.request(),
        app.span("agent", AGENT),
    ):
        app.chat("chat")
    expected: Any = {None: ["agent"], "agent": ["chat"]} if unsampled == "record" else {None: ["chat"]}
    assert tree(receiver.spans) == expected


def test_an_app_that_records_without_sampling_fills_no_queue(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its app spans end steps, although they are not taken themselves."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    destination = OTLP(receiver.url, spans="llm", unsampled="record")
    with running(destination, sampler=RecordOnly()) as app:
        for number in range(8):
            with app.request(span_name=f"step {number}"):
                app.chat()
            assert destination.flush()
        assert byline.stats()["otlp.queue"] == 0
        assert len(receiver.spans) == 16
        tree(receiver.spans)


def test_another_providers_span_is_no_parent(receiver: Receiver) -> None:
    """Byline does not see its end, with or without a destination of that provider."""
    silent = TracerProvider(shutdown_on_exit=False).get_tracer("silent")
    with Receiver() as other, running(OTLP(receiver.url)) as app, running(OTLP(other.url, label="other")) as beside:
        with silent.start_as_current_span("silent"), app.request(), beside.span("beside"), app.span("within"):
            beside.chat("chat")
        app.close()
        beside.close()
        assert tree(other.spans) == {None: ["beside"], "beside": ["chat"]}
    assert tree(receiver.spans) == {None: ["POST /chat"], "POST /chat": ["within"]}


@pytest.mark.parametrize("has_record", [True, False])
def test_a_request_that_starts_within_another_one_is_its_own(receiver: Receiver, has_record: bool) -> None:
    """As pipelined requests do; without any information, the second belongs to the first."""
    with running(OTLP(receiver.url)) as app, app.request(session_id="first", user_id="ada"):
        server = app.tracer.start_span("second", kind=SpanKind.SERVER)
        owner = request_context.RequestContext()
        owner.bind({"session_id": "second"})
        if has_record:
            set_server_span(owner, server)
        server.end()
    told = {span.name: span.attributes.get("session.id") for span in receiver.spans}
    assert told == {"POST /chat": "first", "second": "second" if has_record else "first"}
    assert named(receiver.spans, "second").attributes.get("user.id") == (None if has_record else "ada")


def test_a_parent_that_was_left_out_stays_left_out(receiver: Receiver) -> None:
    """Although by the session that is bound afterwards it would have been sampled, when its last child ends."""
    sampled = next(name for name in map(str, range(99)) if is_sampled(name, 0.5))
    left_out = next(f"{n:032x}" for n in range(1, 99) if not is_sampled(f"{n:032x}", 0.5))
    destination = OTLP(receiver.url, sampling=0.5)
    with running(destination) as app, byline.bound(trace_id=left_out):
        with app.span("root"):
            child = app.tracer.start_span("child", attributes=CHAT)
        assert destination.flush()
        byline.bind(trace_id="other", session_id=sampled)
        with trace.use_span(child):
            app.chat("grandchild")
        child.end()
    assert tree(receiver.spans) == {None: ["child"], "child": ["grandchild"]}


def test_parent_stays_in_the_trace_of_its_export(receiver: Receiver) -> None:
    """Spans that end after another trace was named are in that trace, without a parent of the first."""
    destination = OTLP(receiver.url)
    with running(destination) as app, byline.bound(trace_id="first"):
        with app.span("root"):
            late = app.tracer.start_span("late")
        assert destination.flush()
        byline.bind(trace_id="second")
        late.end()
    assert tree(receiver.spans) == {None: ["late", "root"]}
    assert named(receiver.spans, "root").trace_id == f"{to_trace_id('first'):032x}"
    assert named(receiver.spans, "late").trace_id == f"{to_trace_id('second'):032x}"


def test_a_parent_that_found_no_room_is_no_parent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that end after it."""
    destination = OTLP(receiver.url)
    with running(destination) as app:
        with monkeypatch.context() as full, app.span("parent"):
            late = app.tracer.start_span("late")
            full.setattr(destination.processor().worker, "capacity", 0)
        late.end()
        assert byline.stats()["otlp.spans.dropped.queue_full"] == 1
    assert tree(receiver.spans) == {None: ["late"]}


def test_spans_function_that_fails_drops_only_the_server_span(
    receiver: Receiver, production: pytest.LogCaptureFixture
) -> None:
    """The step of the request ends with it all the same."""

    def wanted(span: Any) -> bool:
        if span.kind is SpanKind.SERVER:
            raise RuntimeError("with a prompt in it")
        return True

    destination = OTLP(receiver.url, spans=wanted)
    with running(destination) as app:
        with app.request(span_name="Step"):
            app.chat("chat")
        assert destination.flush()
        assert tree(receiver.spans) == {None: ["Step"], "Step": ["chat"]}
    assert "with a prompt in it" not in production.text
    assert "RuntimeError" in production.text


def test_links_within_the_apps_trace_lead_to_the_exported_trace() -> None:
    """Those to other traces stay."""

    class Kept(OTLP):
        def exporter(self) -> InMemorySpanExporter:
            return exported

    exported = InMemorySpanExporter()
    elsewhere = SpanContext(0xA1, 0xB2, is_remote=True)
    with running(Kept("http://127.0.0.1:9/v1/traces")) as app, app.request(trace_id="t"):
        with app.span("first") as first:
            pass
        app.tracer.start_span(
            "second", links=[Link(first.get_span_context(), {"why": "because"}), Link(elsewhere)]
        ).end()
        app.destinations[0].flush()
    (second,) = [span for span in exported.get_finished_spans() if span.name == "second"]
    within, beyond = second.links
    assert (within.context.trace_id, within.context.span_id) == (to_trace_id("t"), first.get_span_context().span_id)
    assert within.attributes == {"why": "because"}
    assert beyond.context == elsewhere


@pytest.mark.parametrize("framework_spans", [False, True])
def test_the_inside_of_web_frameworks_is_left_out(receiver: Receiver, framework_spans: bool) -> None:
    """What is below is a child of the server span then."""
    with running(OTLP(receiver.url, framework_spans=framework_spans)) as app, app.request():
        framework = app.provider.get_tracer("fastapi")
        with framework.start_as_current_span("fastapi.dependencies"):
            pass
        with framework.start_as_current_span("fastapi.endpoint"), app.span("load"):
            app.chat("chat")
        with framework.start_as_current_span("fastapi.serialization"):
            pass
        for message in ("http receive", "http send", "websocket send"):
            with app.span(f"POST /chat {message}", {"asgi.event.type": message}):
                pass
        # Work of the app, which goes on after the response.
        for task in ("fastapi.background_task", "BackgroundTask save"):
            with framework.start_as_current_span(task):
                pass
        with app.provider.get_tracer("opentelemetry.instrumentation.sqlalchemy").start_as_current_span("SELECT"):
            pass
    work = ["BackgroundTask save", "SELECT", "fastapi.background_task"]
    without: dict[str | None, list[str]] = {
        None: ["POST /chat"],
        "POST /chat": sorted([*work, "load"]),
        "load": ["chat"],
    }
    messages = [f"POST /chat {message}" for message in ("http receive", "http send", "websocket send")]
    inside = [*messages, "fastapi.dependencies", "fastapi.endpoint", "fastapi.serialization"]
    with_them = {**without, "POST /chat": sorted([*work, *inside]), "fastapi.endpoint": ["load"]}
    assert tree(receiver.spans) == (with_them if framework_spans else without)
