"""The spool: spans that a destination does not accept wait on disk, past the end of the process, and arrive once."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import byline
from byline import internal_metrics
from byline.export import OTLP, Langfuse
from byline.export.delivery.batch import Batch
from byline.export.delivery.batch_sender import BatchSender
from byline.export.delivery.store import DiskStore
from byline.testing import Receiver
from tests.export.batches import make_batch, make_spans
from tests.export.support import App, running
from tests.export.test_delivery import spans_of


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_accepted_batches_leave_no_files(receiver: Receiver, tmp_path: Path) -> None:
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        for _ in range(3):
            app.chat()
            assert destination.flush()
    assert len(receiver.spans) == 3
    assert files(tmp_path) == []
    assert spans_of("otlp") == {"spooled": 3, "sent": 3}


@pytest.mark.parametrize("status", [429, 500, 503, 0])
def test_spool_is_sent_when_the_destination_is_back(receiver: Receiver, tmp_path: Path, status: int) -> None:
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        receiver.fail(status, times=None)
        for number in range(3):
            app.chat(f"chat {number}")
            assert not destination.flush()
        assert len(files(tmp_path)) == 3
        receiver.recover()
        assert destination.flush()
    assert [span.name for span in receiver.spans] == ["chat 0", "chat 1", "chat 2"]
    assert spans_of("otlp") == {"spooled": 3, "sent": 3}


def test_spool_is_sent_without_a_flush(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a flush and without new spans; the server's Retry-After is respected."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        receiver.fail(429, headers={"retry-after": "1"})
        started = time.monotonic()
        app.chat()
        receiver.wait_for(1, timeout=120)
        assert time.monotonic() - started >= 0.9


def test_next_process_sends_the_spool_of_the_last_process(receiver: Receiver, tmp_path: Path) -> None:
    receiver.stop()
    with running(OTLP(receiver.url, spool=tmp_path)) as app:
        app.chat("before")
    assert len(files(tmp_path)) == 1
    receiver.start()
    with running(OTLP(receiver.url, spool=tmp_path)):
        receiver.wait_for(1)
    assert [span.name for span in receiver.spans] == ["before"]
    assert files(tmp_path) == []


def test_a_refusal_of_the_keys_loses_nothing(
    receiver: Receiver, tmp_path: Path, production: pytest.LogCaptureFixture
) -> None:
    """It is said once, and sent once the keys are right: with a label, by a process that has others."""
    receiver.keys = ("pk-lf-right", "sk-lf-right")
    with running(Langfuse("pk-lf-wrong", "sk-lf-wrong", receiver.url, spool=tmp_path, label="main")) as app:
        for _ in range(2):
            app.chat()
            app.destinations[0].flush()
    assert production.text.count("byline.E057") == 1
    assert len(files(tmp_path)) == 2
    with running(Langfuse("pk-lf-right", "sk-lf-right", receiver.url, spool=tmp_path, label="main")):
        receiver.wait_for(2)


def test_one_accounts_spans_are_never_sent_to_another(receiver: Receiver, tmp_path: Path) -> None:
    receiver.keys = ("pk-lf-a", "sk-lf-a")
    receiver.stop()
    with running(Langfuse("pk-lf-b", "sk-lf-b", receiver.url, spool=tmp_path)) as app:
        app.chat()
    receiver.start()
    other = Langfuse("pk-lf-a", "sk-lf-a", receiver.url, spool=tmp_path)
    with running(other):
        assert other.flush()
    assert receiver.spans == []
    assert len(files(tmp_path)) == 1


def test_a_batch_that_is_refused_for_itself_does_not_hold_up_the_others(
    receiver: Receiver, tmp_path: Path, production: pytest.LogCaptureFixture
) -> None:
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        receiver.stop()
        for number in range(3):
            app.chat(f"chat {number}")
            destination.flush()
        receiver.start()
        receiver.fail(400)
        assert destination.flush()
    assert [span.name for span in receiver.spans] == ["chat 1", "chat 2"]
    assert spans_of("otlp") == {"spooled": 3, "sent": 2, "dropped.refused": 1}


@pytest.mark.integration
def test_many_processes_share_a_spool(receiver: Receiver, tmp_path: Path) -> None:
    """The first process sends a batch, and no other process sends it again."""
    receiver.stop()
    for number in range(20):
        with running(OTLP(receiver.url, spool=tmp_path, spans="llm")) as app:
            app.chat(f"chat {number}")
    assert len(files(tmp_path)) == 20
    receiver.start()
    command = [sys.executable, "-m", "tests.export.spooling_app", receiver.url, str(tmp_path), "0", "0", "end"]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    for process in processes:
        assert process.wait(60) == 0
    receiver.wait_for(20)
    assert sorted(span.name for span in receiver.spans) == sorted(f"chat {number}" for number in range(20))


def test_a_batch_in_another_hand_is_left_alone(tmp_path: Path) -> None:
    spool = DiskStore(tmp_path, name="x")
    path = spool.add_batch(make_batch())
    with spool.hold_batch(path) as first:
        assert first is not None
        with DiskStore(tmp_path, name="x").hold_batch(path) as second:
            assert second is None
        spool.remove_batch(path)
        with DiskStore(tmp_path, name="x").hold_batch(path) as gone:
            assert gone is None


def test_a_full_spool_drops_the_oldest_and_counts_them(tmp_path: Path, production: pytest.LogCaptureFixture) -> None:
    spool = DiskStore(tmp_path, name="x", max_bytes=10_000)
    for number in range(20):
        spool.add_batch(Batch(os.urandom(2023), number + 1))
    waiting = spool.measure_waiting()
    assert waiting.size <= 10_000
    assert waiting.files == 4
    assert waiting.spans == 17 + 18 + 19 + 20
    assert spans_of("x") == {"dropped.spool_full": sum(range(1, 17))}
    assert production.text.count("byline.E061") == 1


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_corrupt_file_is_put_aside_and_counted(
    receiver: Receiver, tmp_path: Path, damage: str, production: pytest.LogCaptureFixture
) -> None:
    receiver.stop()
    with running(OTLP(receiver.url, spool=tmp_path)) as app:
        app.chat("lost")
        app.chat("lost")
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-9], "garbage": b"\x00" * 40, "empty": b""}[damage])
    receiver.start()
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        app.chat("kept")
        assert destination.flush()
    assert [span.name for span in receiver.spans] == ["kept"]
    assert spans_of("otlp")["dropped.corrupt"] == 2
    assert "byline.E062" in production.text
    assert [path.suffix for path in files(tmp_path)] == [".corrupt"]


def test_a_clock_that_jumps_holds_nothing_up(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither back nor forth: ages are not told by the clock on the wall."""
    receiver.fail(503, times=3)
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        for moment in (2_000_000_000, 4_000_000_000, 1):
            monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment * 10**9)
            app.chat()
            destination.flush()
        monkeypatch.undo()
        assert destination.flush()
    assert len(receiver.spans) == 3


