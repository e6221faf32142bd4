"""A queue for the work of finalizers, which must not take locks.

A garbage collection may start in any thread at any allocation, also while that thread holds a lock. A finalizer
therefore only appends its work here; byline runs the work at its next regular call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Final

from byline import errors
from byline.fork import after_fork_in_child


class DeferredWork:
    """Functions that wait to be called outside a finalizer."""

    def __init__(self) -> None:
        self._queue: deque[Callable[[], None]] = deque()
        #: The work may end spans, which calls `run` again in the same thread.
        self._local = threading.local()
        #: Append a function to the queue. Takes no lock.
        self.defer = self._queue.append
        # The parent process runs its own work.
        after_fork_in_child(self._queue.clear)

    def run(self) -> None:
        """Call all functions that wait, each in an empty context, apart from the current request."""
        if not self._queue or getattr(self._local, "is_running", False):
            return
        self._local.is_running = True
        try:
            while self._queue:
                try:
                    function = self._queue.popleft()
                except IndexError:
                    # Another thread was faster.
                    return
                try:
                    Context().run(function)
                except Exception:
                    errors.report_internal_error("deferred work")
                # The last reference to what it works on, whose finalizer may append more work.
                del function
        finally:
            self._local.is_running = False


_work: Final = DeferredWork()
defer: Final = _work.defer
run_deferred: Final = _work.run
