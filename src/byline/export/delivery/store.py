"""Stores batches until their destination has accepted them: in memory, or on disk past the end of the process.

On disk one file is one batch. Any number of processes may share a folder: the process that locks a file sends and
deletes that file. A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from byline import errors, internal_metrics
from byline.export.delivery.batch import MAX_BYTES, Batch, read_batch
from byline.export.delivery.disk_quota import DiskQuota
from byline.export.delivery.file_lock import FileLock
from byline.settings import SettingError

DEFAULT_BYTES: Final = 256 * 1024 * 1024

#: Time, process, number, spans, and the account that the batch was written for.
BATCH_NAME: Final = re.compile(r"\d{20}-\d+-\d+-(\d{1,6})(?:-([0-9a-f]{12}))?\.otlp\Z")
_SUFFIX: Final = ".otlp"
_CORRUPT: Final = ".corrupt"
#: Files that a killed process has left behind, and the seconds after which they are deleted.
_UNFINISHED: Final = re.compile(r"\.(\d{20}-\d+-\d+-\d+(-[0-9a-f]{12})?\.otlp|\w+\.probe)\Z")
_STALE: Final = 3600.0
#: The random id of a span does not compress.
_LEAST_BYTES_PER_SPAN: Final = 8


class Waiting(NamedTuple):
    """Batches that wait in a store.

    Attributes:
        files: Number of batches.
        spans: Number of their spans.
        size: Bytes.
        age: Seconds since the oldest was stored.
    """

    files: int
    spans: int
    size: int
    age: float


class Store(Protocol):
    """Batches by key. Keys sort by age."""

    def add_batch(self, batch: Batch) -> str:
        """Store a batch and return its key. Raises `OSError` if there is no room."""

    def list_keys(self) -> list[str]:
        """Return the keys of the batches that wait, the oldest first."""

    def hold_batch(self, key: str) -> AbstractContextManager[Batch | None]:
        """Hold a batch, so that no other process sends the same; ``None`` if another process holds the batch."""

    def remove_batch(self, key: str) -> bool:
        """Delete a batch. Returns whether it was there."""

    def measure_waiting(self) -> Waiting:
        """Return how much waits."""


class MemoryStore:
    """Batches in memory. The owner bounds their number."""

    def __init__(self) -> None:
        self._batches: dict[str, Batch] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        #: Spans of all batches.
        self.spans = 0

    def add_batch(self, batch: Batch) -> str:
        """Store a batch and return its key."""
        key = f"{time.time_ns():020d}-{next(self._numbers):012d}"
        with self._lock:
            self._batches[key] = batch
            self.spans += batch.spans
        return key

    def list_keys(self) -> list[str]:
        """Return the keys of the batches that wait, the oldest first."""
        # Not sorted: the clock may have been set back.
        return list(self._batches)

    @contextlib.contextmanager
    def hold_batch(self, key: str) -> Iterator[Batch | None]:
        """Yield a batch; ``None`` for an unknown key."""
        yield self._batches.get(key)

    def remove_batch(self, key: str) -> bool:
        """Delete a batch. Returns whether it was there."""
        with self._lock:
            batch = self._batches.pop(key, None)
            if batch is not None:
                self.spans -= batch.spans
        return batch is not None

    def measure_waiting(self) -> Waiting:
        """Return how much waits."""
        batches = dict(self._batches)
        size = sum(len(batch.data) for batch in batches.values())
        return Waiting(len(batches), self.spans, size, _age_of(next(iter(batches), None)))

    def clear(self) -> None:
        """Forget everything in a child process."""
        self._lock = threading.Lock()
        self._batches = {}
        self.spans = 0


class DiskStore:
    """The spool of one destination.

    The name of each file has the account (a hash of the headers), and only that account sends the file: a label that
    is used again for another project must not send one project's spans with the keys of another. Files
    that were written for refused keys belong to no project; `release_account` lets other keys send them.

    Args:
        folder: The folder of the files. A missing folder is made, readable by this user alone.
        name: The destination's name in counters and messages.
        max_bytes: Bytes that may wait; the oldest batches make room for new ones.
        headers: Headers of the destination, which identify the account.
        fsync: Whether the system writes each batch to the disk at once (``fsync``).

    Raises:
        SettingError: ``byline.E049`` if the folder cannot be written to, or belongs to another user.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        max_bytes: int = DEFAULT_BYTES,
        headers: Mapping[str, str] | None = None,
        fsync: bool = False,
    ) -> None:
        self._folder = folder
        self._name = name
        self._max = max_bytes
        self._fsync = fsync
        self._account = account_of(headers or {})
        self._bound = True
        self._numbers = itertools.count()
        self._quota = DiskQuota(max_bytes, count=self._list_sizes, drop=self._evict)
        self._lock = FileLock(name)
        #: Names of files that are done with, and cannot be deleted.
        self._undeletable: set[str] = set()
        try:
            self._prepare_folder()
            probe = folder / f".{secrets.token_hex(8)}.probe"
            os.close(_create(probe))
            probe.unlink()
        except _ForeignFolderError:
            raise SettingError(
                "byline.E049", f"spool {folder} is another user's, or open to everybody", "choose another folder"
            ) from None
        except OSError as error:
            raise SettingError(
                "byline.E049", f"spool {folder} cannot be written to ({type(error).__name__})", "choose another folder"
            ) from None

    def add_batch(self, batch: Batch) -> str:
        """Store a batch and return its key. Raises `OSError` if the disk does not take it."""
        size = len(batch.data)
        if size > self._max:
            raise OSError(errno.EFBIG, "larger than the whole spool")
        # The folder may have been deleted or replaced since.
        self._prepare_folder()
        self._quota.reserve_bytes(size)
        account = f"-{self._account}" if self._bound else ""
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers)}-{batch.spans}{account}{_SUFFIX}"
        unfinished = self._folder / f".{name}"
        try:
            with os.fdopen(_create(unfinished), "wb") as file:
                file.write(batch.data)
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            unfinished.rename(self._folder / name)
            if self._fsync:
                _sync_folder(self._folder)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        return name

    def list_keys(self) -> list[str]:
        """Return the keys of this account's batches, the oldest first."""
        own, foreign = [], False
        for name in self._list_names():
            account = _account_in(name)
            if account in (None, self._account):
                own.append(name)
            else:
                foreign = True
        if foreign:
            errors.warn_once(
                f"account.{self._name}",
                "byline.E072: the spool of %s has spans that were stored for other keys; they are kept, and are sent "
                "when a destination with this label has those keys",
                self._name,
            )
        return sorted(own)

    def is_locked(self, key: str) -> bool:
        """Return whether another process holds the batch, or has deleted the file."""
        with self._lock.acquire(self._folder / key) as file:
            return file is None

    @contextlib.contextmanager
    def hold_batch(self, key: str) -> Iterator[Batch | None]:
        """Hold a batch, so that no other process sends the same.

        Yields:
            The batch; ``None`` if another process holds or has sent the batch, or if the file cannot be read. An
            unreadable file is put aside.
        """
        path = self._folder / key
        with self._lock.acquire(path) as file:
            batch = None
            if file is not None and _is_own_file(file.fileno()):
                data = None
                with contextlib.suppress(OSError):
                    data = file.read(MAX_BYTES + 1)
                self._lock.release_before_delete(file)
                batch = None if data is None else read_batch(data)
                if data is not None and batch is None:
                    self._put_aside(path)
            yield batch

    def remove_batch(self, key: str) -> bool:
        """Delete a batch. A file that cannot be deleted is not sent again by this process."""
        try:
            (self._folder / key).unlink(missing_ok=True)
        except OSError as error:
            self._undeletable.add(key)
            errors.warn_once(
                f"delete.{self._name}",
                "byline.E071: a sent file cannot be deleted from the spool of %s (%s), and the next process may send "
                "its spans again; check the permissions of the folder",
                self._name,
                type(error).__name__,
            )
        return True

    def measure_waiting(self) -> Waiting:
        """Return how much of this account waits."""
        sizes = [(name, size) for name, size in self._list_sizes() if _account_in(name) in (None, self._account)]
        spans = sum(_span_count(name, size) for name, size in sizes)
        oldest = min((name for name, _ in sizes), default=None)
        return Waiting(len(sizes), spans, sum(size for _, size in sizes), _age_of(oldest))

    def bind_account(self) -> None:
        """Write new batches for this account, because the destination accepts the keys."""
        self._bound = True

    def release_account(self) -> dict[str, str]:
        """Let other keys send this account's batches, because these are refused. Returns old names with new ones."""
        self._bound = False
        renamed = {}
        for name in self._list_names():
            if _account_in(name) != self._account:
                continue
            path = self._folder / name
            with self._lock.acquire(path) as file:
                if file is not None:
                    self._lock.release_before_delete(file)
                    new_name = f"{name.rpartition('-')[0]}{_SUFFIX}"
                    with contextlib.suppress(OSError):
                        path.rename(self._folder / new_name)
                        renamed[name] = new_name
        return renamed

    def clear_stale(self) -> None:
        """Delete files that a killed process did not finish writing."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if _UNFINISHED.match(path.name) and time.time() - path.lstat().st_mtime > _STALE:
                    path.unlink()

    def after_fork(self) -> None:
        """Unlock in a child process the files that the parent holds."""
        self._lock.after_fork()

    def _prepare_folder(self) -> None:
        missing = [self._folder, *self._folder.parents]
        for folder in reversed(missing[: next(n for n, each in enumerate(missing) if each.exists())]):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
        own = self._folder.lstat()
        above = self._folder.parent.stat()
        if not stat.S_ISDIR(own.st_mode):
            raise NotADirectoryError
        is_open = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
        if not is_own(own) or (is_open and not is_own(above)):
            raise _ForeignFolderError
        if hasattr(os, "geteuid") and own.st_mode & 0o077:
            with contextlib.suppress(OSError):
                self._folder.chmod(0o700)

    def _list_names(self) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                is_batch = BATCH_NAME.match(entry.name) and entry.name not in self._undeletable
                if is_batch and entry.is_file(follow_symlinks=False):
                    yield entry.name

    def _list_sizes(self) -> list[tuple[str, int]]:
        sizes = []
        for name in self._list_names():
            with contextlib.suppress(OSError):
                sizes.append((name, (self._folder / name).lstat().st_size))
        return sizes

    def _put_aside(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(_CORRUPT))
        internal_metrics.increment(f"{self._name}.spans.dropped.corrupt", _span_count(path.name))
        errors.warn_once(
            f"corrupt.{self._name}",
            "byline.E062: a file in the spool of %s cannot be read; it was renamed to *%s and its spans are dropped",
            self._name,
            _CORRUPT,
        )

    def _evict(self, name: str) -> bool:
        """Delete a batch to make room. Returns whether the file is gone."""
        path = self._folder / name
        with self._lock.acquire(path) as file:
            if file is None:
                # Another process is sending the batch, or has sent the batch.
                return not path.exists()
            size = os.fstat(file.fileno()).st_size
            self._lock.release_before_delete(file)
            try:
                path.unlink()
            except OSError:
                return False
        internal_metrics.increment(f"{self._name}.spans.dropped.spool_full", _span_count(name, size))
        errors.warn_once(
            f"spool.{self._name}",
            "byline.E061: the spool of %s is full, and its oldest spans are dropped; raise spool_bytes, or check why "
            "the destination accepts no spans",
            self._name,
        )
        return True


class _ForeignFolderError(OSError):
    pass


def account_of(headers: Mapping[str, str]) -> str:
    """Return a short hash of the headers, which identify an account."""
    pairs = sorted((name.lower(), value) for name, value in headers.items())
    return hashlib.sha256(repr(pairs).encode()).hexdigest()[:12]


def _account_in(name: str) -> str | None:
    match = BATCH_NAME.match(name)
    return match[2] if match else None


def _span_count(name: str, size: int | None = None) -> int:
    match = BATCH_NAME.match(name)
    count = int(match[1]) if match else 0
    return count if size is None else min(count, size // _LEAST_BYTES_PER_SPAN)


def _age_of(key: str | None) -> float:
    return max((time.time_ns() - int(key[:20])) / 1e9, 0.0) if key else 0.0


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o600)


def is_own(status: os.stat_result) -> bool:
    """Return whether a file or folder belongs to the user of this process."""
    return not hasattr(os, "geteuid") or status.st_uid == os.geteuid()


def _is_own_file(descriptor: int) -> bool:
    """Return whether an open file is a regular one of this user: another file would be sent with this user's keys."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and is_own(status)


def _sync_folder(folder: Path) -> None:
    # Windows opens no folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
