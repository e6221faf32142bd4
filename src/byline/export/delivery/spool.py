"""A spool on disk: batches that wait until their destination takes them, also past the process's end.

One file is one batch, ready to be sent. Any number of processes may share a spool: whoever locks a
file sends it and deletes it. A file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from byline import errors, internal_metrics
from byline.export.delivery.disk_quota import DiskQuota
from byline.export.delivery.file_lock import FileLock
from byline.settings import SettingError

DEFAULT_BYTES: Final = 256 * 1024 * 1024

_NAME: Final = re.compile(r"\d{20}-\d+-\d+-(\d+)\.otlp\Z")
_SUFFIX: Final = ".otlp"
_ASIDE: Final = ".corrupt"
#: What a process that was killed may leave behind, and how old it must be to be cleared away, in seconds.
_UNFINISHED: Final = re.compile(r"\.(\d{20}-\d+-\d+-\d+\.otlp|\d+\.probe)\Z")
_STALE: Final = 3600.0


class Waiting(NamedTuple):
    """What a spool holds."""

    files: int
    spans: int
    size: int


class Spool:
    """The batches of one destination.

    Args:
        folder: Where the files are; it is made where it is missing, for this user alone.
        name: The destination's name in counters.
        max_bytes: How much may wait; the oldest batches make room for new ones.

    Raises:
        SettingError: ``byline.E049`` where the folder cannot be written to, or is another user's that
            everybody may write to.
    """

    def __init__(self, folder: Path, *, name: str, max_bytes: int = DEFAULT_BYTES) -> None:
        self._folder = folder
        self._name = name
        self._max = max_bytes
        self._numbers = itertools.count()
        self._room = DiskQuota(max_bytes, count=self._sizes, drop=self._drop)
        self._grip = FileLock(name)
        #: Names of what is done with, and cannot be deleted.
        self._done: set[str] = set()
        try:
            self._make_folder()
            probe = folder / f".{os.getpid()}.probe"
            probe.write_bytes(b"")
            probe.unlink()
            found = folder.stat()
        except OSError as error:
            raise SettingError(
                "byline.E049", f"spool {folder} cannot be written to ({type(error).__name__})", "choose another folder"
            ) from None
        if found.st_mode & 0o002 and hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            raise SettingError(
                "byline.E049", f"spool {folder} is another user's, and open to everybody", "choose another folder"
            )

    def write(self, data: bytes, spans: int) -> Path:
        """Keep a batch. Raises `OSError` where the disk does not take it."""
        packed = gzip.compress(data, compresslevel=5)
        if len(packed) > self._max:
            raise OSError("larger than the whole spool")
        self._room.make(len(packed))
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers)}-{spans}{_SUFFIX}"
        try:
            return self._store(name, packed)
        except FileNotFoundError:
            # Somebody has tidied the folder away.
            self._make_folder()
            return self._store(name, packed)

    def paths(self) -> list[Path]:
        """Return the batches that wait, the oldest first."""
        return [self._folder / name for name in sorted(self._names())]

    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return next(self._names(), None) is None

    def waiting(self) -> Waiting:
        """Return how much waits."""
        sizes = self._sizes()
        spans = sum(spans_of(name) for name, _ in sizes)
        return Waiting(len(sizes), spans, sum(size for _, size in sizes))

    @contextlib.contextmanager
    def take(self, path: Path) -> Iterator[bytes | None]:
        """Hold a batch, so that no other process sends it meanwhile.

        Yields:
            The gzipped batch; ``None`` where another process has it, has sent it already, or where it
            cannot be read: then it is put aside.
        """
        with self._grip.acquire(path) as file:
            data = None
            if file is not None:
                with contextlib.suppress(OSError):
                    data = file.read()
                self._grip.release_before_delete(file)
            yield data if data is None or self._is_whole(path, data) else None

    def delete(self, path: Path) -> None:
        """Forget a batch, also where the disk keeps it."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # Else it would be sent again and again.
            self._done.add(path.name)
            errors.warn_once(
                f"delete.{self._name}",
                "byline.E071: a file in the spool of %s cannot be deleted (%s), and the next process may send it again",
                self._name,
                type(error).__name__,
            )

    def clear_stale(self) -> None:
        """Clear away what a process that was killed has not finished writing."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if _UNFINISHED.match(path.name) and time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()

    def after_fork(self) -> None:
        """Let go in a child process of what the parent has in hand, or it stays locked when the parent is gone."""
        self._grip.after_fork()

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _store(self, name: str, packed: bytes) -> Path:
        unfinished = self._folder / f".{name}"
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(packed)
            return unfinished.rename(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def _names(self) -> Iterator[str]:
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.match(entry.name) and entry.name not in self._done:
                    yield entry.name

    def _sizes(self) -> list[tuple[str, int]]:
        found = []
        for name in self._names():
            with contextlib.suppress(OSError):
                found.append((name, (self._folder / name).lstat().st_size))
        return found

    def _is_whole(self, path: Path, data: bytes) -> bool:
        try:
            whole = bool(gzip.decompress(data))
        except (OSError, EOFError, zlib.error):
            whole = False
        if not whole:
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(_ASIDE))
            internal_metrics.increment(f"{self._name}.spans.dropped.corrupt", spans_of(path.name))
            errors.warn_once(
                f"corrupt.{self._name}",
                "byline.E062: a file in the spool of %s cannot be read, and was put aside as *%s",
                self._name,
                _ASIDE,
            )
        return whole

    def _drop(self, name: str) -> bool:
        """Drop a batch that there is no room for. Returns whether it is gone."""
        path = self._folder / name
        with self._grip.acquire(path) as file:
            if file is None:
                # Another is about to send it, or has done so.
                return not path.exists()
            self._grip.release_before_delete(file)
            try:
                path.unlink()
            except OSError:
                return False
        internal_metrics.increment(f"{self._name}.spans.dropped.spool_full", spans_of(path.name))
        errors.warn_once(
            f"spool.{self._name}",
            "byline.E061: the spool of %s is full, and its oldest spans are dropped; raise spool_bytes",
            self._name,
        )
        return True


def spans_of(name: str) -> int:
    """Return how many spans a batch has, which the name of its file tells."""
    found = _NAME.match(name)
    return int(found[1]) if found else 0
