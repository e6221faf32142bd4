"""The worker of a destination: one thread, which starts with the first span and has no request of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SpanExportResult

import byline
from byline import internal_metrics, request_context
from byline.export import OTLP, pipeline
from byline.genai.span_state import set_server_span
from byline.inbound.body import BodyBuffer
from byline.settings import SettingError
from byline.testing import Receiver
from tests.export.support import Memory, running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


def threads_of(label: str) -> list[str]:
    names = (f"byline-{label}", f"byline-spool-{label}")
    return sorted(thread.name for thread in threading.enumerate() if thread.name in names)


def test_a_destination_has_one_thread_from_its_first_span_on(receiver: Receiver) -> None:
    """A server that forks its workers before the first request forks no thread."""
    with running(OTLP(receiver.url, label="one")) as app:
        assert threads_of("one") == []
        for _ in range(3):
            app.chat()
        assert app.destinations[0].flush()
        assert threads_of("one") == ["byline-one"]
    assert threads_of("one") == []


def test_a_spool_has_one_more_thread(receiver: Receiver, tmp_path: Path) -> None:
    with running(OTLP(receiver.url, label="two", spool=tmp_path)) as app:
        app.chat()
        assert app.destinations[0].flush()
        assert threads_of("two") == ["byline-spool-two", "byline-two"]
    assert threads_of("two") == []


def test_ends_of_requests_take_no_place_of_spans(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue has as many places as spans, though the end of each request passes through the queue as well."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "40")
    receiver.hold()
    with running(OTLP(receiver.url, label="held", spans="llm")) as app:
        for number in range(50):
            with app.request(session_id=f"s-{number}"):
                app.chat()
        counted = internal_metrics.counter_values()
        receiver.release()
        assert app.destinations[0].flush()
    dropped = counted["held.spans.dropped.queue_full"]
    # One span may wait for the end of its request meanwhile, outside the queue.
    assert dropped in (9, 10)
    assert len(receiver.spans) == 50 - dropped


def test_functions_of_the_user_are_called_on_that_thread_outside_any_request(receiver: Receiver) -> None:
    """A slow function delays no request, and the request that starts the thread leaves no context there."""
    calls: list[tuple[str, Any, bool]] = []

    def select(span: Any) -> bool:
        current = trace.get_current_span().get_span_context().is_valid
        calls.append((threading.current_thread().name, byline.current().session_id, current))
        return bool(span.name != "left out")

    with running(OTLP(receiver.url, label="asked", spans=select)) as app:
        with app.request(session_id="s"):
            app.chat("sent")
            app.chat("left out")
        assert app.destinations[0].flush()
    assert sorted(span.name for span in receiver.spans) == ["POST /chat", "sent"]
    assert set(calls) == {("byline-asked", None, False)}


def test_a_flush_on_the_thread_itself_does_not_wait_for_itself(receiver: Receiver) -> None:
    results: list[bool] = []

    def flush(_: Any) -> bool:
        results.append(destination.flush())
        return True

    destination = OTLP(receiver.url, where=flush)
    with running(destination) as app:
        app.chat()
        assert destination.flush()
    assert results == [False]
    assert len(receiver.spans) == 1


def test_a_span_may_end_while_its_thread_holds_the_lock(receiver: Receiver) -> None:
    """As in a finalizer or a signal handler, which may run at any moment."""
    destination = OTLP(receiver.url)
    with running(destination) as app:
        with destination.processor().worker._lock:
            app.chat()
        assert destination.flush()
    assert len(receiver.spans) == 1


def test_spans_are_counted_if_no_time_is_left_to_prepare_them(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("byline.export.worker.SHUTDOWN_TIMEOUT", 0.0)
    with running(OTLP(receiver.url)) as app:
        for _ in range(3):
            app.chat()
    assert internal_metrics.counter_values()["otlp.spans.dropped.closed"] == 3
    assert receiver.spans == []


def test_fsync_is_true_or_false(tmp_path: Path) -> None:
    assert OTLP("https://collector.example", spool=tmp_path, fsync=True).options.fsync
    with pytest.raises(SettingError, match=r"byline\.E049"):
        OTLP("https://collector.example", fsync="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
@pytest.mark.usefixtures("production")
def test_a_function_of_the_user_that_wants_to_end_the_thread_costs_one_span(error: type[BaseException]) -> None:
    """``sys.exit()``, or a cancelled event loop of its own: the other spans of the batch are sent."""

    def select(span: Any) -> bool:
        if span.name == "bad":
            raise error
        return True

    memory = Memory(spans=select)
    with running(memory) as app:
        for name in ("first", "bad", "last"):
            app.chat(name)
        assert memory.flush()
    assert memory.names == ["first", "last"]
    assert internal_metrics.counter_values()["errors.spans"] == 1


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError])
@pytest.mark.usefixtures("production")
def test_the_spans_of_an_exporter_that_wants_to_end_the_thread_are_counted(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(_: Any) -> SpanExportResult:
        raise error

    memory = Memory()
    monkeypatch.setattr(memory.kept, "export", export)
    with running(memory) as app:
        app.chat()
        assert not memory.flush()
    assert internal_metrics.counter_values()["destination.spans.dropped.unsent"] == 1


@pytest.mark.usefixtures("production")
def test_an_exporter_that_fails_to_shut_down_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError

    memory = Memory()
    monkeypatch.setattr(memory.kept, "shutdown", fail)
    with running(memory) as app:
        app.chat()
    assert memory.names == ["chat gpt-4o"]
    assert internal_metrics.counter_values()["errors.exporter"] == 1


@pytest.mark.usefixtures("production")
def test_spans_are_sent_although_nobody_can_tell_whether_they_have_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> bool:
        raise LookupError

    monkeypatch.setattr(pipeline, "is_provisional", fail)
    memory = Memory()
    with running(memory) as app:
        app.chat()
        assert memory.flush()
        assert memory.names == ["chat gpt-4o"]


def test_a_child_process_calls_no_function_of_the_user_when_it_starts() -> None:
    """Another thread of the parent may hold a lock that the function takes."""
    asked: list[str] = []

    def select(span: Any) -> bool:
        asked.append(span.name)
        return True

    memory = Memory(spans=select)
    body = BodyBuffer(1000, None, lambda _: (True, None), {})
    with running(memory) as app, app.request():
        context = request_context.current_context()
        assert context is not None
        # The span waits for the body of its request.
        context.body = body
        set_server_span(context, trace.get_current_span())
        app.chat()
        memory.flush()
        assert asked == []
        memory.processor().worker.after_fork()
        assert asked == []


def test_a_second_shutdown_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second may be that of the interpreter, which exits afterwards."""
    memory, is_sending, go_on = Memory(), threading.Event(), threading.Event()
    export = memory.kept.export

    def wait(spans: Any) -> Any:
        is_sending.set()
        assert go_on.wait(60)
        return export(spans)

    monkeypatch.setattr(memory.kept, "export", wait)
    with running(memory) as app:
        app.chat("chat")
        worker = memory.processor().worker
        first, second = [threading.Thread(target=worker.shutdown) for _ in range(2)]
        first.start()
        assert is_sending.wait(60)
        thread = worker._thread
        assert thread is not None
        join = thread.join

        def go_on_and_join(timeout: float | None = None) -> None:
            go_on.set()
            join(timeout)

        monkeypatch.setattr(thread, "join", go_on_and_join)
        second.start()
        second.join()
        sent = memory.names
        go_on.set()
        first.join()
    assert sent == ["chat"]
