"""The trace view: trace → step → generation, under the caller's own trace id, without dangling parents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

import byline
from byline import request_context
from byline.attribution import Attribution, to_span_id, to_trace_id
from byline.export import OTLP, Langfuse, made_spans
from byline.export.decisions import ExportDecisions
from byline.export.span_copy import SpanCopy
from byline.export.trace_view import TraceView
from byline.genai.span_state import SpanState, set_server_span
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, EXAMPLE, TOOL, App, named, running, tree

FILED = "7af15d27557f4b0547b66811c67d365d"
KEYS = ("pk-lf-1", "sk-lf-1")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def llm(receiver: Receiver, **options: Any) -> OTLP:
    return OTLP(receiver.url, spans="llm", **options)


def test_the_example_becomes_its_picture(receiver: Receiver) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(**EXAMPLE), app.span("load document"):
        app.chat()
    spans = receiver.spans
    assert tree(spans) == {None: ["Summarization Step"], "Summarization Step": ["Generate Summary"]}
    assert {span.trace_id for span in spans} == {FILED}
    for span in spans:
        assert span.attributes["langfuse.trace.name"] == "Document Processing Pipeline"
        assert span.attributes["session.id"] == "session_abc"
        assert span.attributes["user.id"] == "user_12345"
        assert span.attributes["langfuse.environment"] == "production"
        assert span.attributes["langfuse.trace.metadata.pipeline_version"] == "2.1.0"
        assert span.attributes["byline.trace.id"] == "workflow_12345"
        assert len(span.attributes["byline.app.trace_id"]) == 32
        assert span.attributes["byline.app.trace_id"] != FILED


def test_requests_with_one_trace_id_become_one_trace_with_a_step_each(receiver: Receiver) -> None:
    with running(llm(receiver)) as app:
        for step in ("Load", "Summarize", "Summarize"):
            with app.request(trace_id="workflow_12345", span_name=step):
                app.chat("first")
                app.chat("second")
    spans = receiver.spans
    assert {span.trace_id for span in spans} == {FILED}
    assert tree(spans) == {
        None: ["Load", "Summarize", "Summarize"],
        "Load": ["first", "second"],
        "Summarize": ["first", "first", "second", "second"],
    }


@pytest.mark.parametrize(
    ("given", "filed"),
    [
        ("7af15d27557f4b0547b66811c67d365d", "7af15d27557f4b0547b66811c67d365d"),
        ("7AF15D27-557F-4B05-47B6-6811C67D365D", "7af15d27557f4b0547b66811c67d365d"),
        ("workflow_12345", "7af15d27557f4b0547b66811c67d365d"),
        ("0" * 32, f"{to_trace_id('0' * 32):032x}"),
    ],
)
def test_trace_id_is_used_unchanged_or_hashed(receiver: Receiver, given: str, filed: str) -> None:
    with running(llm(receiver)) as app, app.request(trace_id=given):
        app.chat()
    assert [span.trace_id for span in receiver.spans] == [filed]
    assert int(filed, 16)


@pytest.mark.parametrize(
    ("given", "parent"),
    [("00f067aa0ba902b7", "00f067aa0ba902b7"), ("step-1", f"{to_span_id('step-1'):016x}")],
)
@pytest.mark.parametrize("step", [None, "Summarize"])
def test_the_callers_parent_becomes_the_parent(receiver: Receiver, given: str, parent: str, step: str | None) -> None:
    with running(llm(receiver)) as app, app.request(trace_id="t", parent_span_id=given, span_name=step):
        app.chat()
    (outermost,) = [span for span in receiver.spans if span.name == (step or "chat gpt-4o")]
    assert outermost.parent_id == parent


def test_a_parent_without_a_trace_is_in_the_apps_trace(receiver: Receiver) -> None:
    """Which is the caller's own, if the caller sends its trace context."""
    with running(llm(receiver)) as app, app.request(parent_span_id="00f067aa0ba902b7") as server:
        app.chat()
    (span,) = receiver.spans
    assert (span.parent_id, span.trace_id) == ("00f067aa0ba902b7", f"{server.get_span_context().trace_id:032x}")


def test_span_that_is_not_exported_leaves_no_dangling_parent(receiver: Receiver) -> None:
    """Through any spans between: agents and tools stay, the app's own spans are skipped."""
    with (
        running(llm(receiver)) as app,
        app.request(),
        app.span("plan"),
        app.span("agent", AGENT),
        app.span("retry"),
        app.span("tool", TOOL),
        app.span("inner"),
    ):
        app.chat("chat")
    assert tree(receiver.spans) == {None: ["agent"], "agent": ["tool"], "tool": ["chat"]}


def test_child_sent_before_its_parent_is_below_the_parent(receiver: Receiver) -> None:
    """The batch with the child is long gone when the agent ends."""
    destination = llm(receiver)
    with running(destination) as app, app.request(trace_id="t", span_name="Step"):
        with app.span("agent", AGENT):
            app.chat("early")
            assert destination.flush()
            assert [span.name for span in receiver.spans] == ["early"]
        app.chat("late")
    assert tree(receiver.spans) == {None: ["Step"], "Step": ["agent", "late"], "agent": ["early"]}


