"""Contexts, forks, garbage collection and unusual arguments."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import json
import os
import sys
import threading
from typing import Any

import aiohttp
import httpx2
import pytest
from opentelemetry import trace

import byline
from byline import deferred, internal_metrics
from byline.genai.call_results import results
from byline.testing import Gateway
from tests.http.conftest import Finished

CHAT: Any = {"model": "openai/gpt-4o", "messages": [{"role": "user", "content": "Who wrote this?"}]}


def url_of(gateway: Gateway) -> str:
    return f"{gateway.base_url}/chat/completions"


def test_all_deferred_work_is_run(finished: Finished, gateway: Gateway) -> None:
    """Each piece ends a span, which looks for work itself; none of it in the context of a request."""
    client = httpx2.Client()
    request = client.build_request("POST", url_of(gateway), json={**CHAT, "stream": True})
    streams = [client.send(request, stream=True) for _ in range(3)]
    seen: list[Any] = []
    for _ in range(2000):
        deferred.defer(lambda: seen.append(byline.current().session_id))
    del streams
    with byline.bound(session_id="s-1"):
        byline.stats()
    assert seen == [None] * 2000
    client.close()


def test_a_call_that_is_closed_in_another_context_is_no_error(gateway: Gateway, finished: Finished) -> None:
    """As by the collector, when a loop goes with tasks under way."""
    sent: list[Any] = []

    class Never(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            sent.append(request)
            await _forever()
            raise AssertionError

    client = httpx2.AsyncClient(transport=Never())
    coroutine = client.post("https://openrouter.ai/api/v1/chat/completions", json=CHAT)
    contextvars.copy_context().run(coroutine.send, None)
    contextvars.Context().run(coroutine.close)
    assert sent
    assert len(finished()) == 1


def test_a_stream_that_the_collector_closes_takes_no_lock(gateway: Gateway, finished: Finished) -> None:
    """Also if the app has begun to read, and the collector interrupts code that holds the lock of the results."""
    client = httpx2.Client()
    request = client.build_request("POST", url_of(gateway), json={**CHAT, "stream": True})
    response = client.send(request, stream=True)
    chunks = response.iter_raw()
    while b"{" not in next(chunks):
        pass
    garbage: list[Any] = [response, chunks]
    garbage.append(garbage)
    del response, chunks, garbage
    ended = len(finished())
    is_free: list[bool] = []
    # In a module of byline's, as the collector would.
    code = "gc.collect(); is_free.append(len(finished()) == ended)"
    exec(code, {"__name__": "byline.genai.call_results", "gc": gc, **locals()})
    assert is_free == [True]
    byline.stats()
    (span,) = finished()
    assert (span.attributes or {})["byline.stream.cut"] == "app"
    client.close()


class _Forever:
    def __await__(self) -> Any:
        yield


def _forever() -> _Forever:
    return _Forever()


def _locks() -> dict[str, Any]:
    """The locks of all modules, and none for each request."""
    locks: dict[str, Any] = {
        f"{name}.{each}": value
        for name, module in sys.modules.items()
        if name.startswith("byline.") and not name.startswith("byline.testing")
        for each, value in vars(module).items()
        if isinstance(value, (type(threading.Lock()), type(threading.RLock())))
    }
    assert {"byline.request_context._lock", "byline.http.llm_request._end_lock"} <= locks.keys()
    return {**locks, "results": results._lock, "counters": internal_metrics._metrics._lock}


def test_a_lock_does_not_stop_the_thread_that_holds_it() -> None:
    """An instrumentation's span may end in a finalizer or signal handler, while its thread runs code of byline's."""
    locks = _locks()
    with contextlib.ExitStack() as held:
        for lock in locks.values():
            held.enter_context(lock)
        stopped = []
        for name, lock in locks.items():
            if lock.acquire(blocking=False):
                lock.release()
            else:
                stopped.append(name)
    assert stopped == []


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_no_lock_that_is_held_at_a_fork_is_held_in_the_child() -> None:
    """The thread that held the lock does not exist in the child."""
    locks = _locks()
    with contextlib.ExitStack() as held:
        for lock in locks.values():
            held.enter_context(lock)
        child = os.fork()
        if child == 0:
            os._exit(sum(lock._is_owned() for lock in locks.values()))
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_deferred_work_of_the_parent_is_not_run_in_a_child() -> None:
    done: list[int] = []
    deferred.defer(lambda: done.append(os.getpid()))
    child = os.fork()
    if child == 0:
        byline.stats()
        os._exit(len(done))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    byline.stats()
    assert done == [os.getpid()]


def test_second_call_does_not_change_the_result_of_an_answered_span(gateway: Gateway, finished: Finished) -> None:
    """A retry follows a failure; after a success there is another call."""
    tracer = trace.get_tracer("openlit.x")
    with (
        tracer.start_as_current_span("chat", attributes={"gen_ai.operation.name": "chat"}) as outer,
        httpx2.Client() as client,
    ):
        client.post(url_of(gateway), json=CHAT)
        client.post(url_of(gateway), json={**CHAT, "model": "other/model"})
    own, span = finished()
    assert (span.attributes or {})["gen_ai.request.model"] == "openai/gpt-4o"
    assert (own.attributes or {})["gen_ai.request.model"] == "other/model"
    assert own.parent == outer.get_span_context()


def test_span_that_is_never_current_gets_its_result_within_a_tool_span(gateway: Gateway, finished: Finished) -> None:
    """One right below it; a span of before is another call's."""
    tracer = trace.get_tracer("app")
    with (
        tracer.start_as_current_span("tool", attributes={"gen_ai.operation.name": "execute_tool"}),
        httpx2.Client() as client,
    ):
        span = tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"})
        client.post(url_of(gateway), json=CHAT)
        span.end()
    chat, tool = finished()
    assert (chat.attributes or {})["gen_ai.usage.output_tokens"]
    assert "gen_ai.usage.output_tokens" not in (tool.attributes or {})


