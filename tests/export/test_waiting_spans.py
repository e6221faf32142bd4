"""Spans that wait for a second one of their request are in the spool as well, in case their process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from byline import internal_metrics
from byline.destinations import Langfuse
from byline.export.delivery import waiting_spans
from byline.export.delivery.store import DiskStore
from byline.export.delivery.waiting_spans import WaitingSpans
from byline.testing import Receiver
from tests.export.support import CHAT, App, running

pytestmark = [
    pytest.mark.usefixtures("no_settings"),
    pytest.mark.skipif(os.name != "posix", reason="needs locks of files"),
]

KEYS = ("pk-lf-1", "sk-lf-1")
QUESTION = '[{"role": "user", "parts": [{"type": "text", "content": "Who?"}]}]'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(keys=KEYS) as started:
        yield started


def copies(spool: Path) -> list[Path]:
    # A file that is being written begins with a dot.
    return [path for path in spool.rglob("waiting-*/*.otlp") if not path.name.startswith(".")]


def batches(spool: Path) -> list[Path]:
    return [path for path in spool.rglob("*.otlp") if not path.parent.name.startswith("waiting-")]


def of(spool: Path) -> WaitingSpans:
    return WaitingSpans(spool, "test", partial(DiskStore, name="test"))


def spans(count: int) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for number in range(count):
        provider.get_tracer("t").start_span(f"chat {number}", attributes=CHAT).end()
    return list(exporter.get_finished_spans())


def same(span: ReadableSpan) -> ReadableSpan:
    return span


def test_a_copy_lives_as_long_as_its_span_waits(tmp_path: Path) -> None:
    """Each span has one copy, which goes with the span."""
    first, second = spans(2)
    waiting = of(tmp_path)
    waiting.update([first], same)
    waiting.update([first, second], same)
    assert len(copies(tmp_path)) == 2
    waiting.update([second], same)
    assert len(copies(tmp_path)) == 1
    waiting.close()
    assert list(tmp_path.iterdir()) == []


def test_copies_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    """They become batches once its lock is free."""
    alive = of(tmp_path)
    alive.update(spans(2), same)
    other = of(tmp_path)
    assert other.recover() == 0
    assert alive.recover() == 0
    # The end of a process closes its files.
    assert alive._lock is not None
    os.close(alive._lock)
    assert other.recover() == 2
    assert (len(copies(tmp_path)), len(batches(tmp_path))) == (0, 2)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.integration
def test_a_child_process_leaves_them_to_its_parent(tmp_path: Path) -> None:
    """The lock stays with the parent."""
    parent = of(tmp_path)
    parent.update(spans(1), same)
    child = os.fork()
    if child == 0:
        parent.after_fork()
        parent.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(copies(tmp_path)) == 1
    assert of(tmp_path).recover() == 0
    parent.close()


def test_without_locks_there_are_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could tell whether the process lives."""
    monkeypatch.setattr(waiting_spans, "try_lock", lambda _: False)
    waiting = of(tmp_path)
    for _ in range(2):
        waiting.update(spans(1), same)
    assert list(tmp_path.iterdir()) == []
    assert internal_metrics.counter_values()["test.spool.failed"] == 1


@pytest.mark.integration
@pytest.mark.parametrize("killed_in", ["os.open", "try_lock", "Path.rename"])
def test_the_folder_of_a_process_that_was_killed_before_it_had_the_lock_is_removed(
    tmp_path: Path, killed_in: str
) -> None:
    """Not at once: another process may be making it."""
    child = os.fork()
    if child == 0:
        owner, _, name = killed_in.rpartition(".")
        setattr(vars(waiting_spans)[owner] if owner else waiting_spans, name, lambda *_: os._exit(0))
        of(tmp_path).update(spans(1), same)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    (left,) = tmp_path.iterdir()
    assert of(tmp_path).recover() == 0
    assert left.is_dir()
    os.utime(left, (0, 0))
    assert of(tmp_path).recover() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_lock_but_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / f"waiting-1-{'0' * 16}"
    folder.mkdir()
    (folder / "something").write_text("of somebody else")
    os.utime(folder, (0, 0))
    assert of(tmp_path).recover() == 0
    assert (folder / "something").exists()