@pytest.mark.parametrize("part", [{}, {"session_id": "part"}])
def test_child_sent_while_its_server_span_is_open_is_below_the_server_span(
    receiver: Receiver, part: dict[str, str]
) -> None:
    """Also if another instrumentation made the server span before the request context, and in a bound part."""
    destination = OTLP(receiver.url)
    with (
        running(destination) as app,
        app.tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER) as server,
        byline.bound(trace_id="t", span_name="Step"),
    ):
        owner = request_context.current_context()
        assert owner is not None
        set_server_span(owner, server)
        with byline.bound(**part):
            app.chat("chat")
        assert destination.flush()
        assert [span.name for span in receiver.spans] == ["chat"]
    assert tree(receiver.spans) == {None: ["POST /chat"], "POST /chat": ["Step"], "Step": ["chat"]}


def test_a_step_spans_its_request(receiver: Receiver) -> None:
    """From the request's start to its end, although it is sent in another batch than its generations."""
    destination = llm(receiver)
    with running(destination) as app, app.request(span_name="Step") as server:
        app.chat("early")
        destination.flush()
        app.chat("late")
    step = named(receiver.spans, "Step")
    assert step.start == server.start_time
    assert step.end == server.end_time


def test_step_without_a_server_span_covers_its_first_call(receiver: Receiver) -> None:
    with running(llm(receiver)) as app, byline.bound(span_name="Nightly", trace_id="t"):
        app.chat("first")
        app.chat("second")
    assert tree(receiver.spans) == {None: ["Nightly"], "Nightly": ["first", "second"]}


def test_step_of_an_interrupted_request_is_sent_at_shutdown(receiver: Receiver) -> None:
    """The request is still under way when the process stops."""
    app = running(llm(receiver))
    made = app.__enter__()
    with made.request(span_name="Step"):
        made.chat()
        app.__exit__(None, None, None)
    assert tree(receiver.spans) == {None: ["Step"], "Step": ["chat gpt-4o"]}


