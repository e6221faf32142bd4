"""Queues within the process: whom a task works for that takes the items of other requests."""

from __future__ import annotations

import asyncio
import contextvars
import queue
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import anyio
import pytest
from opentelemetry.sdk.trace import TracerProvider
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

import byline
from byline import asgi
from byline.destinations import OTLP, Langfuse
from byline.testing import Receiver
from tests.support import claim, run_asgi

Put = Callable[[Any], Awaitable[Any]]
Get = Callable[[], Awaitable[Any]]
Signed = list[tuple[Any, Any]]


class Pipe(NamedTuple):
    """The two ends of a queue."""

    put: Put
    get: Get


def asyncio_queue(kind: type[asyncio.Queue[Any]] = asyncio.Queue) -> Pipe:
    items = kind()
    return Pipe(items.put, items.get)


def awaited_with_timeout() -> Pipe:
    """Before Python 3.12 `asyncio.wait_for` runs in a task of its own, with a copy of the context."""
    items: asyncio.Queue[Any] = asyncio.Queue()
    return Pipe(items.put, lambda: asyncio.wait_for(items.get(), 60))


def thread_queue(kind: type[queue.Queue[Any]] = queue.Queue) -> Pipe:
    items = kind()

    async def put(item: Any) -> None:
        items.put(item)

    return Pipe(put, lambda: asyncio.to_thread(items.get, timeout=60))


class AnyioStream:
    """Closes both ends, whose finalizers warn of open ones."""

    def __init__(self) -> None:
        self._send, self._receive = anyio.create_memory_object_stream[Any](10)

    async def put(self, item: Any) -> None:
        await self._send.send(item)

    async def get(self) -> Any:
        return await self._receive.receive()

    def __del__(self) -> None:
        self._send.close()
        self._receive.close()


def anyio_stream() -> Pipe:
    stream = AnyioStream()
    return Pipe(stream.put, stream.get)


QUEUES: dict[str, Callable[[], Pipe]] = {
    "asyncio.Queue": asyncio_queue,
    "asyncio.PriorityQueue": lambda: asyncio_queue(asyncio.PriorityQueue),
    "asyncio.wait_for": awaited_with_timeout,
    "queue.Queue": thread_queue,
    "anyio": anyio_stream,
}
every_queue = pytest.mark.parametrize("make", QUEUES.values(), ids=QUEUES)


class Spans:
    """An instrumented app whose model calls are the spans of a tracer."""

    def __init__(self, receiver: Receiver) -> None:
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("app")
        self._receiver = receiver
        destinations = [Langfuse("pk-lf-1", "sk-lf-1", base_url=receiver.url), OTLP(receiver.url, spans="all")]
        byline.instrument(tracer_provider=self._provider, destinations=destinations, clients=(), queues=())

    def call_model(self, job: str) -> None:
        with self._tracer.start_as_current_span(
            "chat gpt-4o", attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o", "job": job}
        ):
            pass

    def signed(self) -> Signed:
        """Return job and user of each model call, ordered by job: a span that may become a root is sent later."""
        calls = [(span.attributes["job"], span.attributes.get("user.id")) for span in self._calls("all")]
        return sorted(calls, key=lambda call: str(call[0]))

    def trace_of(self, job: str, spans: str = "llm") -> str:
        return str(next(span.trace_id for span in self._calls(spans) if span.attributes["job"] == job))

    def _calls(self, spans: str) -> list[Any]:
        byline.flush()
        is_langfuse = spans == "llm"
        return [
            span
            for span in self._receiver.spans
            if "job" in span.attributes and any("langfuse.observation" in key for key in span.attributes) is is_langfuse
        ]


@pytest.fixture
def spans() -> Iterator[Spans]:
    with Receiver() as receiver:
        yield Spans(receiver)
        byline.uninstrument()


def run_requests(app: Any, *users: str) -> None:
    """Run one request of each user after the other, each in a context of its own, and what they leave behind."""

    async def run() -> None:
        for user in users:
            request = run_asgi(app, claim({"user": user}, headers=[("x-user", user)]))
            assert (await asyncio.create_task(request)).error is None
            for _ in range(20):
                await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*left)

    contextvars.Context().run(asyncio.run, run())


