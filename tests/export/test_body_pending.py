"""Spans that end before the app has read the body: which trace they belong to is not known yet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from byline import request_context
from byline.asgi import AttributionMiddleware
from byline.export import OTLP, pipeline
from byline.genai.span_state import set_server_span
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext
from byline.testing import Receiver
from tests.export.support import CHAT, App, Memory, named, running, tree
from tests.support import claim, run_asgi

BODY = {"session_id": "s", "trace": {"trace_id": "workflow_12345", "span_name": "Step", "generation_name": "Ask"}}
FILED = "7af15d27557f4b0547b66811c67d365d"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def post(app: App, *, read: bool) -> None:
    """Post a request to an app that does something, and is heard of, before it reads the body."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        with app.span("check access"):
            pass
        # Time for a batch to leave.
        app.destinations[0].flush()
        if read:
            await receive()
        with app.span("ask", CHAT):
            pass
        app.destinations[0].flush()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(BODY).encode()}

    async def send(message: Any) -> None:
        pass

    async def run() -> None:
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "client": None}
        scope["headers"] = [(b"content-type", b"application/json")]
        with app.tracer.start_as_current_span("POST /", kind=SpanKind.SERVER):
            await AttributionMiddleware(answer)(scope, receive, send)

    asyncio.run(run())


def test_spans_wait_until_the_body_is_read(receiver: Receiver) -> None:
    """Otherwise they and the server span would be in another trace than the calls."""
    with running(OTLP(receiver.url)) as app:
        post(app, read=True)
    assert tree(receiver.spans) == {None: ["POST /"], "POST /": ["Step", "check access"], "Step": ["Ask"]}
    assert {span.trace_id for span in receiver.spans} == {FILED}
    assert {span.attributes.get("session.id") for span in receiver.spans} == {"s"}


def test_spans_leave_with_the_request_if_nobody_reads_the_body(receiver: Receiver) -> None:
    with running(OTLP(receiver.url)) as app:
        post(app, read=False)
        assert app.destinations[0].flush()
        assert tree(receiver.spans) == {None: ["POST /"], "POST /": ["ask", "check access"]}


def test_they_are_sent_at_the_end_of_the_process(receiver: Receiver) -> None:
    """Although the request is under way, and its body unread."""
    with running(OTLP(receiver.url)) as app:
        owner = RequestContext(ClaimReader(), {"type": "http", "headers": [(b"content-type", b"application/json")]})
        owner.body = BodyBuffer(1024)
        with app.tracer.start_as_current_span("POST /", kind=SpanKind.SERVER) as server:
            token = request_context.attach(owner)
            set_server_span(owner, server)
            with app.span("check access"):
                pass
            request_context.detach(token)
            assert app.destinations[0].flush()
            assert receiver.spans == []
            app.destinations[0].shutdown()
            assert named(receiver.spans, "check access").parent_id == named(receiver.spans, "POST /").span_id


def test_no_crowd_of_them_waits(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go as they are known by then."""
    monkeypatch.setattr(pipeline, "MAX_HELD", 2)
    with running(OTLP(receiver.url)) as app:
        owner = RequestContext(ClaimReader(), {"type": "http", "headers": []})
        owner.body = BodyBuffer(1024)
        with app.tracer.start_as_current_span("POST /", kind=SpanKind.SERVER) as server:
            token = request_context.attach(owner)
            set_server_span(owner, server)
            for number in range(5):
                with app.span(f"part {number}"):
                    pass
            request_context.detach(token)
            assert app.destinations[0].flush()
            assert sorted(span.name for span in receiver.spans) == ["part 0", "part 1", "part 2"]
    assert len(receiver.spans) == 6


def test_spans_of_a_request_without_a_server_span_wait_as_well() -> None:
    memory = Memory(spans="llm")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        app.chat("before")
        assert memory.flush()
        await receive()
        app.chat("after")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    with running(memory) as app:
        asyncio.run(run_asgi(AttributionMiddleware(answer, app_span=False), claim(BODY)))
    assert memory.names == ["Step", "after", "before"] or memory.names == ["Ask", "Ask", "Step"]
    assert {f"{span.context.trace_id:032x}" for span in memory.kept.spans if span.context} == {FILED}
