"""Celery in one process, without a broker of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

import byline
from byline import request_context

celery = pytest.importorskip("celery")
signals = pytest.importorskip("celery.signals")
tracing = pytest.importorskip("celery.app.trace")


@pytest.fixture
def app() -> Iterator[Any]:
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=(), threads=False)
    with celery.Celery("tests", broker="memory://", set_as_current=False) as app:
        yield app
    byline.uninstrument()


def publish(app: Any, task: Any) -> dict[str, Any]:
    """Return the headers of a message that Celery publishes."""
    seen: list[dict[str, Any]] = []

    def look(headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers)

    signals.before_task_publish.connect(look, weak=False)
    try:
        task.delay()
    finally:
        signals.before_task_publish.disconnect(look)
    return seen[0]


def test_a_message_has_the_attribution_and_a_worker_runs_the_task_with_it(app: Any) -> None:
    @app.task
    def task() -> byline.Attribution:
        return byline.current()

    with byline.bound(user_id="ada"):
        headers = publish(app, task)
    assert byline.extract(headers).user_id == "ada"
    trace_task = tracing.build_tracer(task.name, task, app=app)
    request = {**headers, "id": "1", "is_eager": False, "delivery_info": {}}
    with byline.bound(user_id="the worker's own"):
        result = trace_task("1", (), {}, request)
        assert byline.current().user_id == "the worker's own"
    assert result.retval == byline.Attribution(user_id="ada")


def test_a_scheduled_task_is_nobodys(app: Any) -> None:
    @app.task
    def task() -> byline.Attribution:
        return byline.current()

    assert "x-byline" not in publish(app, task)
    trace_task = tracing.build_tracer(task.name, task, app=app)
    with byline.bound(user_id="the worker's own"):
        result = trace_task("1", (), {}, {"id": "1", "is_eager": False, "delivery_info": {}})
    assert result.retval == byline.Attribution()


def test_an_eager_task_is_part_of_its_request(app: Any) -> None:
    @app.task
    def task() -> Any:
        return request_context.current_context()

    with byline.bound(user_id="ada"):
        assert task.apply().get() is request_context.current_context()


def test_uninstrument_disconnects_the_signals(app: Any) -> None:
    def count() -> int:
        return sum(
            len(signal.receivers)
            for signal in (
                signals.before_task_publish,
                signals.task_prerun,
                signals.task_postrun,
                signals.worker_process_shutdown,
            )
        )

    byline.instrument(tracer_provider=TracerProvider(), destinations=[])
    before = count()
    byline.uninstrument()
    assert before - count() == 4
    byline.instrument(tracer_provider=TracerProvider(), destinations=[], clients=(), queues={"rq"})
    assert before - count() == 4