async def answer(scope: Any, receive: Any, send: Any) -> str:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    return str(dict(scope["headers"])[b"x-user"].decode())


def worker_app(pipe: Callable[[], Pipe], spans: Spans, jobs: int) -> Any:
    """Return an app whose first request starts the consumer of a queue, which ends after so many jobs."""
    ends: list[Pipe] = []
    done: list[asyncio.Event] = []

    async def consume() -> None:
        for _ in range(jobs):
            spans.call_model(await ends[0].get())
            done[-1].set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not ends:
            ends.append(pipe())
            app.task = asyncio.create_task(consume())  # type: ignore[attr-defined]
        user = await answer(scope, receive, send)
        done.append(asyncio.Event())
        await ends[0].put(user)

    async def run_and_wait(scope: Any, receive: Any, send: Any) -> None:
        await middleware(scope, receive, send)
        # Outside the request: the job is done before the next request comes.
        await done[-1].wait()

    middleware = asgi.AttributionMiddleware(app)
    return run_and_wait


@every_queue
def test_a_worker_signs_no_job_of_another_request(make: Callable[[], Pipe], spans: Spans) -> None:
    run_requests(worker_app(make, spans, 3), "ada", "bob", "carol")
    assert spans.signed() == [("ada", "ada"), ("bob", None), ("carol", None)]


def test_such_jobs_are_not_in_the_trace_of_the_request_that_started_the_worker(spans: Spans) -> None:
    run_requests(worker_app(asyncio_queue, spans, 3), "ada", "bob", "carol")
    jobs = ("ada", "bob", "carol")
    assert len({spans.trace_of(job) for job in jobs}) == 3
    # A destination that gets all spans shows the traces as they are in the app.
    assert len({spans.trace_of(job, "all") for job in jobs}) == 1


def test_the_first_job_may_be_another_requests(spans: Spans) -> None:
    """The request that starts the worker puts nothing into the queue."""
    items: list[asyncio.Queue[str]] = []

    async def consume() -> None:
        spans.call_model(await items[0].get())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = await answer(scope, receive, send)
        if items:
            items[0].put_nowait(user)
        else:
            items.append(asyncio.Queue())
            app.task = asyncio.create_task(consume())  # type: ignore[attr-defined]

    run_requests(asgi.AttributionMiddleware(app), "ada", "bob")
    assert spans.signed() == [("bob", None)]


def test_a_block_that_the_worker_has_opened_counts(spans: Spans) -> None:
    items: list[asyncio.Queue[str]] = []

    async def consume() -> None:
        for _ in range(2):
            user = await items[0].get()
            with byline.bound(user_id=user):
                spans.call_model(user)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not items:
            items.append(asyncio.Queue())
            app.task = asyncio.create_task(consume())  # type: ignore[attr-defined]
        await items[0].put(await answer(scope, receive, send))

    run_requests(asgi.AttributionMiddleware(app), "ada", "bob")
    assert spans.signed() == [("ada", "ada"), ("bob", "bob")]


async def own_pipeline(pipe: Pipe, call: Callable[[str], None], user: str) -> None:
    """A producer and a consumer that the same request has left behind."""

    async def produce() -> None:
        for _ in range(3):
            await pipe.put(user)
            await asyncio.sleep(0)

    producer = asyncio.create_task(produce())
    for _ in range(3):
        call(await pipe.get())
    await producer


@every_queue
def test_a_queue_of_the_request_itself_changes_nothing(make: Callable[[], Pipe], spans: Spans) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = await answer(scope, receive, send)
        scope["tasks"] = asyncio.create_task(own_pipeline(make(), spans.call_model, user))

    run_requests(asgi.AttributionMiddleware(app), "ada", "bob")
    assert sorted(spans.signed()) == [("ada", "ada")] * 3 + [("bob", "bob")] * 3


POOLS: dict[str, Callable[[], Pipe]] = {
    "asyncio": lambda: asyncio_queue(asyncio.LifoQueue),
    "queue": lambda: thread_queue(queue.LifoQueue),
}


