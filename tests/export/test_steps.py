"""Steps of jobs, which have no server span that ends them."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace.id_generator import IdGenerator

import byline
from byline import request_context
from byline.asgi import AttributionMiddleware
from byline.export import OTLP
from byline.genai.span_state import set_server_span
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, Memory, named, running, tree
from tests.support import claim, run_asgi


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def test_a_jobs_step_lasts_for_all_its_calls(receiver: Receiver) -> None:
    """Also if the first spans are sent long before the last one starts."""
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app:
        with byline.bound(span_name="Nightly", trace_id="t"):
            for name in ("first", "second"):
                with app.span(name, AGENT):
                    app.chat("call")
                assert destination.flush()
            assert "Nightly" not in [span.name for span in receiver.spans]
            app.chat("last")
        assert destination.flush()
        step = named(receiver.spans, "Nightly")
        assert step.start == named(receiver.spans, "first").start
        assert step.end == named(receiver.spans, "last").end
    assert tree(receiver.spans) == {
        None: ["Nightly"],
        "Nightly": ["first", "last", "second"],
        "first": ["call"],
        "second": ["call"],
    }


def test_a_jobs_step_is_sent_although_nothing_follows(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is idle afterwards, for hours maybe."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app:
        with byline.bound(span_name="Nightly"):
            app.chat("call")
            assert destination.flush()
        receiver.wait_for(2)
        assert tree(receiver.spans) == {None: ["Nightly"], "Nightly": ["call"]}


def test_no_thread_is_left_behind(receiver: Receiver) -> None:
    others = set(threading.enumerate())
    with running(OTLP(receiver.url, spans="llm")) as app, byline.bound(span_name="Nightly"):
        app.chat("call")
        assert app.destinations[0].flush()
        threads = [thread for thread in threading.enumerate() if thread not in others]
        assert "byline-otlp" in [thread.name for thread in threads]
        app.close()
        for thread in threads:
            if thread.name.startswith("byline-"):
                thread.join(120)
                assert not thread.is_alive()
    assert tree(receiver.spans) == {None: ["Nightly"], "Nightly": ["call"]}


def test_steps_within_a_request_last_as_long_as_their_own_calls(receiver: Receiver) -> None:
    """And are sent with the request's end, though it has no step itself and is not exported."""
    destination = OTLP(receiver.url, spans="llm")
    with running(destination) as app:
        with app.request():
            for name in ("Load", "Summarize"):
                with byline.bound(span_name=name):
                    app.chat(f"chat {name}")
            assert destination.flush()
        assert destination.flush()
        spans = receiver.spans
        assert tree(spans) == {
            None: ["Load", "Summarize"],
            "Load": ["chat Load"],
            "Summarize": ["chat Summarize"],
        }
        for name in ("Load", "Summarize"):
            step, call = named(spans, name), named(spans, f"chat {name}")
            assert (step.start, step.end) == (call.start, call.end)


def test_step_within_a_request_ends_before_the_request(receiver: Receiver) -> None:
    """If all spans of the app are exported."""
    with running(OTLP(receiver.url)) as app, app.request(span_name="All"):
        app.chat("chat")
        with byline.bound(span_name="Part"):
            app.chat("in part")
    spans = receiver.spans
    server = named(spans, "POST /chat")
    assert (named(spans, "All").start, named(spans, "All").end) == (server.start, server.end)
    part, call = named(spans, "Part"), named(spans, "in part")
    assert (part.start, part.end) == (call.start, call.end)


class SameSpanIds(IdGenerator):
    """Repeats span ids in each trace, as generators of tests and of small devices do."""

    def __init__(self) -> None:
        self._traces = itertools.count(1)

    def generate_span_id(self) -> int:
        return 7

    def generate_trace_id(self) -> int:
        return next(self._traces)


def test_a_span_with_the_id_of_the_server_span_in_another_trace_belongs_to_the_step() -> None:
    memory = Memory(spans="llm")
    with running(memory, id_generator=SameSpanIds()) as app, app.request(session_id="s", span_name="Step") as server:
        context = request_context.current_context()
        assert context is not None
        set_server_span(context, server)
        app.tracer.start_span("chat", context=Context(), attributes=CHAT).end()
    assert memory.names == ["Step", "chat"]


def test_a_span_that_starts_before_the_server_span_of_the_framework(receiver: Receiver) -> None:
    """As an access check in a middleware between byline's and the framework does."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        app.chat("chat")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def check(scope: Any, receive: Any, send: Any) -> None:
        with app.span("check"):
            pass
        await framework(scope, receive, send)

    with running(OTLP(receiver.url)) as app:
        framework = OpenTelemetryMiddleware(answer, tracer_provider=app.provider, exclude_spans=["receive", "send"])
        middleware = AttributionMiddleware(check, app_span=False)
        sent = claim({}, headers=[("trace", '{"span_name": "Step"}')])
        asyncio.run(run_asgi(middleware, sent))
    assert tree(receiver.spans) == {None: ["POST /chat", "check"], "POST /chat": ["Step"], "Step": ["chat"]}
