"""The root of a request in a destination's trace: name, kind, first question, last answer, error, totals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import byline
from byline.asgi import AttributionMiddleware
from byline.export import OTLP, Destination, Langfuse, made_spans
from byline.gateways import OpenRouter
from byline.testing import Gateway, ReceivedSpan, Receiver
from tests.export.langfuse_model import Path, observations, session_cost, traces
from tests.export.support import AGENT, EXAMPLE, named, running, tree

KEYS = ("pk-lf-1", "sk-lf-1")
METADATA = "langfuse.observation.metadata."
both_paths = pytest.mark.parametrize("path", ["legacy", "direct"])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def phoenix(receiver: Receiver, **options: Any) -> OTLP:
    return OTLP(receiver.url, conventions=["openinference"], **options)


def asked(question: str, answer: str | None = None) -> dict[str, Any]:
    """Return the content of a call as the GenAI conventions have it."""
    content = {
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": question}]}])
    }
    if answer is not None:
        parts = [{"type": "text", "content": answer}]
        content["gen_ai.output.messages"] = json.dumps([{"role": "assistant", "parts": parts}])
    return content


REFUSED: dict[str, Any] = {
    "error.type": "rate_limit_error",
    "http.response.status_code": 429,
    "byline.error.message": "Slow down.",
}


class TestWhichSpanIsTheRoot:
    def test_several_calls_without_a_step_get_a_root(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url)) as app, app.request(trace_name="Trip") as server:
            app.chat("first")
            app.chat("second")
            app.chat("third")
        assert tree(receiver.spans) == {None: ["Trip"], "Trip": ["first", "second", "third"]}
        root = named(receiver.spans, "Trip")
        assert (root.start, root.end) == (server.start_time, server.end_time)

    def test_a_single_call_is_its_own_root(self, receiver: Receiver) -> None:
        """Langfuse bills observations."""
        with running(Langfuse(*KEYS, receiver.url)) as app, app.request(trace_name="Trip"):
            app.chat("only")
        assert tree(receiver.spans) == {None: ["only"]}

    @pytest.mark.parametrize("spans", ["llm", "all"])
    def test_openrouters_picture_stays(self, receiver: Receiver, spans: Any) -> None:
        with running(Langfuse(*KEYS, receiver.url, spans=spans, root=True)) as app, app.request(**EXAMPLE):
            app.chat()
            app.chat()
        picture: dict[str | None, list[str]] = {"Summarization Step": ["Generate Summary"] * 2}
        server: dict[str | None, list[str]] = {None: ["POST /chat"], "POST /chat": ["Summarization Step"]}
        top: dict[str | None, list[str]] = {None: ["Summarization Step"]}
        assert tree(receiver.spans) == {**(server if spans == "all" else top), **picture}

    def test_true_makes_one_for_a_single_call_as_well(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url, root=True)) as app, app.request(trace_name="Trip"):
            app.chat("only")
        assert tree(receiver.spans) == {None: ["Trip"], "Trip": ["only"]}

    def test_false_makes_none(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url, root=False)) as app, app.request():
            app.chat("first")
            app.chat("second")
        assert tree(receiver.spans) == {None: ["first", "second"]}

    def test_agents_and_calls_are_below_the_same_root(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url)) as app, app.request(trace_name="Trip"):
            with app.span("agent", AGENT):
                app.chat("inner")
            app.chat("outer")
        assert tree(receiver.spans) == {None: ["Trip"], "Trip": ["agent", "outer"], "agent": ["inner"]}

    def test_each_request_of_one_trace_has_a_root_beside_the_others(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url)) as app:
            for number in (1, 2):
                with app.request(trace_id="t", trace_name="Trip", session_id="s"):
                    app.chat(f"first {number}", **{"gen_ai.usage.cost": 0.25})
                    app.chat(f"second {number}", **{"gen_ai.usage.cost": 0.25})
        spans = receiver.spans
        assert len({span.trace_id for span in spans}) == 1
        assert [span.name for span in spans if span.parent_id is None] == ["Trip", "Trip"]
        assert session_cost(spans, "direct") == {"s": 1.0}

    def test_each_call_as_a_trace_of_its_own_has_no_root_above_it(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url, traces="call")) as app, app.request():
            app.chat("first")
            app.chat("second")
        assert tree(receiver.spans) == {None: ["first", "second"]}

    def test_calls_for_different_users_have_no_common_root(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url)) as app, app.request():
            for user in ("ada", "bob"):
                with byline.bound(user_id=user, session_id=user):
                    app.chat(user)
        assert tree(receiver.spans) == {None: ["ada", "bob"]}

    @pytest.mark.parametrize(
        ("caller_spans", "roots"),
        [("auto", {"request"}), ("elsewhere", {"request"}), ("here", set())],
    )
    def test_trace_of_a_caller_has_a_root_unless_the_callers_spans_are_there(
        self, caller_spans: Any, roots: set[str], receiver: Receiver
    ) -> None:
        """A plain ``traceparent`` comes from a caller elsewhere; without a root Langfuse shows the last call only."""
        remote = SpanContext(0xA1, 0xB2, is_remote=True, trace_flags=TraceFlags(1))
        context = trace.set_span_in_context(NonRecordingSpan(remote))
        with (
            running(Langfuse(*KEYS, receiver.url, caller_spans=caller_spans)) as app,
            byline.bound(session_id="s"),
            app.tracer.start_as_current_span("POST", context=context, kind=SpanKind.SERVER),
        ):
            app.chat("first", **asked("q 1", "a 1"))
            app.chat("second", **asked("q 2", "a 2"))
        assert {span.name for span in receiver.spans} == {"first", "second"} | roots
        assert {span.trace_id for span in receiver.spans} == {f"{0xA1:032x}"}
        # The name of the caller's trace is the caller's.
        assert not [span for span in receiver.spans if "langfuse.trace.name" in span.attributes]
        parents = {span.parent_id for span in receiver.spans if span.name in ("first", "second")}
        made = {span.span_id for span in receiver.spans if span.name == "request"}
        assert parents == (made or {f"{0xB2:016x}"})
        for path in ("legacy", "direct"):
            if roots:
                (found,) = traces(receiver.spans, path).values()
                assert "q 1" in str(found.input)
                assert "a 2" in str(found.output)

    @pytest.mark.parametrize("path", ["legacy", "direct"])
    def test_below_a_caller_elsewhere_the_server_span_shows_its_content_and_keeps_its_name(
        self, receiver: Receiver, path: Path
    ) -> None:
        """Phoenix lists a span whose parent is missing as a root."""
        remote = SpanContext(0xA1, 0xB2, is_remote=True, trace_flags=TraceFlags(1))
        context = trace.set_span_in_context(NonRecordingSpan(remote))
        with Receiver() as other, running(phoenix(receiver), Langfuse(*KEYS, other.url, spans="all")) as app:
            with (
                byline.bound(session_id="s", trace_name="Trip"),
                app.tracer.start_as_current_span("POST", context=context, kind=SpanKind.SERVER),
            ):
                app.chat("first", **asked("q 1", "a 1"))
            app.close()
            assert observations(other.spans, path)["POST"].input is None
        server = named(receiver.spans, "POST")
        assert server.parent_id == f"{0xB2:016x}"
        assert [server.attributes[name] for name in PHOENIX_COLUMNS[:2]] == ["CHAIN", "q 1"]


class TestWaiting:
    def test_a_single_call_leaves_when_its_request_is_over(self, receiver: Receiver) -> None:
        destination = Langfuse(*KEYS, receiver.url)
        with running(destination) as app:
            with app.request():
                app.chat("only")
            assert destination.flush()
            assert tree(receiver.spans) == {None: ["only"]}

    def test_a_flush_within_the_request_sends_it(self, receiver: Receiver) -> None:
        """Later calls of the request are beside it then: a parent that was never sent would be missing."""
        destination = Langfuse(*KEYS, receiver.url)
        with running(destination) as app, app.request():
            app.chat("first")
            assert destination.flush()
            assert [span.name for span in receiver.spans] == ["first"]
            app.chat("second")
            app.chat("third")
        assert tree(receiver.spans) == {None: ["first", "second", "third"]}

    def test_it_does_not_wait_for_long(self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
        """A websocket may stay open for hours."""
        monkeypatch.setattr(made_spans, "_TIMEOUT_SINGLE", 0.0)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        with running(Langfuse(*KEYS, receiver.url)) as app, app.request():
            app.chat("only")
            receiver.wait_for(1)
            assert tree(receiver.spans) == {None: ["only"]}

    def test_a_root_whose_request_is_cut_off_is_sent_at_the_end(self, receiver: Receiver) -> None:
        app = running(Langfuse(*KEYS, receiver.url))
        made = app.__enter__()
        with made.request(trace_name="Trip"):
            made.chat("first")
            made.chat("second")
            app.__exit__(None, None, None)
        assert tree(receiver.spans) == {None: ["Trip"], "Trip": ["first", "second"]}

    def test_a_call_after_the_response_is_below_the_root_that_was_made(self, receiver: Receiver) -> None:
        destination = Langfuse(*KEYS, receiver.url)
        with running(destination) as app, byline.bound(trace_name="Trip"):
            with app.tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER) as server:
                context = trace.set_span_in_context(server)
                app.chat("first")
                app.chat("second")
            assert destination.flush()
            with app.tracer.start_as_current_span("late", context=context, attributes=AGENT):
                pass
        assert tree(receiver.spans) == {None: ["Trip"], "Trip": ["first", "late", "second"]}

    def test_a_job_has_a_root_too(self, receiver: Receiver) -> None:
        with running(Langfuse(*KEYS, receiver.url)) as app, byline.bound(trace_id="t"):
            app.chat("first")
            app.chat("second")
        assert tree(receiver.spans) == {None: ["job"], "job": ["first", "second"]}


class TestContent:
    @both_paths
    @pytest.mark.parametrize("options", [{}, {"spans": "all"}])
    def test_langfuses_trace_shows_the_first_question_and_the_last_answer(
        self, receiver: Receiver, path: Path, options: Any
    ) -> None:
        with running(Langfuse(*KEYS, receiver.url, **options)) as app, app.request():
            app.chat("first", **asked("What is the weather?", "I shall look."))
            app.chat("second", **asked("Now answer.", "It is sunny."))
        (found,) = traces(receiver.spans, path).values()
        assert json.loads(str(found.input)) == [{"role": "user", "content": "What is the weather?"}]
        assert json.loads(str(found.output)) == {"role": "assistant", "content": "It is sunny."}

    @pytest.mark.parametrize("options", [{"spans": "llm"}, {"spans": "all"}])
    def test_openinference_roots_show_them_as_text(self, receiver: Receiver, options: Any) -> None:
        with running(phoenix(receiver, **options)) as app, app.request(trace_name="Trip"):
            app.chat("first", **asked("What is the weather?", "I shall look."))
            app.chat("second", **asked("Now answer.", "It is sunny."))
        (root,) = [span for span in receiver.spans if span.parent_id is None]
        shown = {name: root.attributes.get(name) for name in PHOENIX_COLUMNS}
        assert (root.name, root.status) == ("Trip", "OK")
        assert shown == {
            "openinference.span.kind": "CHAIN",
            "input.value": "What is the weather?",
            "input.mime_type": "text/plain",
            "output.value": "It is sunny.",
            "output.mime_type": "text/plain",
        }

    def test_a_step_of_a_part_shows_its_own(self, receiver: Receiver) -> None:
        with running(phoenix(receiver, spans="llm")) as app, app.request():
            for name in ("Load", "Summarize"):
                with byline.bound(span_name=name):
                    app.chat(**asked(f"{name}?", f"{name}!"))
        shown = {
            span.name: (span.attributes["input.value"], span.attributes["output.value"])
            for span in receiver.spans
            if span.parent_id is None
        }
        assert shown == {"Load": ("Load?", "Load!"), "Summarize": ("Summarize?", "Summarize!")}

    @pytest.mark.parametrize("field", ["session_id", "user_id", "organization_id"])
    def test_a_step_for_each_user_shows_the_content_of_that_user(self, receiver: Receiver, field: str) -> None:
        """A job works for many users under one name of a step, and two parts may work for one user."""
        with running(phoenix(receiver, spans="llm")) as app, byline.bound(trace_id="t"):
            for name in ("ann", "bob", "ann"):
                with byline.bound(**{field: name}, span_name="Summarize"):
                    app.chat(**asked(f"{name}?", f"{name}!"))
                    byline.bind(metadata={"later": name})
                    app.chat(**asked(f"{name} again?", f"{name} again!"))
        attribute = {"session_id": "session.id", "user_id": "user.id", "organization_id": "byline.organization.id"}[
            field
        ]
        steps = [span.attributes for span in receiver.spans if span.parent_id is None]
        shown = sorted((step[attribute], step["input.value"], step["output.value"]) for step in steps)
        assert shown == [("ann", "ann?", "ann again!"), ("bob", "bob?", "bob again!")]

    @both_paths
    def test_an_agent_without_content_shows_that_of_its_calls(self, receiver: Receiver, path: Path) -> None:
        with running(Langfuse(*KEYS, receiver.url)) as app, app.request(), app.span("agent", AGENT):
            app.chat("first", **asked("q 1", "a 1"))
            app.chat("second", **asked("q 2", "a 2"))
        (found,) = traces(receiver.spans, path).values()
        assert "q 1" in str(found.input)
        assert "a 2" in str(found.output)

    def test_an_embedding_is_no_question(self, receiver: Receiver) -> None:
        with running(phoenix(receiver)) as app, app.request():
            app.chat("embed", **{"gen_ai.operation.name": "embeddings", **asked("a document")})
            app.chat("chat", **asked("the question", "the answer"))
        assert named(receiver.spans, "POST /chat").attributes["input.value"] == "the question"

    @pytest.mark.parametrize("make", [lambda url, **more: Langfuse(*KEYS, url, **more), OTLP])
    @pytest.mark.parametrize("spans", ["llm", "all"])
    def test_privacy_leaves_roots_empty(self, receiver: Receiver, make: Callable[..., Destination], spans: str) -> None:
        destination = make(receiver.url, privacy=True, spans=spans, conventions=["openinference"])
        with running(destination) as app, app.request(trace_name="Trip"):
            app.chat("first", **asked("secret question", "secret answer"))
            app.chat("second", **asked("secret question"), **{**REFUSED, "byline.error.message": "secret error"})
        assert "secret" not in str(receiver.spans)
        (root,) = [span for span in receiver.spans if span.parent_id is None]
        assert (root.status, root.status_message) == ("ERROR", "rate_limit_error")
        assert root.attributes.keys() & {"input.value", "input.mime_type", "langfuse.observation.input"} == set()


PHOENIX_COLUMNS = ("openinference.span.kind", "input.value", "input.mime_type", "output.value", "output.mime_type")


class TestErrors:
    @both_paths
    @pytest.mark.parametrize("options", [{}, {"spans": "all"}])
    def test_the_root_states_the_error_of_the_last_call(self, receiver: Receiver, path: Path, options: Any) -> None:
        with running(Langfuse(*KEYS, receiver.url, **options)) as app, app.request(trace_name="Trip"):
            app.chat("first", **asked("q", "a"))
            app.chat("second", **asked("q 2"), **REFUSED)
        found = observations(receiver.spans, path)["POST /chat" if options else "Trip"]
        assert (found.level, found.status_message) == ("ERROR", "429: Slow down.")
        assert json.loads(str(found.output)) == {"error": {"code": "429", "message": "Slow down."}}

    def test_phoenix_sees_the_error_on_the_root(self, receiver: Receiver) -> None:
        with running(phoenix(receiver)) as app, app.request():
            app.chat("call", **asked("q"), **REFUSED)
        for name in ("POST /chat", "call"):
            span = named(receiver.spans, name)
            assert (span.status, span.status_message) == ("ERROR", "429: Slow down.")
            assert json.loads(span.attributes["output.value"])["error"]["message"].endswith("Slow down.")
            assert span.attributes["output.mime_type"] == "application/json"

    def test_a_request_that_was_answered_by_another_call_has_not_failed(self, receiver: Receiver) -> None:
        with running(phoenix(receiver)) as app, app.request():
            app.chat("first", **asked("q"), **REFUSED)
            app.chat("second", **asked("q", "a"))
        root = named(receiver.spans, "POST /chat")
        assert (root.status, root.attributes["output.value"]) == ("OK", "a")

    def test_other_destinations_get_the_server_span_as_it_is(self, receiver: Receiver) -> None:
        with running(OTLP(receiver.url)) as app, app.request(trace_name="Trip"):
            app.chat("call", **asked("q"), **REFUSED)
        root = named(receiver.spans, "POST /chat")
        assert root.status == "UNSET"
        assert not root.attributes.keys() & set(PHOENIX_COLUMNS)


def served(receiver: Receiver, body: dict[str, Any], **options: Any) -> list[ReceivedSpan]:
    """Serve one request that calls a model twice; return the spans that Langfuse gets."""
    provider = TracerProvider(shutdown_on_exit=False)
    with Gateway() as gateway:
        byline.instrument(
            tracer_provider=provider,
            destinations=[Langfuse(*KEYS, receiver.url, **options)],
            gateways=[OpenRouter(gateway.base_url)],
        )

        async def chat(request: Any) -> PlainTextResponse:
            await request.body()
            async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="k") as client:
                for _ in range(2):
                    await client.chat.completions.create(
                        model="openai/gpt-4o", messages=[{"role": "user", "content": "hi"}]
                    )
            return PlainTextResponse("ok")

        app = AttributionMiddleware(Starlette(routes=[Route("/chats/{chat_id}", chat, methods=["POST"])]))
        assert TestClient(app).post("/chats/17", json=body).status_code == 200
        byline.uninstrument()
    return receiver.spans


class TestNameAndTotals:
    @pytest.mark.newest  # the oldest Starlette does not put the route into the scope
    def test_a_trace_without_a_name_is_named_by_the_route(self, receiver: Receiver) -> None:
        spans = served(receiver, {})
        assert [span.name for span in spans if span.parent_id is None] == ["POST /chats/{chat_id}"]
        assert {span.attributes["langfuse.trace.name"] for span in spans} == {"POST /chats/{chat_id}"}

    def test_the_callers_name_wins(self, receiver: Receiver) -> None:
        spans = served(receiver, {"trace": {"trace_name": "Trip"}})
        assert {span.attributes["langfuse.trace.name"] for span in spans} == {"Trip"}

    def test_a_trace_of_the_callers_is_named_by_nobody_else(self, receiver: Receiver) -> None:
        """An earlier request may have named it."""
        spans = served(receiver, {"trace": {"trace_id": "t"}})
        assert not [span for span in spans if "langfuse.trace.name" in span.attributes]

    def test_the_root_has_the_totals_of_its_request_and_the_callers_metadata(self, receiver: Receiver) -> None:
        spans = served(receiver, {"metadata": {"plan": "gold"}})
        (root,) = [span for span in spans if span.parent_id is None]
        generations = [span for span in spans if span.parent_id is not None]
        cost = sum(span.attributes["gen_ai.usage.cost"] for span in generations)
        assert root.attributes["langfuse.trace.metadata.plan"] == "gold"
        totals = {name: root.attributes[METADATA + name] for name in ("llm_calls", "llm_errors", "llm_cost")}
        assert totals == {"llm_calls": 2, "llm_errors": 0, "llm_cost": round(cost, 12)}
        assert root.attributes[METADATA + "llm_input_tokens"] == sum(
            span.attributes["gen_ai.usage.input_tokens"] for span in generations
        )
