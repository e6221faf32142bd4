"""Which request a span, a call and a server span belong to, if several requests run in one process or one task."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context

import byline
from byline import request_context
from byline.asgi import AttributionMiddleware
from byline.gateways import LiteLLM
from byline.genai.record_result import genai_util_attributes
from tests.export.support import AGENT, CHAT
from tests.support import Sent, claim, run_asgi, tracer

Finished = Callable[[], Sequence[ReadableSpan]]


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


class Invocation:
    """The current invocation of OpenTelemetry's GenAI utilities, as far as byline looks at it."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}


@pytest.mark.newest
def test_invocation_of_an_outer_request_is_not_that_of_an_inner_one(finished: Finished) -> None:
    """The inner request runs in the OpenTelemetry context of the outer one."""
    from opentelemetry.util.genai.invocation import CLIENT_INFERENCE_CONTEXT_KEY

    invocation, found = Invocation(), []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        found.append(genai_util_attributes())
        await answer(send)

    def in_thread(context: Any) -> None:
        otel_context.attach(context)
        found.append(genai_util_attributes())

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span("chat", attributes=CHAT):
            token = otel_context.attach(otel_context.set_value(CLIENT_INFERENCE_CONTEXT_KEY, invocation))
            found.append(genai_util_attributes())
            # A thread that OpenTelemetry's context alone was carried to is still within the invocation.
            arguments = (in_thread, otel_context.get_current())
            thread = threading.Thread(target=contextvars.Context().run, args=arguments)
            thread.start()
            thread.join()
            for app_span in (True, False):
                await run_asgi(AttributionMiddleware(inner, app_span=app_span), Sent())
            otel_context.detach(token)
        await answer(send)

    asyncio.run(run_asgi(AttributionMiddleware(outer), claim({})))
    assert found == [invocation.attributes, invocation.attributes, None, None]


def post(app: Any, session: str, **settings: Any) -> Any:
    """Return a coroutine that sends a request to an app behind the middleware."""
    sent = claim({}, headers=[("x-session-id", session)])
    return run_asgi(AttributionMiddleware(app, **settings), sent)


def sessions(finished: Finished) -> list[Any]:
    return [(span.attributes or {}).get("session.id") for span in finished() if span.name == "chat"]


def run_worker(job: Callable[[Any], None], *, waits: bool) -> Any:
    """Return a coroutine of two requests: the first starts a worker, which does a job for each of them.

    Args:
        job: Called with the OpenTelemetry context in which the job was queued.
        waits: Whether each request waits for its job, else the job is done after the response.
    """

    async def main() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []

        async def consume() -> None:
            while True:
                job(await queue.get())
                queue.task_done()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if not tasks:
                tasks.append(asyncio.create_task(consume()))
            if waits:
                queue.put_nowait(otel_context.get_current())
                await queue.join()
            await answer(send)

        for session in ("alice", "bob"):
            await asyncio.create_task(post(app, session))
            if not waits:
                queue.put_nowait(None)
                await queue.join()
        tasks[0].cancel()

    return main()


def test_worker_that_attaches_the_opentelemetry_context_of_each_job(finished: Finished) -> None:
    def job(context: Any) -> None:
        token = otel_context.attach(context)
        tracer.start_span("chat", attributes=CHAT).end()
        otel_context.detach(token)

    asyncio.run(run_worker(job, waits=True))
    assert sessions(finished) == ["alice", "bob"]


def test_worker_that_starts_a_trace_for_each_job_after_the_response(finished: Finished) -> None:
    """Neither the trace nor the time says that the job is one of the request that started the worker."""

    def job(_: Any) -> None:
        with tracer.start_as_current_span("job", context=otel_context.Context()):
            tracer.start_span("chat", attributes=CHAT).end()
            with byline.bound(user_id="job's"):
                assert byline.current() == byline.Attribution(user_id="job's")
                tracer.start_span("bound", attributes=CHAT).end()

    asyncio.run(run_worker(job, waits=False))
    assert sessions(finished) == [None, None]
    users = [(span.attributes or {}).get("user.id") for span in finished() if span.name == "bound"]
    assert users == ["job's", "job's"]