def test_step_below_the_server_span_of_another_provider_is_sent_soon(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byline does not see its end."""
    monkeypatch.setattr(made_spans, "_TIMEOUT_AFTER_END", 0.0)
    destination = llm(receiver)
    other = TracerProvider(shutdown_on_exit=False).get_tracer("other")
    with running(destination) as app:
        with other.start_as_current_span("POST", kind=SpanKind.SERVER) as server, byline.bound(span_name="Step"):
            owner = request_context.current_context()
            assert owner is not None
            set_server_span(owner, server)
            app.chat("first")
        app.chat("next")
        assert destination.flush()
        assert tree([span for span in receiver.spans if span.name != "next"]) == {None: ["Step"], "Step": ["first"]}


def test_a_destination_can_be_used_again(receiver: Receiver) -> None:
    """After the provider that it fed was shut down."""
    destination = llm(receiver)
    for number in range(2):
        app = App(destination)
        app.chat(f"chat {number}")
        app.provider.shutdown()
    assert [span.name for span in receiver.spans] == ["chat 0", "chat 1"]


def test_a_trace_is_not_that_of_an_earlier_destination_at_the_same_address() -> None:
    """A span may be open while byline is set up anew."""
    provider = TracerProvider(shutdown_on_exit=False)
    span: Any = provider.get_tracer("app").start_span("agent")
    state = SpanState(span, span.get_span_context(), None)
    addresses: set[int] = set()
    for number in range(1, 100):
        decisions = ExportDecisions("llm", unsampled=False, passes_filters=None)
        view = TraceView(decisions.will_export, decisions.destination_id)
        copy = SpanCopy.from_span(span, span.get_span_context(), state, Attribution(trace_id=f"{number:032x}"))
        view.place(copy)
        assert copy.context.trace_id == number
        if id(view) in addresses:
            return
        addresses.add(id(view))
        del view
    pytest.skip("this interpreter uses no address twice")


def test_the_apps_other_exporters_see_its_own_trace_untouched(receiver: Receiver) -> None:
    others = InMemorySpanExporter()
    with running(Langfuse(*KEYS, receiver.url)) as app:
        app.provider.add_span_processor(SimpleSpanProcessor(others))
        with app.request(**EXAMPLE) as server:
            app.chat(model="business")
    (chat, span) = others.get_finished_spans()
    assert chat.context is not None
    assert chat.parent is not None
    assert chat.context.trace_id == server.get_span_context().trace_id != int(FILED, 16)
    assert chat.parent.span_id == server.get_span_context().span_id
    assert "byline.app.trace_id" not in (chat.attributes or {})
    assert not [key for key in chat.attributes or {} if key.startswith("langfuse.observation")]
    assert span.name == "POST /chat"


def test_all_spans_join_the_callers_trace(receiver: Receiver) -> None:
    with running(OTLP(receiver.url)) as app, app.request(**EXAMPLE):
        with app.span("query"):
            pass
        with app.span("load document"):
            app.chat()
    assert tree(receiver.spans) == {
        None: ["POST /chat"],
        "POST /chat": ["Summarization Step", "query"],
        "Summarization Step": ["load document"],
        "load document": ["Generate Summary"],
    }
    assert {span.trace_id for span in receiver.spans} == {FILED}
    assert {span.attributes["session.id"] for span in receiver.spans} == {"session_abc"}


def test_all_spans_keep_the_callers_span_as_parent(receiver: Receiver) -> None:
    """The caller sends that span itself."""
    remote = SpanContext(0xA1, 0xB2, is_remote=True, trace_flags=TraceFlags(1))
    context = trace.set_span_in_context(NonRecordingSpan(remote))
    with (
        running(OTLP(receiver.url)) as app,
        byline.bound(session_id="s"),
        app.tracer.start_as_current_span("POST", context=context, kind=SpanKind.SERVER),
    ):
        app.chat("chat")
    assert named(receiver.spans, "POST").parent_id == f"{0xB2:016x}"
    assert named(receiver.spans, "chat").parent_id == named(receiver.spans, "POST").span_id


def test_llm_spans_alone_do_not_hang_below_another_processes_span(receiver: Receiver) -> None:
    """Unknown whether the parent was sent there."""
    remote = SpanContext(0xA1, 0xB2, is_remote=True, trace_flags=TraceFlags(1))
    context = trace.set_span_in_context(NonRecordingSpan(remote))
    with (
        running(llm(receiver)) as app,
        byline.bound(session_id="s"),
        app.tracer.start_as_current_span("POST", context=context, kind=SpanKind.SERVER),
    ):
        app.chat("chat")
    assert (receiver.spans[0].parent_id, receiver.spans[0].trace_id) == (None, f"{0xA1:032x}")


def test_a_predicate_leaves_no_dangling_parent_either(receiver: Receiver) -> None:
    """The open parent decides, and its decision is kept."""

    def wanted(span: Any) -> bool:
        return (span.attributes or {}).get("want") is True

    destination = OTLP(receiver.url, spans=wanted)
    with running(destination) as app, app.request(), app.span("outer", {"want": True}) as outer, app.span("middle"):
        with app.span("inner", {"want": True}):
            pass
        destination.flush()
        outer.set_attribute("want", False)
    assert tree(receiver.spans) == {None: ["outer"], "outer": ["inner"]}


def test_each_call_may_be_a_trace_of_its_own(receiver: Receiver) -> None:
    """Its children stay with it."""
    with running(llm(receiver, traces="call")) as app, app.request():
        with app.span("agent", AGENT):
            app.chat("inner")
        app.chat("other")
    spans = receiver.spans
    assert tree(spans) == {None: ["agent", "other"], "agent": ["inner"]}
    assert len({span.trace_id for span in spans}) == 2
    assert len({span.attributes["byline.app.trace_id"] for span in spans}) == 1


def test_a_trace_that_is_bound_within_a_request_is_a_trace_of_its_own(receiver: Receiver) -> None:
    with running(llm(receiver)) as app, app.request(trace_id="a"), app.span("agent", AGENT):
        app.chat("mine")
        with byline.bound(trace_id="b"):
            app.chat("other")
    spans = receiver.spans
    assert tree(spans) == {None: ["agent", "other"], "agent": ["mine"]}
    assert named(spans, "other").trace_id == f"{to_trace_id('b'):032x}"


def test_late_attribution_is_on_all_spans(receiver: Receiver) -> None:
    """Also on spans that ended before, replacing changed values."""
    with running(llm(receiver)) as app, app.request(session_id="s", user_id="anonymous"):
        app.chat("early", **{"user.name": "kept"})
        byline.bind(user_id="ada", tags=["beta"])
        app.chat("late")
    for span in receiver.spans:
        assert span.attributes["user.id"] == "ada"
        assert span.attributes["langfuse.trace.tags"] == ["beta"]
    assert named(receiver.spans, "early").attributes["user.name"] == "kept"


def test_attributes_of_an_instrumentation_stay(receiver: Receiver) -> None:
    with running(llm(receiver)) as app, app.request(session_id="s"):
        app.chat(**{"gen_ai.conversation.id": "its own"})
    attributes = receiver.spans[0].attributes
    assert (attributes["session.id"], attributes["gen_ai.conversation.id"]) == ("s", "its own")


def test_spans_outside_of_any_request_pass_as_they_are(receiver: Receiver) -> None:
    with running(OTLP(receiver.url)) as app, app.span("job"):
        app.chat("chat")
    assert tree(receiver.spans) == {None: ["job"], "job": ["chat"]}
    assert named(receiver.spans, "chat").attributes == CHAT
