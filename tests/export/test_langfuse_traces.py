"""Traces in Langfuse: user, session, name, input and output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource

from byline.export import OTLP, Langfuse
from byline.testing import Receiver
from tests.export.langfuse_model import Path, observations, shown, traces
from tests.export.support import AGENT, named, running

KEYS = ("pk-lf-1", "sk-lf-1")
OBSERVATION = "langfuse.observation."
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])
both_views = pytest.mark.parametrize("view", ["llm", "all"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as found:
        yield found


@both_paths
def test_a_conversation_that_an_instrumentation_names_is_the_session_of_the_trace(
    receiver: Receiver, path: Path
) -> None:
    """If no session is named: one path reads the conversation id of the root only."""
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app, app.request():
        app.chat(**{"gen_ai.conversation.id": "conv_1"})
    (trace,) = traces(receiver.spans, path).values()
    assert trace.session == "conv_1"


@both_paths
def test_conversation_id_is_not_the_session_if_there_is_a_session(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(session_id="s-1"):
        app.chat("call", **{"gen_ai.conversation.id": "conv_1"})
    (trace,) = traces(receiver.spans, path).values()
    assert trace.session == observations(receiver.spans, path)["call"].session == "s-1"


@both_paths
@both_views
@pytest.mark.parametrize("mark", ["langfuse.internal.as_root", "langfuse.internal.is_app_root"])
def test_span_below_an_exported_parent_is_not_a_root(receiver: Receiver, path: Path, mark: str, view: Any) -> None:
    """Langfuse's SDK marks a span if its parent is not exported; here the parent is exported."""
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app, app.request(), app.span("agent", AGENT):
        marked: dict[str, Any] = {mark: True, f"{OBSERVATION}input": "the call's"}
        app.chat(**marked)
    (trace,) = traces(receiver.spans, path).values()
    assert trace.name == ("agent" if view == "llm" else "POST /chat")
    assert mark not in named(receiver.spans, "chat gpt-4o").attributes


@both_paths
def test_a_span_that_nothing_is_sent_above_stays_a_root(receiver: Receiver, path: Path) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request():
        app.chat("call", **{"langfuse.internal.as_root": True, "langfuse.internal.is_app_root": True})
    (trace,) = traces(receiver.spans, path).values()
    assert trace.name == "call"


@both_paths
@pytest.mark.parametrize(("view", "step"), [("llm", "Step"), ("all", None), ("all", "Step")])
def test_tenant_and_totals_are_on_the_outermost_span_too(
    receiver: Receiver, path: Path, view: Any, step: str | None
) -> None:
    """One path reads the trace's metadata from the root only, of any kind of span."""
    with (
        running(Langfuse(*KEYS, receiver.url, spans=view)) as app,
        app.request(organization_id="org", environment_id="env", span_name=step) as span,
    ):
        span.set_attribute("byline.route", "/chat")
        app.chat()
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.metadata["organization_id"], trace.metadata["environment_id"]) == ("org", "env")
    if view == "all":
        assert observations(receiver.spans, path)["POST /chat"].metadata["route"] == "/chat"


@both_paths
@both_views
def test_metadata_of_the_same_name_is_not_lost(receiver: Receiver, path: Path, view: Any) -> None:
    """One path has one room for that of the trace and that of the span: byline's own gives way to another name."""
    custom = {"route": "premium", "provider": "house", "request_id": "r-1"}
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app, app.request(metadata=custom) as span:
        span.set_attribute("byline.request.id", "r-2")
        app.chat("call", **{"byline.route": "/chat", "byline.request.id": "r-2"})
    (trace,) = traces(receiver.spans, path).values()
    call = observations(receiver.spans, path)["call"]
    assert {key: trace.metadata[key] for key in custom} == custom
    assert (call.metadata["byline_route"], call.metadata["byline_request_id"]) == ("/chat", "r-2")
    assert call.metadata["byline_provider"] == "openai"
    if path == "direct":
        assert {key: call.metadata[key] for key in custom} == custom


@both_paths
@both_views
def test_nobody_passes_for_another_tenant_by_way_of_metadata(receiver: Receiver, path: Path, view: Any) -> None:
    """Metadata is a claim; the tenant is known."""
    claimed = {"organization_id": "other", "environment_id": "other"}
    known = {"organization_id": "org-1", "environment_id": "env-1"}
    with running(Langfuse(*KEYS, receiver.url, spans=view)) as app, app.request(metadata=claimed, **known):
        app.chat("call")
    (trace,) = traces(receiver.spans, path).values()
    call = observations(receiver.spans, path)["call"]
    assert {key: trace.metadata[key] for key in known} == known
    assert {key: call.metadata[key] for key in known} == known


@both_paths
@pytest.mark.parametrize(("key", "field"), [("langfuse.session.id", "session"), ("langfuse.user.id", "user")])
def test_session_and_user_of_the_app_count_for_the_whole_trace(
    receiver: Receiver, path: Path, key: str, field: str
) -> None:
    """Langfuse's names go before the ones that the caller's are signed under, on each span by itself."""
    fields = {"session_id": "caller", "user_id": "caller", "span_name": "Step"}
    with running(Langfuse(*KEYS, receiver.url, spans="all")) as app, app.request(**fields):
        app.chat("first", **{key: "app"})
        app.chat("second")
    (trace,) = traces(receiver.spans, path).values()
    told = {item.name: getattr(item, field) for item in shown(receiver.spans, path)}
    assert set(told.values()) == {"app"} == {getattr(trace, field)}