@pytest.mark.parametrize("make", POOLS.values(), ids=POOLS)
def test_a_pool_of_connections_changes_nothing(make: Callable[[], Pipe], spans: Spans) -> None:
    """The pool of asyncpg: requests put the connections back that others have used."""
    pools: list[Pipe] = []

    async def work(user: str) -> None:
        connection = await pools[0].get()
        await asyncio.sleep(0)
        spans.call_model(user)
        await pools[0].put(connection)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = await answer(scope, receive, send)
        if not pools:
            pools.append(make())
            await pools[0].put("connection")
        scope["tasks"] = asyncio.create_task(work(user))

    run_requests(asgi.AttributionMiddleware(app), "ada", "bob", "ada")
    assert sorted(spans.signed()) == [("ada", "ada"), ("ada", "ada"), ("bob", "bob")]


def test_answers_that_come_from_no_request_change_nothing(spans: Spans) -> None:
    """The receiving task of a client session puts each answer into the queue of the question."""
    questions: asyncio.Queue[asyncio.Queue[str]] = asyncio.Queue()

    async def session() -> None:
        for _ in range(2):
            (await questions.get()).put_nowait("answer")

    async def work(user: str) -> None:
        answers: asyncio.Queue[str] = asyncio.Queue()
        questions.put_nowait(answers)
        await answers.get()
        spans.call_model(user)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = await answer(scope, receive, send)
        scope["tasks"] = asyncio.create_task(work(user))

    async def with_session(scope: Any, receive: Any, send: Any) -> None:
        if not hasattr(with_session, "task"):
            with_session.task = asyncio.create_task(session())  # type: ignore[attr-defined]
        await asgi.AttributionMiddleware(app)(scope, receive, send)

    run_requests(with_session, "ada", "bob")
    assert spans.signed() == [("ada", "ada"), ("bob", "bob")]


def test_work_that_frameworks_and_apps_leave_behind_is_the_requests(spans: Spans) -> None:
    """Requests of others come between; none of this work takes an item from a queue."""

    async def later(job: str) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        spans.call_model(job)

    async def background(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok", background=BackgroundTask(later, "background"))

    async def task(request: Request) -> PlainTextResponse:
        request.app.state.task = asyncio.create_task(later("task"))
        return PlainTextResponse("ok")

    async def thread(request: Request) -> PlainTextResponse:
        request.app.state.task = asyncio.create_task(asyncio.to_thread(spans.call_model, "thread"))
        return PlainTextResponse("ok")

    async def stream(request: Request) -> StreamingResponse:
        async def chunks() -> Any:
            yield b"1"
            await later("stream")
            yield b"2"

        return StreamingResponse(chunks())

    handlers = {function.__name__: function for function in (background, task, thread, stream)}

    async def chat(request: Request) -> Any:
        await request.body()
        return await handlers[request.headers["x-user"]](request)

    app = asgi.AttributionMiddleware(Starlette(routes=[Route("/chat", chat, methods=["POST"])]))
    run_requests(app, *handlers)
    assert sorted(spans.signed()) == sorted((name, name) for name in handlers)


class NamedState(asyncio.Queue[Any]):
    """A queue of an app, with a member that anyio's streams have too."""

    def __init__(self) -> None:
        super().__init__()
        self._state = "open"


@pytest.mark.usefixtures("spans")
def test_a_queue_may_have_members_of_the_app() -> None:
    items = NamedState()
    with byline.bound(session_id="s-1"):
        items.put_nowait("job")
    assert items.get_nowait() == "job"


def test_the_classes_are_as_before_afterwards() -> None:
    methods = [
        (asyncio.Queue, "get"),
        (asyncio.Queue, "put_nowait"),
        (queue.Queue, "get"),
        (queue.Queue, "put"),
    ]
    before = [vars(owner)[name] for owner, name in methods]
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=(), queues=())
    assert asyncio.iscoroutinefunction(asyncio.Queue.get)
    assert all(vars(owner)[name] is not original for (owner, name), original in zip(methods, before, strict=True))
    byline.uninstrument()
    assert [vars(owner)[name] for owner, name in methods] == before
