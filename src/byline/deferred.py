"""Work that comes up at garbage collection, and is done a little later.

A collection may start in any thread at any allocation, also while that thread holds a lock. What a
finalizer does must therefore need none: it leaves its work here, and the next thing that byline does
in the open does it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

from byline import errors
from byline.fork import after_fork_in_child

#: What is done may end spans, and with them come here again.
_local: Final = threading.local()
_queue: Final[deque[Callable[[], None]]] = deque()

#: Leave work to be done afterwards. Needs no lock.
defer: Final = _queue.append

# What waits in the parent is done there.
after_fork_in_child(_queue.clear)


def run_deferred() -> None:
    """Do what waits, apart from whatever request is under way here."""
    if not _queue or getattr(_local, "running", False):
        return
    _local.running = True
    try:
        while _queue:
            try:
                work = _queue.popleft()
            except IndexError:
                # Another thread was faster.
                return
            try:
                Context().run(work)
            except Exception:
                errors.report_internal_error("afterwards")
    finally:
        _local.running = False
