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

from byline import counters, guard
from byline.settings import SettingError

try:
    import fcntl
except ImportError:  # Windows: a spool there is for one process alone.
    fcntl = None  # type: ignore[assignment, unused-ignore]

DEFAULT_BYTES: Final = 256 * 1024 * 1024

_NAME: Final = re.compile(r"\d{20}-\d+-\d+-(\d+)\.otlp\Z")
_SUFFIX: Final = ".otlp"
_ASIDE: Final = ".corrupt"
#: How old a file that was never finished must be before it is cleared away, in seconds.
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
        SettingError: ``byline.E049`` where the folder cannot be written to.
    """

    def __init__(self, folder: Path, *, name: str, max_bytes: int = DEFAULT_BYTES) -> None:
        self._folder = folder
        self._name = name
        self._max = max_bytes
        self._numbers = itertools.count()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = folder / f".{os.getpid()}.probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise SettingError(
                "byline.E049", f"spool {folder} cannot be written to ({type(error).__name__})", "choose another folder"
            ) from None

    def write(self, data: bytes, spans: int) -> Path:
        """Keep a batch. Raises `OSError` where the disk does not take it."""
        packed = gzip.compress(data, compresslevel=5)
        if len(packed) > self._max:
            raise OSError("larger than the whole spool")
        self._make_room(len(packed))
        name = f"{time.time_ns():020d}-{os.getpid()}-{next(self._numbers)}-{spans}{_SUFFIX}"
        unfinished = self._folder / f".{name}"
        try:
            unfinished.write_bytes(packed)
            unfinished.chmod(0o600)
            return unfinished.rename(self._folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def paths(self) -> list[Path]:
        """Return the batches that wait, the oldest first."""
        try:
            return sorted(path for path in self._folder.iterdir() if _NAME.match(path.name))
        except OSError:
            return []

    def waiting(self) -> Waiting:
        """Return how much waits."""
        sizes = [(spans_of(path), _size(path)) for path in self.paths()]
        return Waiting(len(sizes), sum(spans for spans, _ in sizes), sum(size for _, size in sizes))

    @contextlib.contextmanager
    def take(self, path: Path) -> Iterator[bytes | None]:
        """Hold a batch, so that no other process sends it meanwhile.

        Yields:
            The gzipped batch; ``None`` where another process has it, has sent it already, or where it
            cannot be read: then it is put aside.
        """
        try:
            file = path.open("rb")
        except OSError:
            yield None
            return
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    yield None
                    return
            try:
                # Whoever had the lock before may have sent and deleted it.
                data = file.read() if os.fstat(file.fileno()).st_nlink else None
                yield data if data is None or self._is_whole(path, data) else None
            finally:
                if fcntl is not None:
                    # A child process may have a copy of the file and with it of the lock.
                    with contextlib.suppress(OSError):
                        fcntl.flock(file, fcntl.LOCK_UN)

    def delete(self, path: Path) -> None:
        """Forget a batch."""
        with contextlib.suppress(OSError):
            path.unlink()

    def clear_stale(self) -> None:
        """Clear away what a process that was killed has not finished writing."""
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name.startswith(".") and time.time() - path.stat().st_mtime > _STALE:
                    self.delete(path)

    def _is_whole(self, path: Path, data: bytes) -> bool:
        try:
            whole = bool(gzip.decompress(data))
        except (OSError, EOFError, zlib.error):
            whole = False
        if not whole:
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(_ASIDE))
            counters.count(f"{self._name}.spans.dropped.corrupt", spans_of(path))
            guard.warn_once(
                f"corrupt.{self._name}",
                "byline.E062: a file in the spool of %s cannot be read, and was put aside as *%s",
                self._name,
                _ASIDE,
            )
        return whole

    def _make_room(self, needed: int) -> None:
        paths = self.paths()
        sizes = [_size(path) for path in paths]
        total = sum(sizes)
        for path, size in zip(paths, sizes, strict=True):
            if total + needed <= self._max:
                return
            self.delete(path)
            total -= size
            counters.count(f"{self._name}.spans.dropped.spool_full", spans_of(path))
            guard.warn_once(
                f"spool.{self._name}",
                "byline.E061: the spool of %s is full, and its oldest spans are dropped; raise spool_bytes",
                self._name,
            )


def spans_of(path: Path) -> int:
    """Return how many spans a batch has, which its name tells."""
    found = _NAME.match(path.name)
    return int(found[1]) if found else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