@pytest.mark.parametrize(
    "options",
    [
        {"json": CHAT, "data": {"a": "b"}},
        {"json": CHAT, "headers": 5},
        {"json": CHAT, "headers": [("A",)]},
        {"json": {1, 2}},
    ],
    ids=str,
)
def test_errors_of_aiohttp_are_unchanged(options: dict[str, Any], gateway: Gateway) -> None:
    """With its own errors."""

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await session.post(url_of(gateway), **options)

    with pytest.raises((TypeError, ValueError)) as caught:
        asyncio.run(ask())
    assert "byline" not in str(caught.traceback[-1].path)


@pytest.mark.parametrize("url", [5, "http://h:99999/v1/chat/completions"])
@pytest.mark.usefixtures("gateway")
def test_aiohttp_refuses_odd_urls(url: Any) -> None:
    """With its own errors."""

    async def ask() -> None:
        async with aiohttp.ClientSession() as session:
            await session.post(url, json=CHAT)

    with pytest.raises((TypeError, ValueError, aiohttp.ClientError)):
        asyncio.run(ask())


def test_a_redirect_of_aiohttp_that_turns_into_a_get_has_no_body(gateway: Gateway) -> None:
    """Nor the ids."""

    async def ask() -> None:
        async with aiohttp.ClientSession() as session, session.post(url_of(gateway), json=CHAT) as answer:
            await answer.read()

    gateway.answer(b"", status=303, headers={"location": f"{gateway.base_url}/models"})
    with byline.bound(session_id="s-1", user_id="ada"):
        asyncio.run(ask())
    first, second = gateway.requests
    assert json.loads(first.body)["user"] == "ada"
    assert first.headers["content-type"] == "application/json"
    assert (second.method, second.body) == ("GET", b"")
    assert "x-session-id" not in second.headers


def test_hook_that_reads_the_body_leaves_no_call_open(gateway: Gateway, finished: Finished) -> None:
    """Byline has not seen the body that the hook read."""

    def drain(response: httpx2.Response) -> None:
        for _ in response.iter_raw():
            pass

    with (
        httpx2.Client(event_hooks={"response": [drain]}) as client,
        pytest.raises(httpx2.ResponseNotRead),
        client.stream("POST", url_of(gateway), json=CHAT) as response,
    ):
        assert response.content
    assert len(finished()) == 1
