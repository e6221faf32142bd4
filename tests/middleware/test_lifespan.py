"""The lifespan passes message by message; at its end, queued spans are sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from anyio import create_task_group, to_thread

from byline import shutdown
from byline.asgi import AttributionMiddleware

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}
STARTED, STOPPED = {"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """The events in their order, pauses included."""
    found: list[Any] = []
    shutdown.hooks.register(on_server_stop=lambda: found.append("paused"), on_exit=lambda: None)
    yield found
    shutdown.hooks.clear()


def live(app: Any, log: list[Any]) -> None:
    messages = iter([STARTUP, SHUTDOWN])

    async def receive() -> Any:
        message = next(messages)
        log.append(message)
        return message

    async def send(message: Any) -> None:
        log.append(message)

    asyncio.run(AttributionMiddleware(app)({"type": "lifespan"}, receive, send))


async def well_behaved(scope: Any, receive: Any, send: Any) -> None:
    assert await receive() == STARTUP
    await send(STARTED)
    assert await receive() == SHUTDOWN
    await send(STOPPED)


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("only HTTP")


@pytest.mark.parametrize("app", [well_behaved, without_lifespan])
def test_queued_spans_are_sent_after_the_apps_shutdown(app: Any, log: list[Any]) -> None:
    live(app, log)
    assert log == [STARTUP, STARTED, SHUTDOWN, "paused", STOPPED]


async def failing_at_the_end(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(STARTED)
    await receive()
    raise ValueError("cannot close")


def test_queued_spans_are_sent_if_the_app_fails_at_its_shutdown(log: list[Any]) -> None:
    with pytest.raises(ValueError, match="cannot close"):
        live(failing_at_the_end, log)
    assert log == [STARTUP, STARTED, SHUTDOWN, "paused"]


def test_an_app_that_fails_in_its_lifespan_fails_as_ever(log: list[Any]) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise ValueError("no database")

    with pytest.raises(ValueError, match="no database"):
        live(failing, log)
    assert log == [STARTUP]


def test_no_lifespan_is_simulated_without_destinations() -> None:
    with pytest.raises(ValueError, match="only HTTP"):
        live(without_lifespan, [])


def test_a_farewell_that_fails_does_not_keep_the_server_from_ending(production: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("with a prompt in it")

    shutdown.hooks.register(on_server_stop=fail, on_exit=fail)
    log: list[Any] = []
    try:
        live(well_behaved, log)
        shutdown.hooks.on_exit()
    finally:
        shutdown.hooks.clear()
    assert log[-1] == STOPPED
    assert "prompt" not in production.text


def test_threads_of_the_app_that_are_all_in_use_do_not_hold_up_the_end(log: list[Any]) -> None:
    """Such as requests that wait for a model after their client is gone."""
    over = threading.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(STARTED)
        limit = to_thread.current_default_thread_limiter()
        limit.total_tokens = 1
        async with create_task_group() as group:
            group.start_soon(to_thread.run_sync, over.wait, 60.0)
            while limit.available_tokens:
                await asyncio.sleep(0)
            await receive()
            await asyncio.wait_for(send(STOPPED), 10)
            over.set()

    try:
        live(busy, log)
    finally:
        over.set()
    assert log == [STARTUP, STARTED, SHUTDOWN, "paused", STOPPED]