def test_a_folder_that_cannot_be_written_to_is_said_at_once(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("in the way")
    with pytest.raises(byline.SettingError, match=r"byline\.E049"):
        OTLP("https://collector.example", spool=taken)
    with pytest.raises(byline.SettingError, match=r"byline\.E049"):
        OTLP("https://collector.example", spool=tmp_path, spool_bytes=0)
    with pytest.raises(byline.SettingError, match=r"byline\.E049"):
        OTLP("https://collector.example", spool=tmp_path, fsync="yes")  # type: ignore[arg-type]


def test_a_disk_that_fails_later_is_counted_and_the_batch_is_sent_all_the_same(
    receiver: Receiver, tmp_path: Path, production: pytest.LogCaptureFixture
) -> None:
    destination = OTLP(receiver.url, spool=tmp_path)
    with running(destination) as app:
        (folder,) = tmp_path.iterdir()
        folder.rmdir()
        folder.write_text("in the way")
        app.chat()
        assert destination.flush()
        folder.unlink()
    assert len(receiver.spans) == 1
    assert internal_metrics.counter_values()["otlp.spool.failed"] == 1
    assert spans_of("otlp") == {"sent": 1}
    assert "byline.E064" in production.text


def test_a_batch_larger_than_the_spool_is_sent_at_once(receiver: Receiver, tmp_path: Path) -> None:
    destination = OTLP(receiver.url, spool=tmp_path, spool_bytes=10)
    with running(destination) as app:
        app.chat()
        destination.flush()
    assert len(receiver.spans) == 1


def test_no_secret_and_no_hidden_content_is_on_disk(receiver: Receiver, tmp_path: Path) -> None:
    """Redacted values are not written to disk; the folder belongs to this user alone."""
    receiver.stop()
    secret = "sk-lf-0123456789abcdef"
    destination = Langfuse("pk-lf-0123456789", secret, receiver.url, spool=tmp_path, privacy=True)
    with running(destination) as app:
        app.chat(**{"gen_ai.input.messages": "a prompt"})
    (path,) = files(tmp_path)
    written = gzip.decompress(path.read_bytes())
    for text in ("a prompt", secret, destination.headers["Authorization"]):
        assert text.encode() not in written
        assert text not in str(path)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_the_environment_names_the_spool_of_all(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BYLINE_SPOOL", str(tmp_path))
    receiver.stop()
    with running(OTLP(receiver.url)) as app:
        app.chat()
    assert len(files(tmp_path)) == 1


def test_a_dead_destination_never_holds_up_the_app(receiver: Receiver, tmp_path: Path) -> None:
    """Ten thousand spans are all kept, for the disk takes them as fast as they come."""
    receiver.stop()
    destination = OTLP(receiver.url, spool=tmp_path)
    app = App(destination)
    feed: Any = destination.processor()
    for number in range(10_000):
        app.chat()
        if number % 1000 == 999:
            feed.force_flush()
    app.close()
    assert spans_of("otlp") == {"spooled": 10_000}
    receiver.start()
    again = OTLP(receiver.url, spool=tmp_path)
    with running(again):
        receiver.wait_for(10_000, timeout=30)
    assert len({span.span_id for span in receiver.spans}) == 10_000


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_sends_its_own(receiver: Receiver, tmp_path: Path) -> None:
    """The parent's spans are left to the parent."""
    destination = OTLP(receiver.url, spool=tmp_path)
    app = App(destination)
    app.chat("parent")
    pid = os.fork()
    if pid == 0:
        try:
            app.chat("child")
            app.close()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    app.close()
    assert sorted(span.name for span in receiver.spans) == ["child", "parent"]


def test_spool_is_sent_at_shutdown_if_no_thread_can_start(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that is about to end; and it is counted once."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    sender = BatchSender("otlp", endpoint=f"{receiver.url}/v1/traces", headers={}, spool=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        sender.add(make_spans("late"))
        patched.undo()
        sender.close(time.monotonic() + 5)
    assert [found.name for found in receiver.spans] == ["late"]
    assert spans_of("otlp") == {"spooled": 1, "sent": 1}