def test_an_error_while_the_folder_is_made_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a full disk. The next span tries again."""
    waiting = of(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(waiting_spans, "_NEW_LOCK", "missing/lock")
        waiting.update(first := spans(3), same)
        assert list(tmp_path.iterdir()) == []
        assert internal_metrics.counter_values()["test.spool.failed"] == 3
    waiting.update([*first, *spans(1)], same)
    assert len(copies(tmp_path)) == 1
    waiting.close()


def test_copies_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further spans wait in memory alone."""
    monkeypatch.setattr(waiting_spans, "_MAX_BYTES", 700)
    waiting = of(tmp_path)
    waiting.update(spans(20), same)
    assert 0 < len(copies(tmp_path)) < 20
    waiting.close()


def test_a_span_without_a_copy_is_finished_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in each pass, because that takes CPU, and calls the app's masks, for every span that waits."""
    monkeypatch.setattr(waiting_spans, "_MAX_BYTES", 700)
    finished: list[ReadableSpan] = []

    def finish(span: ReadableSpan) -> ReadableSpan | None:
        finished.append(span)
        return None if len(finished) == 1 else span

    waiting, waits = of(tmp_path), spans(20)
    for _ in range(3):
        waiting.update(waits, finish)
    assert finished == waits
    waiting.update([], finish)
    assert copies(tmp_path) == []
    waiting.update(waits[:1], finish)
    assert len(copies(tmp_path)) == 1
    waiting.close()


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    """Links lead out of the spool."""
    elsewhere = tmp_path / "elsewhere"
    spool = tmp_path / "spool"
    spool.mkdir()
    of(elsewhere).update(spans(1), same)
    (folder,) = elsewhere.iterdir()
    (spool / folder.name).symlink_to(folder)
    assert of(spool).recover() == 0
    assert len(copies(elsewhere)) == 1


def test_the_first_call_of_a_request(tmp_path: Path, receiver: Receiver) -> None:
    """Its copy is on disk while the call waits, and gone with the end of the request."""
    with running(Langfuse(*KEYS, receiver.url, spool=tmp_path)) as app:
        worker = app.destinations[0].processor().worker
        with app.request():
            app.chat("call", **{"gen_ai.input.messages": QUESTION})
            worker._make_pass([])
            worker._prepare_queued(1, sends=False)
            worker._make_pass([])
            assert len(copies(tmp_path)) == 1
            assert receiver.spans == []
        assert app.destinations[0].flush()
        assert copies(tmp_path) == []
        (span,) = receiver.spans
        assert span.name == "call"


KILLED = """
import sys, time
from byline.destinations import Langfuse
from tests.export.support import App
app = App(Langfuse("pk-lf-1", "sk-lf-1", sys.argv[1], spool=sys.argv[2]))
with app.request(session_id="s-1"):
    app.chat("call", **{"gen_ai.input.messages": sys.argv[3]})
    print("waits", flush=True)
    time.sleep(600)
"""


@pytest.mark.integration
def test_a_killed_process(tmp_path: Path, receiver: Receiver) -> None:
    """The next process sends the call that waited, as a root of its own with its question."""
    command = [sys.executable, "-c", KILLED, receiver.url, str(tmp_path), QUESTION]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        while not copies(tmp_path):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert receiver.spans == []
    app = App(Langfuse(*KEYS, receiver.url, spool=tmp_path))
    (span,) = receiver.wait_for(1)
    app.close()
    assert (span.name, span.parent_id, span.attributes["session.id"]) == ("call", None, "s-1")
    assert "Who?" in span.attributes["langfuse.observation.input"]
    assert (copies(tmp_path), batches(tmp_path)) == ([], [])
