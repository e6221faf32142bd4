"""Limits the bytes in a folder that several processes fill, without counting the files for each new one."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import Final

#: Share of the free bytes that is written before files are counted again, because other processes write too.
_SHARE: Final = 8
#: A count is trusted for one second, or for twenty times as long as the counting took.
_FRESH: Final = 1.0
_FRESH_FACTOR: Final = 20
_OLDEST_KEPT: Final = 1000


class DiskQuota:
    """Makes room in a folder that several processes fill. Files are counted seldom, however many there are.

    Args:
        most: Bytes that the folder may hold.
        count: Returns names and sizes of all files; the oldest has the least name.
        drop: Deletes a file. Returns whether the file is gone.
    """

    def __init__(self, most: int, *, count: Callable[[], list[tuple[str, int]]], drop: Callable[[str], bool]) -> None:
        self._most = most
        self._count = count
        self._drop = drop
        self._left = 0
        self._is_full = False
        self._fresh_until = 0.0
        #: Oldest files of the last count, the very oldest last.
        self._oldest: list[tuple[str, int]] = []

    def reserve_bytes(self, size: int) -> None:
        """Make room for a file of this size, at the cost of the oldest files."""
        is_fresh = time.monotonic() < self._fresh_until
        if is_fresh and size <= self._left:
            self._left -= size
            return
        # In a full folder each new file takes the place of old ones, which need no counting.
        over = size - self._left if is_fresh and self._is_full and self._oldest else self._recount(size)
        while over > 0 and self._oldest:
            name, freed = self._oldest.pop()
            if self._drop(name):
                over -= freed
        self._left = max(-over, 0)

    def _recount(self, size: int) -> int:
        started = time.monotonic()
        files = self._count()
        over = sum(each for _, each in files) + size - self._most
        self._is_full = over > 0
        self._oldest = heapq.nsmallest(_OLDEST_KEPT, files)[::-1] if self._is_full else []
        now = time.monotonic()
        self._fresh_until = now + max(_FRESH, (now - started) * _FRESH_FACTOR)
        return over if self._is_full else over // _SHARE
