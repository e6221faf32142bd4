"""The spool and its disk: full, large, shared, without locks, taken away or never let go."""

from __future__ import annotations

import errno
import fcntl
import itertools
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
from byline.export.delivery.store import DiskStore
from byline.testing import Receiver
from tests.export.batches import make_batch
from tests.export.support import running
from tests.export.test_delivery import spans_of
from tests.export.test_spool import files


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each time that a folder is looked through by the thread of the test."""
    seen: list[Path] = []
    own = threading.get_ident()

    def spied(look: Any) -> Any:
        def spy(path: Any) -> Any:
            if threading.get_ident() == own:
                seen.append(path)
            return look(path)

        return spy

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, spied(getattr(os, name)))
    # Time stands still, for every second it may be looked through again.
    monkeypatch.setattr(time, "monotonic", lambda: 1.0)
    return seen


def test_writing_does_not_look_through_all_that_waits(tmp_path: Path, listings: list[Path]) -> None:
    """Else a long outage would make each batch dearer than the one before."""
    spool = DiskStore(tmp_path, name="x")
    for _ in range(200):
        spool.add_batch(Batch(b"batch", 1))
    assert len(listings) == 1
    assert spool.measure_waiting().files == 200


def test_full_spool_is_not_listed_again(tmp_path: Path, listings: list[Path]) -> None:
    """The oldest are known from the last look."""
    spool = DiskStore(tmp_path, name="x", max_bytes=100_000)
    data = os.urandom(1023)
    for _ in range(90):
        spool.add_batch(Batch(data, 1))
    del listings[:]
    for _ in range(50):
        spool.add_batch(Batch(data, 1))
    assert len(listings) < 10
    assert 90_000 < spool.measure_waiting().size <= 100_000
    assert spool.measure_waiting().spans + spans_of("x")["dropped.spool_full"] == 140


def test_full_spool_is_full_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of other processes are seen within a second; a file dropped by two processes is counted once."""
    clock = itertools.count(0.0, 0.1)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    both = [DiskStore(tmp_path, name="x", max_bytes=50_000) for _ in range(2)]
    for number in range(400):
        both[number % 2].add_batch(Batch(os.urandom(1000), 1))
        assert both[0].measure_waiting().size <= 50_000 + 10 * 1100
    assert both[0].measure_waiting().spans + spans_of("x")["dropped.spool_full"] == 400


def test_batch_in_flight_is_not_dropped_for_room(tmp_path: Path) -> None:
    """It would be counted as sent and as dropped."""
    spool = DiskStore(tmp_path, name="x", max_bytes=5_000)
    first, second = spool.add_batch(make_batch(size=2000)), spool.add_batch(Batch(os.urandom(2000), 10))
    with DiskStore(tmp_path, name="x").hold_batch(first) as data:
        assert data is not None
        spool.add_batch(Batch(os.urandom(2000), 100))
        assert (tmp_path / first).exists()
        assert not (tmp_path / second).exists()
    assert spans_of("x") == {"dropped.spool_full": 10}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS])
def test_a_disk_that_knows_no_locks_holds_nothing_back(
    receiver: Receiver,
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    production: pytest.LogCaptureFixture,
) -> None:
    """As some network file systems; it is said that processes had better not share it."""

    def flock(*_: Any) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with running(OTLP(receiver.url, spool=tmp_path)) as app:
        for _ in range(2):
            app.chat()
            assert app.destinations[0].flush()
    assert len(receiver.spans) == 2
    assert production.text.count("byline.E070") == 1


def test_locked_file_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems lock only files that are open for writing."""
    modes = []
    lock = fcntl.flock

    def flock(file: Any, operation: int) -> None:
        modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    spool = DiskStore(tmp_path, name="x")
    with spool.hold_batch(spool.add_batch(make_batch())) as data:
        assert data is not None
    assert set(modes) == {os.O_RDWR}


def test_file_that_cannot_be_deleted_is_not_sent_again(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, production: pytest.LogCaptureFixture
) -> None:
    """A disk that turned read-only keeps the accepted file."""
    unlink = Path.unlink

    def keep(path: Path, *, missing_ok: bool = False) -> None:
        if path.suffix == ".otlp":
            raise OSError(errno.EROFS, "read-only")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", keep)
    with running(OTLP(receiver.url, spool=tmp_path)) as app:
        for number in range(3):
            app.chat(f"chat {number}")
            assert app.destinations[0].flush()
    assert [span.name for span in receiver.spans] == ["chat 0", "chat 1", "chat 2"]
    assert production.text.count("byline.E071") == 1


def test_a_folder_that_was_tidied_away_is_made_again(receiver: Receiver, tmp_path: Path) -> None:
    """As those below /tmp are now and then."""
    receiver.stop()
    with running(OTLP(receiver.url, spool=tmp_path / "spool")) as app:
        (folder,) = (tmp_path / "spool").iterdir()
        folder.rmdir()
        folder.parent.rmdir()
        app.chat()
    (path,) = files(tmp_path)
    assert path.parent == folder
    assert folder.stat().st_mode & 0o077 == 0
    assert spans_of("otlp") == {"spooled": 1}


def test_rejected_spans_are_counted_if_the_disk_is_full(receiver: Receiver, tmp_path: Path) -> None:
    with running(OTLP(receiver.url, spool=tmp_path)) as app:
        (folder,) = tmp_path.iterdir()
        folder.rmdir()
        folder.write_text("in the way")
        receiver.reject(2)
        for _ in range(3):
            app.chat()
        assert app.destinations[0].flush()
        folder.unlink()
    assert spans_of("otlp") == {"sent": 1, "dropped.rejected": 2}
    assert internal_metrics.counter_values()["otlp.spool.failed"] == 1


def test_halves_that_find_no_room_on_disk_are_counted_once(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped batch was not sent, and a sent batch is not dropped."""
    left = [None, None]
    put = DiskStore.add_batch

    def fill_up(spool: DiskStore, batch: Batch) -> str:
        if not left:
            raise OSError(errno.ENOSPC, "full")
        left.pop()
        return put(spool, batch)

    monkeypatch.setattr(DiskStore, "add_batch", fill_up)
    receiver.fail(413)
    with running(OTLP(receiver.url, spool=tmp_path)) as app:
        for _ in range(4):
            app.chat()
        app.destinations[0].flush()
    found = spans_of("otlp")
    assert found["spooled"] == found.get("sent", 0) + found["dropped.refused"] == 4
    assert len(receiver.spans) == found.get("sent", 0)
    assert files(tmp_path) == []


