"""What is done before the process ends, so that nothing that waits is lost."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Final

from byline import deferred, errors

_server_stop_hooks: Final[list[Callable[[], object]]] = []
_exit_hooks: Final[list[Callable[[], object]]] = []


def register(*, pause: Callable[[], object], stop: Callable[[], object]) -> None:
    """Name what is done when a server says that it is about to stop, and what when the interpreter is.

    Servers that are told to stop by a signal often end without the interpreter's own end; but one that
    says so may also go on, as in tests.
    """
    _server_stop_hooks.append(pause)
    _exit_hooks.append(stop)
    if len(_exit_hooks) == 1:
        atexit.unregister(on_exit)
        atexit.register(on_exit)
        _stop_at_childs_end()


def clear() -> None:
    """Do none of it."""
    _server_stop_hooks.clear()
    _exit_hooks.clear()


def has_hooks() -> bool:
    """Whether there is anything to do before the end."""
    return bool(_server_stop_hooks)


def on_server_stop() -> None:
    """Do what has to be done while a server stops."""
    _run(_server_stop_hooks)


def on_exit() -> None:
    """Do what has to be done last."""
    _run(_exit_hooks)


def _stop_at_childs_end(_: object = None) -> None:
    """A child of multiprocessing ends without the interpreter's own end, but for what its own module does."""
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        # Last of all, when the threads that feed its queues are done.
        util.Finalize(None, on_exit, exitpriority=-100)


def _after_fork() -> None:
    # The child forgets first what is to be done at its end, and calls then whoever has asked for it here.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(on_exit, _stop_at_childs_end)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _run(callbacks: list[Callable[[], object]]) -> None:
    deferred.run_deferred()
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            errors.report_internal_error("ending")
