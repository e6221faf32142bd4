"""Threads, timers and thread pools work for the request that starts them, with OpenTelemetry's instrumentation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import byline

Seen = tuple[str | None, int]


def seen() -> Seen:
    return byline.current().user_id, trace.get_current_span().get_span_context().span_id


class Worker(threading.Thread):
    """A subclass with a method ``run`` of its own, as many libraries have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Seen | None = None

    def run(self) -> None:
        self.found = seen()


def in_thread() -> Seen:
    found: list[Seen] = []
    thread = threading.Thread(target=lambda: found.append(seen()))
    thread.start()
    thread.join()
    return found[0]


def in_timer() -> Seen:
    found: list[Seen] = []
    timer = threading.Timer(0, lambda: found.append(seen()))
    timer.start()
    timer.join()
    return found[0]


def in_pool() -> Seen:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(seen).result()


def in_executor() -> Seen:
    async def run() -> Seen:
        return await asyncio.get_running_loop().run_in_executor(None, seen)

    return asyncio.run(run())


WAYS: dict[str, Callable[[], Seen]] = {
    "Thread": in_thread,
    "Timer": in_timer,
    "ThreadPoolExecutor": in_pool,
    "run_in_executor": in_executor,
}


@pytest.fixture
def tracer() -> Iterator[trace.Tracer]:
    provider = TracerProvider()
    yield provider.get_tracer("t")
    byline.uninstrument()
    assert not ThreadingInstrumentor().is_instrumented_by_opentelemetry


@pytest.mark.parametrize("way", WAYS)
def test_work_of_a_request_in_other_threads(way: str, tracer: trace.Tracer) -> None:
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=())
    with tracer.start_as_current_span("request") as span, byline.bound(user_id="ada"):
        assert WAYS[way]() == ("ada", span.get_span_context().span_id)
    assert WAYS[way]() == (None, 0)


def test_a_subclass_with_its_own_run_and_nothing_left_on_it(tracer: trace.Tracer) -> None:
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=())
    worker = Worker()
    with byline.bound(user_id="ada"):
        worker.start()
    worker.join()
    assert worker.found is not None
    assert worker.found[0] == "ada"
    assert "run" not in vars(worker)


def test_the_threads_of_a_pool_belong_to_no_request(tracer: trace.Tracer) -> None:
    """Each job has the request that submits it, or none."""
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=())
    with ThreadPoolExecutor(1) as pool:
        users: list[str | None] = ["ada", None, "bob", None]
        found = []
        for user in users:
            if user is None:
                found.append(pool.submit(seen).result()[0])
            else:
                with byline.bound(user_id=user):
                    found.append(pool.submit(seen).result()[0])
    assert found == users


def test_an_instrumentation_of_the_app_stays(tracer: trace.Tracer) -> None:
    ThreadingInstrumentor().instrument()
    try:
        byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=())
        byline.uninstrument()
        assert ThreadingInstrumentor().is_instrumented_by_opentelemetry
    finally:
        ThreadingInstrumentor().uninstrument()


def test_threads_can_be_left_alone(tracer: trace.Tracer) -> None:
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=(), threads=False)
    with byline.bound(user_id="ada"):
        assert in_thread() == (None, 0)


@pytest.mark.parametrize(
    ("arguments", "identifier"),
    [({"threads": "no"}, "E134"), ({"queues": ["kafka"]}, "E133"), ({"queues": "celery"}, "E133")],
)
def test_wrong_settings_change_nothing(arguments: dict[str, Any], identifier: str) -> None:
    start = threading.Thread.start
    with pytest.raises(byline.SettingError, match=rf"byline\.{identifier}"):
        byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=(), **arguments)
    assert threading.Thread.start is start
