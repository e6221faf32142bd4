"""Hooks that run before the process ends, so that waiting spans are not lost."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

from byline import deferred, errors
from byline.fork import after_fork_in_child

#: Seconds for the last export; Docker and Kubernetes kill a process 10 and 30 seconds after SIGTERM.
_SIGTERM_TIMEOUT: Final = 5.0


class ShutdownHooks:
    """Functions to call when a server stops, and when the interpreter exits."""

    def __init__(self) -> None:
        self._on_server_stop: list[Callable[[], object]] = []
        self._on_exit: list[Callable[[], object]] = []

    def register(self, *, on_server_stop: Callable[[], object], on_exit: Callable[[], object]) -> None:
        """Add the two functions.

        A server that is stopped by a signal often ends without the exit of the interpreter. A server that says
        that it stops may also go on, as in tests.
        """
        self._on_server_stop.append(on_server_stop)
        self._on_exit.append(on_exit)
        if len(self._on_exit) == 1:
            atexit.unregister(self.on_exit)
            atexit.register(self.on_exit)
            self.finalize_multiprocessing_child()

    def clear(self) -> None:
        """Remove all functions."""
        self._on_server_stop.clear()
        self._on_exit.clear()

    def has_hooks(self) -> bool:
        """Return whether any function is registered."""
        return bool(self._on_server_stop)

    def on_server_stop(self) -> None:
        """Call the functions for the stop of a server."""
        _call_all(self._on_server_stop)

    def on_exit(self) -> None:
        """Call the functions for the exit of the interpreter."""
        _call_all(self._on_exit)

    def call_on_sigterm(self) -> None:
        """Call the functions for the stop of a server on SIGTERM too, and then do what the signal did before.

        A handler that the app sets later replaces this one. Python takes handlers on the main thread only.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGTERM)

        def handle(number: int, frame: FrameType | None) -> None:
            # In a thread, because the main thread may hold a lock at the moment of the signal.
            thread = threading.Thread(target=self.on_server_stop, daemon=True)
            thread.start()
            thread.join(_SIGTERM_TIMEOUT)
            if callable(before):
                before(number, frame)
            elif before != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)

        signal.signal(signal.SIGTERM, handle)

    def finalize_multiprocessing_child(self, _: object = None) -> None:
        """Register with `multiprocessing.util.Finalize`, because children of multiprocessing skip `atexit`."""
        util = sys.modules.get("multiprocessing.util")
        process = sys.modules.get("multiprocessing.process")
        if util is not None and process is not None and process.parent_process() is not None:
            # The lowest priority: the threads that feed the queues of the child end before.
            util.Finalize(None, self.on_exit, exitpriority=-100)

    def after_fork(self) -> None:
        """Register again in a child process, which drops its finalizers before it calls this."""
        util = sys.modules.get("multiprocessing.util")
        if util is not None:
            util.register_after_fork(self, ShutdownHooks.finalize_multiprocessing_child)


def _call_all(functions: list[Callable[[], object]]) -> None:
    deferred.run_deferred()
    for function in list(functions):
        try:
            function()
        except Exception:
            errors.report_internal_error("shutdown")


hooks: Final = ShutdownHooks()
after_fork_in_child(hooks.after_fork)
