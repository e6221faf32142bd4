"""Work that outlives its request: attributed for a limited time, or not at all in `byline.unbound`."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, cast

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import set_span_in_context

import byline
from byline import asgi, request_context, wsgi
from byline.destinations import OTLP
from byline.testing import Receiver
from tests.support import Door, both_doors, call_model, claim, run_asgi, run_wsgi, tracer

Finished = Callable[[], Sequence[ReadableSpan]]


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def plain_app(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


def plain_wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return []


APPS: dict[Door, Any] = {"asgi": plain_app, "wsgi": plain_wsgi_app}


class Clock:
    """A monotonic clock that moves only if it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def leave_context_behind(door: Door, **options: Any) -> contextvars.Context:
    """Return the context of a task or thread that a finished request has started."""
    left: list[contextvars.Context] = []
    sent = claim({"user": "ada"}, headers=[("x-session-id", "s-ada")])
    if door == "asgi":

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            left.append(contextvars.copy_context())
            await answer(send)

        assert asyncio.run(run_asgi(asgi.AttributionMiddleware(app, **options), sent)).error is None
    else:

        def wsgi_app(environ: Any, start_response: Any) -> Any:
            environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            left.append(contextvars.copy_context())
            start_response("200 OK", [])
            return [b"ok"]

        run_wsgi(wsgi.AttributionMiddleware(wsgi_app, **options), sent)
    return left[0]


def sessions(spans: Sequence[ReadableSpan]) -> list[tuple[Any, Any]]:
    return [
        ((span.attributes or {}).get("session.id"), (span.attributes or {}).get("byline.after_response"))
        for span in spans
        if span.name.startswith("chat")
    ]


@both_doors
def test_spans_started_after_the_response_are_marked(door: Door, finished: Finished, clock: Clock) -> None:
    left = leave_context_behind(door)
    clock.now += 299
    left.run(call_model)
    assert sessions(finished()) == [("s-ada", True)]


def test_spans_within_the_request_are_not_marked(finished: Finished) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        call_model()
        await answer(send)
        call_model()

    asyncio.run(run_asgi(asgi.AttributionMiddleware(app), claim(headers=[("x-session-id", "s")])))
    assert sessions(finished()) == [("s", None), ("s", True)]


@both_doors
def test_a_request_is_over_some_time_after_the_response(door: Door, finished: Finished, clock: Clock) -> None:
    left = leave_context_behind(door)
    clock.now += 301
    left.run(call_model)
    assert sessions(finished()) == [(None, None)]
    assert left.run(byline.current) == byline.Attribution()
    assert left.run(request_context.current_context) is None


@both_doors
def test_the_time_can_be_set(door: Door, finished: Finished, clock: Clock) -> None:
    short, endless = leave_context_behind(door, after_response=5), leave_context_behind(door, after_response=None)
    clock.now += 6
    short.run(call_model)
    clock.now += 1e6
    endless.run(call_model)
    assert sessions(finished()) == [(None, None), ("s-ada", True)]


@pytest.mark.parametrize("value", [-1, "5", True, float("nan"), object()])
@both_doors
def test_a_wrong_time_is_refused(door: Door, value: Any) -> None:
    middleware: Any = {"asgi": asgi, "wsgi": wsgi}[door].AttributionMiddleware
    with pytest.raises(byline.SettingError, match=r"byline\.E010"):
        middleware(APPS[door], after_response=value)


def test_neither_the_parent_span_nor_the_export_leads_back_to_a_request_that_is_over(clock: Clock) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    inner = provider.get_tracer("app")
    with Receiver() as receiver:
        byline.instrument(tracer_provider=provider, destinations=[OTLP(receiver.url)], clients=())
        try:
            with byline.bound(session_id="s-ada", user_id="ada"), inner.start_as_current_span("job"):
                left = contextvars.copy_context()
                parent = trace.get_current_span()
            clock.now += 301

            def work() -> None:
                with inner.start_as_current_span("step"), inner.start_as_current_span("chat") as span:
                    span.set_attribute("gen_ai.operation.name", "chat")

            left.run(work)
            # A thread with OpenTelemetry's context only.
            inner.start_span("chat", set_span_in_context(parent), attributes={"gen_ai.operation.name": "chat"}).end()
            byline.flush()
        finally:
            byline.uninstrument()
    late = [span for span in receiver.spans if span.name in ("chat", "step")]
    assert len(late) == 3
    assert [span.attributes for span in late if {"session.id", "user.id"} & span.attributes.keys()] == []


def test_a_block_that_is_still_open_keeps_its_request(finished: Finished, clock: Clock) -> None:
    left = leave_context_behind("asgi", after_response=5)

    @byline.bound(tags=["long"])
    def long_task() -> Iterator[None]:
        yield
        call_model()

    steps = left.run(long_task)
    left.run(next, steps)
    clock.now += 301
    assert left.run(next, steps, None) is None
    left.run(call_model)
    assert sessions(finished()) == [("s-ada", True), (None, None)]


def test_a_job_that_starts_in_a_request_that_is_over_has_its_own_values_only(clock: Clock) -> None:
    left = leave_context_behind("asgi")
    clock.now += 301

    def job() -> byline.Attribution:
        with byline.bound(user_id="bob"):
            return byline.current()

    assert left.run(job) == byline.Attribution(user_id="bob")


def test_a_worker_that_the_first_request_starts_signs_each_job_with_its_own_user(finished: Finished) -> None:
    """The consumer of a queue, which is started lazily."""
    queue: asyncio.Queue[str] | None = None
    tasks: list[asyncio.Task[None]] = []

    @byline.unbound()
    async def consume() -> None:
        assert queue is not None
        while True:
            user = await queue.get()
            with byline.bound(user_id=user):
                call_model(job=user)
            call_model(job="")
            queue.task_done()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal queue
        if queue is None:
            queue = asyncio.Queue()
            tasks.append(asyncio.create_task(consume()))
        await queue.put(dict(scope["headers"])[b"x-user"].decode())
        await answer(send)

    async def run() -> None:
        middleware = asgi.AttributionMiddleware(app)
        for user in ("ada", "bob", "carol"):
            await run_asgi(middleware, claim(headers=[("x-user", user), ("x-session-id", f"s-{user}")]))
            await cast("asyncio.Queue[str]", queue).join()
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    spans = [span for span in finished() if span.name.startswith("chat")]
    assert [(span.attributes or {}).get("user.id") or "" for span in spans] == [
        (span.attributes or {})["job"] for span in spans
    ]
    assert sessions(spans) == [(None, None)] * 6
    assert len({span.context.trace_id for span in spans if span.context}) == 6


def test_unbound_is_a_block_and_a_decorator_of_functions_and_generators(finished: Finished) -> None:
    @byline.unbound()
    def function() -> byline.Attribution:
        return byline.current()

    @byline.unbound()
    async def coroutine() -> byline.Attribution:
        return byline.current()

    @byline.unbound()
    async def generator() -> AsyncIterator[byline.Attribution]:
        yield byline.current()
        yield byline.current()

    async def collect() -> list[byline.Attribution]:
        found = [await coroutine()]
        async for each in generator():
            assert byline.current().user_id == "ada"
            found.append(each)
        return found

    with byline.bound(user_id="ada"), tracer.start_as_current_span("job") as span:
        with byline.unbound():
            assert not byline.current()
            assert trace.get_current_span() is trace.INVALID_SPAN
            call_model()
        assert [function(), *asyncio.run(collect())] == [byline.Attribution()] * 4
        assert byline.current().user_id == "ada"
        assert trace.get_current_span() is span
    assert sessions(finished()) == [(None, None)]
