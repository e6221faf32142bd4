"""Copies on disk of spans that wait in memory, for the case that their process is killed.

The files of one process are in a folder of its own within the spool. While the process lives it holds the lock of that
folder, and nobody sends them; those of a killed process become batches of the spool.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, TypeVar

from opentelemetry.sdk.trace import ReadableSpan

from byline import errors, internal_metrics
from byline.export.delivery.batch import Batch, encode_batches
from byline.export.delivery.file_lock import try_lock
from byline.export.delivery.store import BATCH_NAME, DiskStore, is_own

_FOLDER: Final = re.compile(r"waiting-\d+-[0-9a-f]{16}\Z")
_LOCK: Final = "lock"
#: Name of a lock that is not locked yet.
_NEW_LOCK: Final = ".lock"
#: Seconds after which nobody makes a folder without a lock any more: making one takes milliseconds.
_MAKING_SECONDS: Final = 60.0
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
#: Bytes of all copies of a process; the spool's limit does not count them.
_MAX_BYTES: Final = 16 * 1024 * 1024
_Span = TypeVar("_Span")


class WaitingSpans:
    """The copies of the spans that wait in this process, and the recovery of those of killed processes.

    Args:
        spool: The spool of the destination.
        name: The destination's name in counters.
        make_store: Makes the store of a folder.
    """

    def __init__(self, spool: Path, name: str, make_store: Callable[[Path], DiskStore]) -> None:
        self._spool = spool
        self._name = name
        self._make_store = make_store
        self._is_off = False
        self._forget()

    def _forget(self) -> None:
        self._folder: Path | None = None
        self._store: DiskStore | None = None
        self._lock: int | None = None
        #: By identity: the span, and the key of its copy, ``None`` if there was no room or no disk for one.
        self._copies: dict[int, tuple[object, str | None]] = {}
        #: Bytes by key.
        self._sizes: dict[str, int] = {}
        self._used = 0

    def update(self, waiting: Collection[_Span], finish: Callable[[_Span], ReadableSpan | None]) -> None:
        """Keep a copy of each span that waits, and delete those of spans that have left.

        Args:
            waiting: The spans.
            finish: Returns a span as it would be sent if nothing followed, ``None`` if that fails.
        """
        if self._is_off or not (waiting or self._copies):
            return
        for identity in self._copies.keys() - set(map(id, waiting)):
            _, key = self._copies.pop(identity)
            if key is not None and self._store is not None:
                self._used -= self._sizes.pop(key)
                self._store.remove_batch(key)
        for span in waiting:
            if id(span) not in self._copies:
                self._copies[id(span)] = (span, None)
                finished = finish(span)
                for batch in encode_batches([] if finished is None else [finished]):
                    if isinstance(batch, Batch):
                        self._add(span, batch)

    def _add(self, span: object, batch: Batch) -> None:
        size = len(batch.data)
        if self._used + size > _MAX_BYTES:
            return
        try:
            store = self._store or self._open()
            key = store.add_batch(batch)
            self._copies[id(span)] = (span, key)
            self._sizes[key] = size
            self._used += size
        except Exception:
            # The span itself still waits in memory.
            internal_metrics.increment(f"{self._name}.spool.failed")
            errors.logger.debug("a copy of a waiting span cannot be written", exc_info=True)

    def _open(self) -> DiskStore:
        self._folder = folder = self._spool / f"waiting-{os.getpid()}-{secrets.token_hex(8)}"
        try:
            store = self._make_store(folder)
            # Under its name the lock is locked from the start.
            self._lock = os.open(folder / _NEW_LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o600)
            self._is_off = not try_lock(self._lock)
            (folder / _NEW_LOCK).rename(folder / _LOCK)
        except BaseException:
            # The next span that waits makes another one.
            self._remove_folder()
            raise
        if self._is_off:
            # Without locks nobody can tell whether the process lives: the spans are lost with the process.
            self._remove_folder()
            raise OSError("files cannot be locked")
        self._store = store
        return store

    def recover(self) -> int:
        """Make batches of the copies that killed processes have left. Returns their number."""
        count = 0
        with contextlib.suppress(OSError):
            for folder in self._spool.iterdir():
                if _FOLDER.match(folder.name) and folder != self._folder:
                    with contextlib.suppress(OSError):
                        count += self._recover_folder(folder)
        return count

    def _recover_folder(self, folder: Path) -> int:
        if folder.is_symlink() or not is_own(folder.lstat()):
            return 0
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | _NO_LINK)
        except FileNotFoundError:
            # Being made, or left by a process that was killed before it could write copies.
            if time.time() - folder.lstat().st_mtime > _MAKING_SECONDS:
                (folder / _NEW_LOCK).unlink(missing_ok=True)
                folder.rmdir()
            return 0
        try:
            if not try_lock(lock):
                # The process lives.
                return 0
            batches = [path for path in folder.iterdir() if BATCH_NAME.match(path.name) and not path.is_symlink()]
            for path in batches:
                path.rename(self._spool / path.name)
            for rest in folder.iterdir():
                rest.unlink()
            folder.rmdir()
        finally:
            os.close(lock)
        return len(batches)

    def close(self) -> None:
        """Delete all copies: the spans have been sent, or counted as dropped."""
        self._remove_folder()
        self._forget()

    def _remove_folder(self) -> None:
        folder, lock = self._folder, self._lock
        self._folder = self._lock = None
        if folder is not None:
            with contextlib.suppress(OSError):
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
        if lock is not None:
            os.close(lock)

    def after_fork(self) -> None:
        """Leave the copies and the lock to the parent."""
        lock = self._lock
        self._forget()
        if lock is not None:
            os.close(lock)
