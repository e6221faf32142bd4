"""The state of open spans: the same for all threads of a request, and freed afterwards."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, set_span_in_context

import byline
from byline import asgi, wsgi
from byline.export import OTLP, Langfuse
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.span_state import SpanState
from byline.request_context import RequestContext
from byline.request_spans import RequestSpans, TraceValues
from byline.testing import Receiver
from tests.export.support import AGENT, CHAT, App, Memory, running, tree
from tests.support import claim, run_asgi, run_wsgi, scope_of


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def states_of(others: list[Any]) -> list[Any]:
    """Return all states of spans and requests, without those that other tests left."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) in (SpanState, RequestSpans)]
    return [each for each in found if not any(each is other for other in others)]


def test_threads_of_one_request_share_its_step(receiver: Receiver) -> None:
    """The first caller creates the state, and it is created once."""
    with running(OTLP(receiver.url, spans="llm")) as app, app.request(trace_id="t", span_name="Step"):
        together = threading.Barrier(16)

        def work() -> None:
            together.wait(20)
            for _ in range(20):
                with app.span("agent", AGENT):
                    app.chat("chat")

        threads = [threading.Thread(target=copy_context().run, args=(work,)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tree(receiver.spans) == {None: ["Step"], "Step": ["agent"] * 320, "agent": ["chat"] * 320}


def test_requests_at_once_keep_their_own(receiver: Receiver) -> None:
    """A hundred tasks in one loop, each a request with calls of its own."""

    async def ask(app: App, number: int) -> None:
        with app.request(trace_id=f"t-{number}", span_name=f"step {number}", session_id=f"s-{number}"):
            for _ in range(3):
                await asyncio.sleep(0)
                app.chat(f"chat {number}")

    async def all_of_them(app: App) -> None:
        await asyncio.gather(*(ask(app, number) for number in range(100)))

    with running(Langfuse("pk-lf-1", "sk-lf-1", receiver.url)) as app:
        asyncio.run(all_of_them(app))
    expected: dict[str | None, list[str]] = {f"step {number}": [f"chat {number}"] * 3 for number in range(100)}
    expected[None] = sorted(f"step {number}" for number in range(100))
    assert tree(receiver.spans) == expected
    for span in receiver.spans:
        number = span.name.split()[1]
        assert span.attributes["session.id"] == f"s-{number}"
        assert span.attributes["byline.trace.id"] == f"t-{number}"


def test_nothing_is_kept_of_requests_that_are_over(receiver: Receiver) -> None:
    before = states_of([])
    with Receiver() as other, running(OTLP(receiver.url), OTLP(other.url, spans="llm")) as app:
        for _ in range(50):
            with app.request(span_name="Step"), app.span("agent", AGENT):
                app.chat()
        for destination in app.destinations:
            assert destination.flush()
        gc.collect()
        assert states_of(before) == []


def test_spans_that_never_end_do_not_fill_the_memory(receiver: Receiver) -> None:
    """Some instrumentations forget theirs when a stream is dropped."""
    before = states_of([])
    with running(OTLP(receiver.url)) as app:
        forgotten = [app.tracer.start_span("chat", attributes=CHAT) for _ in range(100)]
        with app.span("root"):
            app.chat("kept")
        forgotten.clear()
        assert app.destinations[0].flush()
        gc.collect()
        assert states_of(before) == []
    assert tree(receiver.spans) == {None: ["root"], "root": ["kept"]}


def test_a_span_that_started_before_anybody_looked_is_sent_all_the_same(receiver: Receiver) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    tracer: Any = provider.get_tracer("app")
    with tracer.start_as_current_span("early"):
        provider.add_span_processor(OTLP(receiver.url).processor())
        tracer.start_span("inner").end()
    provider.shutdown()
    assert tree(receiver.spans) == {None: ["early"], "early": ["inner"]}


@pytest.mark.parametrize("spans", ["llm", "all"])
def test_exported_spans_are_freed_without_the_garbage_collector(receiver: Receiver, spans: Any) -> None:
    """Also of spans that were not selected, and of spans that turned into LLM spans."""
    ended: list[weakref.ref[ReadableSpan]] = []

    class Watching(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(weakref.ref(span))

    with running(OTLP(receiver.url, spans=spans), OTLP(receiver.url, spans="llm", label="other")) as app:
        app.provider.add_span_processor(Watching())
        gc.collect()
        gc.disable()
        try:
            with app.request(session_id="s", span_name="Step"), app.span("plain"), app.span("agent", AGENT):
                app.chat("chat")
                with app.span("late") as late:
                    late.set_attributes(CHAT)
                del late
            for destination in app.destinations:
                assert destination.flush()
            assert len(ended) == 5
            assert [reference() for reference in ended] == [None] * 5
        finally:
            gc.enable()


@pytest.mark.parametrize(("spans", "kept"), [("llm", ["chat"]), ("all", ["chat", "load", "POST /chat"])])
def test_a_waiting_call_keeps_no_span_around_it_that_no_destination_exports(
    receiver: Receiver, spans: Any, kept: list[str]
) -> None:
    """Their attributes may be large, and the garbage collector would visit all of their parts."""
    ended: list[tuple[str, weakref.ref[ReadableSpan]]] = []

    class Watching(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append((span.name, weakref.ref(span)))

    destinations = [OTLP(receiver.url, spans="llm", label="first"), OTLP(receiver.url, spans=spans, label="second")]
    provider = TracerProvider(shutdown_on_exit=False)
    processor = AttributionSpanProcessor()
    processor.switch_on("llm", [each.processor() for each in destinations])
    for each in (Watching(), processor):
        provider.add_span_processor(each)
    start = provider.get_tracer("app").start_as_current_span
    with byline.bound(), start("POST /chat", kind=SpanKind.SERVER), start("load"), start("chat", attributes=CHAT):
        pass
    gc.collect()
    assert [name for name, reference in ended if reference() is not None] == kept
    provider.shutdown()
    assert sorted(span.name for span in receiver.spans) == sorted(["chat", *kept])


def test_a_span_that_ends_in_another_request_is_not_taken_for_its(receiver: Receiver) -> None:
    """It turned into an LLM span after its start, when its state was gone."""
    with running(OTLP(receiver.url, spans="llm")) as app:
        with app.request(session_id="first"):
            span = app.tracer.start_span("chat")
            span.set_attributes(CHAT)
        with app.request(session_id="second"):
            span.end()
    assert receiver.spans[0].attributes.get("session.id") == "first"


def test_a_chain_of_thousands_of_spans_fills_neither_the_memory_nor_the_stack() -> None:
    """In a context that is attached and never detached, each span of a worker is the child of the one before."""
    memory = Memory()
    with running(memory) as app:
        before, context = states_of([]), Context()
        for number in range(5000):
            span = app.tracer.start_span("turn", context=context)
            context = set_span_in_context(span, context)
            # Long ago: the parents of younger spans may still wait for their export.
            span.end(end_time=1)
            if number % 500 == 0:
                assert memory.flush()
        assert memory.flush()
        assert len(memory.kept.spans) == 5000
        memory.kept.spans.clear()
        assert len(states_of(before)) < 1100


def test_a_processor_around_a_destinations_passes_start_and_end_on_and_nothing_else() -> None:
    class Wrapper(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            processor.on_start(span, parent_context)

        def on_end(self, span: ReadableSpan) -> None:
            processor.on_end(span)

    memory = Memory()
    processor = memory.processor()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Wrapper())
    tracer = provider.get_tracer("app")
    with byline.bound(session_id="s"), tracer.start_as_current_span("root"):
        tracer.start_span("inner").end()
    assert memory.flush()
    memory.shutdown()
    assert memory.values("session.id") == {"root": "s", "inner": "s"}


@pytest.mark.parametrize("door", ["asgi", "wsgi"])
def test_a_request_leaves_nothing_to_the_garbage_collector(door: str) -> None:
    """A collection stops all threads, the more often the more cycles there are."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        running_app.chat()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    def wsgi_app(environ: Any, start_response: Any) -> Iterator[bytes]:
        running_app.chat()
        start_response("200 OK", [])
        yield b"ok"

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(_: Any) -> None: ...

    def request() -> None:
        sent = claim({"session_id": "s", "trace": {"span_name": "Step"}})
        if door == "wsgi":
            run_wsgi(wsgi_middleware, sent)
            return
        # Without an event loop, which has cycles of its own.
        with pytest.raises(StopIteration):
            asgi_middleware(scope_of(sent), receive, send).send(None)

    asgi_middleware, wsgi_middleware = asgi.AttributionMiddleware(app), wsgi.AttributionMiddleware(wsgi_app)
    kinds = (SpanState, RequestSpans, RequestContext, TraceValues)
    memory = Memory()
    with running(memory) as running_app:
        for _ in range(10):
            request()
        assert memory.flush()
        gc.collect()
        # Those that other tests have left.
        before = {id(each): each for each in gc.get_objects() if type(each) in kinds}
        gc.disable()
        try:
            for _ in range(10):
                request()
            assert memory.flush()
            assert [each for each in gc.get_objects() if type(each) in kinds and id(each) not in before] == []
        finally:
            gc.enable()


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_values_bound_after_the_last_span_are_on_all_spans() -> None:
    memory = Memory(spans="llm")

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        app.chat("chat")
        byline.bind(session_id="late")
        await answer(send)

    with running(memory) as app:
        asyncio.run(run_asgi(asgi.AttributionMiddleware(respond, app_span=False), claim({})))
        assert memory.flush()
    assert memory.values("session.id") == {"chat": "late"}


def test_a_span_that_ends_after_its_block_has_the_values_of_the_block() -> None:
    """Nothing is left of the context then."""
    memory = Memory()
    with running(memory) as app:
        with byline.bound(session_id="s"):
            span = app.tracer.start_span("plain")
        gc.collect()
        span.end()
        assert memory.flush()
    assert memory.values("session.id") == {"plain": "s"}


def test_a_server_span_that_ends_after_the_middleware_has_the_values_of_its_request() -> None:
    memory = Memory()

    async def respond(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        app.chat("chat", **{"langfuse.user.id": "u"})
        await answer(send)

    middleware = asgi.AttributionMiddleware(respond)

    async def framework(scope: Any, receive: Any, send: Any) -> None:
        with app.tracer.start_as_current_span("POST", kind=SpanKind.SERVER):
            await middleware(scope, receive, send)
            gc.collect()
            # Nothing is left of the LLM span either.
            assert memory.flush()

    with running(memory) as app:
        asyncio.run(run_asgi(framework, claim({"session_id": "s"})))
        assert memory.flush()
    assert memory.values("langfuse.user.id") == {"chat": "u", "POST": "u"}
