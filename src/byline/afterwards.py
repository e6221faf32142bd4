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

from byline import guard
from byline.locks import in_child

#: What is done may end spans, and with them come here again.
_here: Final = threading.local()
_waiting: Final[deque[Callable[[], None]]] = deque()

#: Leave work to be done afterwards. Needs no lock.
put: Final = _waiting.append

# What waits in the parent is done there.
in_child(_waiting.clear)


def run() -> None:
    """Do what waits, apart from whatever request is under way here."""
    if not _waiting or getattr(_here, "running", False):
        return
    _here.running = True
    try:
        while _waiting:
            try:
                work = _waiting.popleft()
            except IndexError:
                # Another thread was faster.
                return
            try:
                Context().run(work)
            except Exception:
                guard.report("afterwards")
    finally:
        _here.running = False
