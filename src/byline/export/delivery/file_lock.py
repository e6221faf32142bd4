"""Locks files that several processes share."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Final

from byline import errors

try:
    import fcntl
except ImportError:  # Windows: one process to a spool.
    fcntl = None  # type: ignore[assignment, unused-ignore]

_DELETES_NO_OPEN_FILE: Final = os.name == "nt"
#: Errors by which another process has the lock. Any other error means that the file system has no locks.
_LOCKED: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class FileLock:
    """Locks the files of one spool.

    Args:
        name: The destination's name in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: set[BufferedIOBase] = set()

    @contextlib.contextmanager
    def acquire(self, path: Path) -> Iterator[BufferedIOBase | None]:
        """Open and lock a file; ``None`` if another process has the lock or has deleted the file."""
        try:
            file = _open(path)
        except OSError:
            yield None
            return
        with file:
            self._held.add(file)
            try:
                # The process that had the lock before may have sent and deleted the file.
                yield file if self._lock(file) and os.fstat(file.fileno()).st_nlink else None
            finally:
                self._held.discard(file)
                if fcntl is not None:
                    # A child process may have a copy of the descriptor, and so the lock.
                    with contextlib.suppress(OSError, ValueError):
                        fcntl.flock(file, fcntl.LOCK_UN)

    def release_before_delete(self, file: BufferedIOBase) -> None:
        """Close a file that is about to be deleted or renamed, on systems that do neither to an open file."""
        if _DELETES_NO_OPEN_FILE:
            file.close()

    def after_fork(self) -> None:
        """Close the parent's files in a child process; otherwise they stay locked after the parent's end."""
        held, self._held = self._held, set()
        for file in held:
            file.close()

    def _lock(self, file: BufferedIOBase) -> bool:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _LOCKED:
                return False
            errors.warn_once(
                f"lock.{self._name}",
                "byline.E070: the file system of the spool of %s has no locks (%s); processes that share it may send "
                "spans twice. Use a local disk, or one spool per process",
                self._name,
                errno.errorcode.get(error.errno or 0, "unknown"),
            )
        return True


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed. Returns ``False`` if another process has the lock, and without locks."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    return False


def _open(path: Path) -> BufferedIOBase:
    # Some network file systems lock only files that are open for writing. A link may point out of the folder.
    special = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        opened = os.open(path, os.O_RDWR | special)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        opened = os.open(path, os.O_RDONLY | special)
    return os.fdopen(opened, "rb")