#: Attributes of input and output, of current and earlier instrumentations.
PLACES: list[tuple[dict[str, Any], Any, Any]] = [
    ({"traceloop.entity.input": "q", "traceloop.entity.output": "a"}, "q", "a"),
    ({"input.value": "q", "output.value": "a"}, "q", "a"),
    ({"gen_ai.input.messages": "q", "gen_ai.output.messages": "a"}, "q", "a"),
    ({"gen_ai.prompt": "q", "gen_ai.completion": "a"}, "q", "a"),
    ({"mlflow.spanInputs": "q", "mlflow.spanOutputs": "a"}, "q", "a"),
    ({"input": "q", "output": "a"}, "q", "a"),
    (
        {
            "gen_ai.prompt.0.role": "user",
            "gen_ai.prompt.0.content": "q",
            "gen_ai.prompt.10.content": "last",
            "gen_ai.prompt.9.content": "next",
            "gen_ai.prompt.name": "no part of it",
            "gen_ai.completion.0.content": "a",
        },
        '[{"role": "user", "content": "q"}, {"content": "next"}, {"content": "last"}]',
        '[{"content": "a"}]',
    ),
    (
        {
            "llm.input_messages.0.message.content": "q",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "search",
        },
        '[{"message": {"content": "q"}}]',
        '[{"message": {"tool_calls": [{"tool_call": {"function": {"name": "search"}}}]}}]',
    ),
]


@both_paths
@pytest.mark.parametrize(("attributes", "given", "returned"), PLACES, ids=[str(next(iter(row[0]))) for row in PLACES])
def test_trace_shows_question_and_answer_of_any_span(
    receiver: Receiver, path: Path, attributes: dict[str, Any], given: Any, returned: Any
) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(span_name="Step"):
        app.chat("call", **attributes)
    (trace,) = traces(receiver.spans, path).values()
    assert (trace.input, trace.output) == (given, returned)


def test_a_trace_of_private_calls_shows_nothing(receiver: Receiver) -> None:
    """Nor does its outermost span, into which it is gathered."""
    with running(Langfuse(*KEYS, receiver.url, privacy=True)) as app:
        for attributes, _, _ in PLACES:
            with app.request(span_name="Step"):
                app.chat("call", **{key: f"c0ntent-{value}" for key, value in attributes.items()})
    assert "c0ntent" not in str([span.attributes for span in receiver.spans]).replace("c0ntent-no part of it", "")


@pytest.mark.parametrize("other", [Langfuse, OTLP])
def test_content_of_filtered_spans_is_not_shown_on_the_root(receiver: Receiver, other: Any) -> None:
    """Even if another destination gets the span: filters decide whose content may leave."""
    with Receiver(keys=KEYS) as elsewhere:
        whole = Langfuse(*KEYS, elsewhere.url) if other is Langfuse else OTLP(elsewhere.url)
        part = Langfuse(*KEYS, receiver.url, models=["gpt-*"])
        with running(whole, part) as app:
            for _ in range(2):
                with app.request(span_name="Step"):
                    app.chat("first", **{"gen_ai.request.model": "claude", "input.value": "hid", "output.value": "den"})
                    app.chat("second", **{"input.value": "q", "output.value": "a"})
                    app.chat("third", **{"gen_ai.request.model": "claude", "input.value": "hid", "output.value": "den"})
                whole.flush()
    steps = [span for span in receiver.spans if span.name == "Step"]
    told = [(step.attributes[f"{OBSERVATION}input"], step.attributes[f"{OBSERVATION}output"]) for step in steps]
    assert told == [("q", "a")] * 2


def test_a_name_of_no_end_of_parts_is_no_message(receiver: Receiver) -> None:
    with running(Langfuse(*KEYS, receiver.url)) as app, app.request(span_name="Step"):
        app.chat("call", **{"gen_ai.prompt.0" + ".x" * 5000: "q"})
    assert len(receiver.spans) == 2


@both_paths
@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ("Prod EU", "prod-eu"),
        ("prod.eu/1", "prod-eu-1"),
        ("e" * 50, "e" * 40),
        ("Production", "production"),
        ("…", "default"),
    ],
)
@pytest.mark.parametrize("where", ["resource", "span"])
def test_an_environment_that_langfuse_would_not_take_is_brought_into_form(
    receiver: Receiver, path: Path, stated: str, told: str, where: str
) -> None:
    """It would be shown as ``default``, like that of all others."""
    resource = Resource({"deployment.environment.name": stated} if where == "resource" else {})
    with running(Langfuse(*KEYS, receiver.url, spans="all"), resource=resource) as app, app.request() as span:
        if where == "span":
            span.set_attribute("langfuse.environment", stated)
        app.chat("call")
    assert {item.environment for item in observations(receiver.spans, path).values()} == {told}
    (trace,) = traces(receiver.spans, path).values()
    assert trace.environment == told