def test_spool_folder_does_not_follow_the_working_directory(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As daemons do; the next process starts in the first folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    receiver.stop()
    with running(OTLP(receiver.url, spool="spool")) as app:
        monkeypatch.chdir("elsewhere")
        app.chat()
    (path,) = files(tmp_path)
    assert path.parent.parent == tmp_path / "spool"


@pytest.mark.parametrize("name", ["a b", "ä\n'\"", "*?[x]", "\udcff", "%20", "x" * 200])
def test_a_folder_may_have_any_name(receiver: Receiver, tmp_path: Path, name: str) -> None:
    with running(OTLP(receiver.url, spool=tmp_path / name)) as app:
        app.chat()
        assert app.destinations[0].flush()
    assert spans_of("otlp") == {"spooled": 1, "sent": 1}
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["~nobody-of-this-name/spool", "x" * 300, "/proc/spool"])
def test_folder_that_cannot_be_created_is_logged_with_advice(receiver: Receiver, name: str) -> None:
    with pytest.raises(byline.SettingError, match=r"byline\.E049"):
        OTLP(receiver.url, spool=name)


def test_files_of_others_are_left_alone(receiver: Receiver, tmp_path: Path) -> None:
    """Of any age and with any target."""
    destination = OTLP(receiver.url, spool=tmp_path)
    (folder,) = tmp_path.iterdir()
    secret = tmp_path / "secret"
    secret.write_text("not for anybody")
    for name in (".keep", ".nfs0001", "README"):
        (folder / name).write_text("")
        os.utime(folder / name, (0, 0))
    link = folder / "00000000000000000001-1-1-1.otlp"
    link.symlink_to(secret)
    unfinished = folder / ".00000000000000000001-1-1-1.otlp"
    unfinished.write_text("half")
    os.utime(unfinished, (0, 0))
    with running(destination) as app:
        app.chat("own")
        # The folder is tidied when a batch arrives there.
        assert destination.flush()
    assert [span.name for span in receiver.spans] == ["own"]
    assert secret.read_text() == "not for anybody"
    assert not unfinished.exists()
    assert sorted(path.name for path in folder.iterdir()) == [".keep", ".nfs0001", link.name, "README"]


def test_a_folder_that_another_has_laid_ready_for_everybody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others could read the prompts."""
    DiskStore(tmp_path / "own", name="x")
    (tmp_path / "own").chmod(0o777)
    DiskStore(tmp_path / "own", name="x")
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(byline.SettingError, match=r"byline\.E049.*another user"):
        DiskStore(tmp_path / "own", name="x")


def test_two_destinations_of_one_label_would_send_each_others_spool(receiver: Receiver, tmp_path: Path) -> None:
    """So that they are refused, unless they are the same."""
    one = Langfuse("pk-lf-1", "sk-lf-1", receiver.url, spool=tmp_path, label="main")
    other = OTLP(receiver.url, spool=tmp_path, label="main")
    with pytest.raises(byline.SettingError, match=r"byline\.E049"):
        byline.instrument(destinations=[one, other], clients=())
    same = OTLP(receiver.url, spool=tmp_path, label="main", spans="llm")
    byline.instrument(destinations=[other, same], clients=())
    byline.uninstrument()


FORKED = """
import os, sys
from pathlib import Path
from byline.export.delivery.store import DiskStore
from tests.export.batches import make_batch
spool = DiskStore(Path(sys.argv[1]), name="x")
with spool.hold_batch(spool.add_batch(make_batch())) as data:
    assert data is not None
    os.register_at_fork(after_in_child=spool.after_fork)
    if os.fork() == 0:
        print("living", flush=True)
        sys.stdin.read()
    os._exit(0)
"""


@pytest.mark.integration
def test_child_process_does_not_keep_the_locks_of_its_parent(tmp_path: Path) -> None:
    """The parent is killed while it sends, and its child lives for long."""
    command = [sys.executable, "-c", FORKED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "living\n"
        assert parent.wait(20) == 0
        spool = DiskStore(tmp_path, name="x")
        (key,) = spool.list_keys()
        with spool.hold_batch(key) as data:
            assert data is not None
        parent.communicate()


def test_stats_list_the_spool_once(receiver: Receiver, tmp_path: Path, listings: list[Path]) -> None:
    """Files, spans and bytes are of one moment, however many wait."""
    receiver.stop()
    byline.instrument(destinations=[OTLP(receiver.url, spool=tmp_path)], clients=())
    try:
        del listings[:]
        stats = byline.stats()
        looked = [path for path in listings if str(path).startswith(str(tmp_path))]
    finally:
        byline.uninstrument()
    assert {name for name in stats if "spool." in name} == {"otlp.spool.files", "otlp.spool.spans", "otlp.spool.bytes"}
    assert len(looked) == 1