def test_worker_that_continues_the_trace_of_each_message_after_the_response(finished: Finished) -> None:
    remote = SpanContext(0xA, 0xB, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def job(_: Any) -> None:
        token = otel_context.attach(set_span_in_context(NonRecordingSpan(remote)))
        tracer.start_span("chat", attributes=CHAT).end()
        with byline.bound(session_id="job's"):
            tracer.start_span("chat", attributes=CHAT).end()
        otel_context.detach(token)

    asyncio.run(run_worker(job, waits=False))
    assert sessions(finished) == [None, "job's", None, "job's"]


def test_background_work_within_the_request_may_have_a_trace_of_its_own(finished: Finished) -> None:
    """Frameworks run background tasks after the response, and before the end of the app's call."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send)
        with tracer.start_as_current_span("task", context=otel_context.Context()):
            tracer.start_span("chat", attributes=CHAT).end()

    asyncio.run(post(app, "alice"))
    assert sessions(finished) == ["alice"]


@pytest.mark.parametrize("after_response", [0.0, 300.0])
def test_thread_with_the_context_of_opentelemetry_alone_is_attributed_for_the_same_time(
    after_response: float, finished: Finished
) -> None:
    """Nothing is kept of the request then, unless a destination gets its spans."""
    contexts = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        span = tracer.start_span("agent", attributes=AGENT)
        contexts.append(set_span_in_context(span))
        # As if the request had taken place long ago.
        span.end(end_time=time.time_ns() - int(100e9))
        await answer(send)

    def work() -> None:
        otel_context.attach(contexts[0])
        tracer.start_span("chat", attributes=CHAT).end()

    asyncio.run(post(app, "alice", after_response=after_response))
    contextvars.Context().run(work)
    assert sessions(finished) == [None if after_response == 0 else "alice"]


def test_request_within_a_thread_with_the_context_of_opentelemetry_alone(finished: Finished) -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        tracer.start_span("chat", attributes=CHAT).end()
        await answer(send)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        context = otel_context.get_current()

        def work() -> None:
            otel_context.attach(context)
            asyncio.run(post(inner, "inner", app_span=False))

        await asyncio.to_thread(contextvars.Context().run, work)
        await answer(send)

    asyncio.run(post(outer, "outer"))
    assert sessions(finished) == ["inner"]


def test_server_span_of_an_inner_request_is_not_that_of_an_outer_one_without_any(finished: Finished) -> None:
    async def main() -> None:
        is_open, is_done = asyncio.Event(), asyncio.Event()

        async def inner(scope: Any, receive: Any, send: Any) -> None:
            is_open.set()
            await is_done.wait()
            await answer(send)

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            task = asyncio.create_task(run_asgi(AttributionMiddleware(inner), Sent()))
            await is_open.wait()
            context = request_context.current_context()
            assert context is not None
            context.totals.add(input_tokens=3)
            tracer.start_span("chat", attributes=CHAT).end()
            is_done.set()
            await task
            await answer(send)

        await post(outer, "outer", app_span=False)

    asyncio.run(main())
    assert sessions(finished) == ["outer"]
    (server,) = [span for span in finished() if span.kind is SpanKind.SERVER]
    assert not {"session.id", "byline.llm.calls"} & (server.attributes or {}).keys()


@pytest.mark.parametrize("llm_spans", [True, False])
def test_gateway_gets_the_ids_of_the_request_of_each_job(llm_spans: bool, finished: Finished) -> None:
    """Whether the call has an LLM span or not."""
    sent: list[str | None] = []

    def reply(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("x-litellm-session-id"))
        return httpx.Response(200, json={"id": "r", "model": "gpt-4o", "choices": []})

    client = httpx.Client(transport=httpx.MockTransport(reply))

    def job(context: Any) -> None:
        token = otel_context.attach(context)
        client.post("http://llm.internal/v1/chat/completions", json={"model": "gpt-4o", "messages": []})
        otel_context.detach(token)

    byline.instrument(
        destinations=[], gateways=[LiteLLM("http://llm.internal")], clients={"httpx"}, llm_spans=llm_spans
    )
    asyncio.run(run_worker(job, waits=True))
    byline.uninstrument()
    assert sent == ["alice", "bob"]
