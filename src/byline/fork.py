"""What a fork must not take along: locks that are held, and work that is the parent's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def after_fork_in_child(callback: Callable[[], object]) -> None:
    """Have something done in each child process, before anything else happens there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=callback)


def fork_safe_lock() -> threading.Lock:
    """Make a lock of a module, which is free in a child process even if it was held at the fork.

    A server that forks its workers may do so while another thread holds it; in the child that thread
    does not exist, and nobody would ever let go.
    """
    lock = threading.Lock()
    # As the standard library's own modules do it.
    renew = getattr(lock, "_at_fork_reinit", None)
    if renew is not None:
        after_fork_in_child(renew)
    return lock
