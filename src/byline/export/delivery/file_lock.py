"""The grip on a file that several processes may want: whoever locks it has it."""

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
except ImportError:  # Windows: a spool there is for one process alone.
    fcntl = None  # type: ignore[assignment, unused-ignore]

_DELETES_NONE_OPEN: Final = os.name == "nt"
#: What says that a lock is another's; anything else says that the file system knows none.
_LOCKED: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class FileLock:
    """Holds the files of one spool.

    Args:
        name: The destination's name in messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._held: set[BufferedIOBase] = set()

    @contextlib.contextmanager
    def hold(self, path: Path) -> Iterator[BufferedIOBase | None]:
        """Hold a file; ``None`` where another process does, or has deleted it."""
        try:
            file = _open(path)
        except OSError:
            yield None
            return
        with file:
            self._held.add(file)
            try:
                # Whoever had the lock before may have sent and deleted it.
                yield file if self._lock(file) and os.fstat(file.fileno()).st_nlink else None
            finally:
                self._held.discard(file)
                if fcntl is not None:
                    # A child process may have a copy of the file and with it of the lock.
                    with contextlib.suppress(OSError, ValueError):
                        fcntl.flock(file, fcntl.LOCK_UN)

    def release_before_delete(self, file: BufferedIOBase) -> None:
        """Close a file that is about to be deleted, where the system deletes none that is open."""
        if _DELETES_NONE_OPEN:
            file.close()

    def after_fork(self) -> None:
        """Let go in a child process of what the parent holds, or it stays locked when the parent is gone."""
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
                "byline.E070: the file system of the spool of %s knows no locks (%s); processes that share it may send "
                "spans twice",
                self._name,
                errno.errorcode.get(error.errno or 0, "unknown"),
            )
        return True


def _open(path: Path) -> BufferedIOBase:
    # Some network file systems lock only what may be written to; and no link is followed out of the folder.
    special = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        opened = os.open(path, os.O_RDWR | special)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        opened = os.open(path, os.O_RDONLY | special)
    return os.fdopen(opened, "rb")
