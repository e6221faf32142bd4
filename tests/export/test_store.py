"""The spool's files: their owner, their real content, and their location."""

from __future__ import annotations

import gzip
import os
import secrets
import stat
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest

from byline import internal_metrics
from byline.export import OTLP
from byline.export.delivery.batch import read_batch, split_batch
from byline.export.delivery.store import DiskStore, MemoryStore
from byline.settings import SettingError
from byline.testing import Receiver
from tests.export.batches import counted, make_batch, make_spans, sending
from tests.export.support import running

A = {"authorization": "Basic a"}
B = {"authorization": "Basic b"}


def keys_of(folder: Path, headers: dict[str, str]) -> list[str]:
    return DiskStore(folder, name="x", headers=headers).list_keys()


def test_a_batch_is_kept_for_its_account(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A label that is used again must not send one project's spans with another's keys."""
    DiskStore(tmp_path, name="x", headers=A).add_batch(make_batch())
    assert keys_of(tmp_path, B) == []
    assert DiskStore(tmp_path, name="x", headers=B).measure_waiting().files == 0
    assert len(keys_of(tmp_path, A)) == 1
    assert "byline.E072" in caplog.text


def test_a_label_that_is_used_again_sends_no_other_projects_spans(tmp_path: Path) -> None:
    with Receiver() as gone:
        pass
    with sending(gone.url, tmp_path, headers=A) as sender:
        sender.add(make_spans("of a"))
        sender.flush(0.0)
    with Receiver() as receiver, sending(receiver.url, tmp_path, headers=B) as sender:
        sender.add(make_spans("of b"))
        assert sender.flush(time.monotonic() + 20)
        assert [span.name for span in receiver.spans] == ["of b"]


def test_batches_refused_for_their_keys_are_sent_with_other_keys(tmp_path: Path) -> None:
    """Refused keys are those of no project."""
    with Receiver(keys=("pk", "sk")) as receiver:
        with sending(receiver.url, tmp_path, headers=A) as sender:
            for name in ("one", "two"):
                sender.add(make_spans(name))
                assert not sender.flush(time.monotonic() + 20)
            sender.add(make_spans("three"))
        receiver.keys = None
        with sending(receiver.url, tmp_path, headers=B) as sender:
            assert sender.flush(time.monotonic() + 20)
        assert [span.name for span in receiver.spans] == ["one", "two", "three"]


def test_files_of_an_earlier_version_are_sent(tmp_path: Path) -> None:
    """Their names say nothing of an account."""
    store = DiskStore(tmp_path, name="x", headers=A)
    (tmp_path / "00000000000000000001-1-0-1.otlp").write_bytes(make_batch().data)
    assert store.list_keys() == ["00000000000000000001-1-0-1.otlp"]


def test_names_count_no_more_than_their_files_hold(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, name="x")
    name = "00000000000000000001-1-0-999999.otlp"
    (tmp_path / name).write_bytes(make_batch(3).data)
    assert store.measure_waiting().spans < 1000
    with store.hold_batch(name) as batch:
        assert batch is not None
        assert batch.spans == 3
    store._evict(name)
    assert counted()["dropped.spool_full"] < 1000


def test_a_small_file_that_unpacks_to_gigabytes_is_put_aside(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, name="x")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    (tmp_path / "00000000000000000001-1-0-1.otlp").write_bytes(packed)
    tracemalloc.start()
    with store.hold_batch(*store.list_keys()) as batch:
        assert batch is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 192 << 20
    assert [path.suffix for path in tmp_path.iterdir()] == [".corrupt"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 40, gzip.compress(b""), gzip.compress(b"\xff\xff")],
    ids=["empty", "no gzip", "gzip of nothing", "gzip of no batch"],
)
def test_a_file_without_spans_is_no_batch(content: bytes) -> None:
    assert read_batch(content) is None


def test_halves_have_all_spans_between_them() -> None:
    first, second = split_batch(make_batch(5))
    assert (first.spans, second.spans) == (2, 3)
    assert split_batch(make_batch(1)) == []


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user may know which names come next."""
    precious = tmp_path / "ledger"
    precious.write_text("precious")
    spool = tmp_path / "spool"
    store = DiskStore(spool, name="x")
    monkeypatch.setattr(time, "time_ns", lambda: 1)
    monkeypatch.setattr(secrets, "token_hex", lambda _: "known")
    name = f"{1:020d}-{os.getpid()}-0-1-{store._account}.otlp"
    (spool / f".{name}").symlink_to(precious)
    (spool / ".known.probe").symlink_to(precious)
    with pytest.raises(OSError, match=r"exists"):
        store.add_batch(make_batch())
    with pytest.raises(SettingError, match=r"byline\.E049"):
        DiskStore(spool, name="x")
    assert precious.read_text() == "precious"


def test_all_folders_are_this_users_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        store = DiskStore(tmp_path / "deep" / "er", name="x")
        store.add_batch(make_batch())
    finally:
        os.umask(mask)
    for path in (tmp_path / "deep").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_a_folder_of_ones_own_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    folder.chmod(0o777)
    DiskStore(folder, name="x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if nobody else may write to it; a link to a folder is refused."""
    (tmp_path / "spool").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to(tmp_path / "spool")
    with pytest.raises(SettingError, match=r"byline\.E049"):
        DiskStore(tmp_path / "link", name="x")
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with pytest.raises(SettingError, match=r"byline\.E049.*another user"):
        DiskStore(tmp_path / "spool", name="x")


def test_a_folder_in_one_that_another_user_has_opened_to_everybody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody could put another folder in its place."""
    DiskStore(tmp_path / "open" / "spool", name="x")
    (tmp_path / "open").chmod(0o777)
    found = os.stat_result([stat.S_IFDIR | 0o777, 0, 0, 2, 4321, 4321, 0, 0, 0, 0])
    original = Path.stat

    def seen(path: Path, **options: Any) -> os.stat_result:
        return found if path == tmp_path / "open" else original(path, **options)

    monkeypatch.setattr(Path, "stat", seen)
    with pytest.raises(SettingError, match=r"byline\.E049"):
        DiskStore(tmp_path / "open" / "spool", name="x")


def test_files_of_another_user_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path, name="x")
    key = store.add_batch(make_batch())
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    with store.hold_batch(key) as batch:
        assert batch is None
    assert (tmp_path / key).exists()


@pytest.mark.parametrize("fsync", [False, True])
def test_files_reach_the_disk_itself_if_that_is_wanted(
    fsync: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, and the folder with its name."""
    synced: list[bool] = []
    original = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    with Receiver() as receiver, running(OTLP(receiver.url, spool=tmp_path, fsync=fsync)) as app:
        app.chat()
        assert app.destinations[0].flush()
    assert synced == ([False, True] if fsync else [])


def test_a_batch_in_memory_is_counted_by_one_thread_alone() -> None:
    store = MemoryStore()
    key = store.add_batch(make_batch(3))
    assert store.spans == store.measure_waiting().spans == 3
    assert store.remove_batch(key)
    assert not store.remove_batch(key)
    assert store.spans == 0
    assert internal_metrics.counter_values() == {}
