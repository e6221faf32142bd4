"""Fork safety: a child process starts without the locks and the work of its parent."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable


def after_fork_in_child(callback: Callable[[], object]) -> None:
    """Call a function in each child process, before any other code runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


def after_fork_while_alive(method: Callable[[], object]) -> None:
    """Call a bound method in each child process as long as its object lives, which this does not prolong."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        referent = reference()
        if referent is not None:
            referent()

    after_fork_in_child(call)


def before_fork(callback: Callable[[], object]) -> None:
    """Call a function before each fork of this process, on the thread that forks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=callback)


def fork_safe_lock() -> threading.RLock:
    """Return a lock that lives as long as the process and is free in a child process.

    A server may fork its workers while another thread holds the lock. That thread does not exist in the child, so
    that nothing would ever release the lock there. The lock is reentrant: an instrumentation's span may end in a
    finalizer or signal handler, which may run at any allocation of the code that holds the lock.
    """
    lock = threading.RLock()
    # The standard library's own modules renew their locks in the same way.
    renew = getattr(lock, "_at_fork_reinit", None)
    if renew is not None:
        after_fork_in_child(renew)
    return lock
