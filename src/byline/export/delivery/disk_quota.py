"""The room in a folder that several processes fill: counted seldom, however many files wait there."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Final

#: What may be written before it is counted again: a part of what was free, for other processes write too.
_SHARE: Final = 8
#: How long a count is believed: so many seconds, or so many times as long as it has taken.
_FRESH: Final = 1.0
_WORTH: Final = 20
#: How many of the oldest files are remembered from a count.
_REMEMBERED: Final = 1000


class DiskQuota:
    """Makes room for new files at the cost of the oldest.

    Args:
        most: How many bytes the folder may hold.
        count: Returns names and sizes of all files; the oldest has the least name.
        drop: Drops a file. Returns whether it is gone.
    """

    def __init__(self, most: int, *, count: Callable[[], list[tuple[str, int]]], drop: Callable[[str], bool]) -> None:
        self._most = most
        self._count = count
        self._drop = drop
        self._left = 0
        self._full = False
        self._until = 0.0
        #: The oldest, the very oldest last.
        self._oldest: list[tuple[str, int]] = []

    def make(self, size: int) -> None:
        """Make room for a file of this size."""
        fresh = time.monotonic() < self._until
        if fresh and size <= self._left:
            self._left -= size
            return
        # Once it is full, every new file takes the place of old ones, and need not be counted.
        over = size - self._left if fresh and self._full and self._oldest else self._recount(size)
        while over > 0 and self._oldest:
            name, freed = self._oldest.pop()
            if self._drop(name):
                over -= freed
        self._left = max(-over, 0)

    def _recount(self, size: int) -> int:
        started = time.monotonic()
        files = self._count()
        over = sum(each for _, each in files) + size - self._most
        self._full = over > 0
        self._oldest = heapq.nsmallest(_REMEMBERED, files)[::-1] if self._full else []
        now = time.monotonic()
        self._until = now + max(_FRESH, (now - started) * _WORTH)
        return over if self._full else over // _SHARE
