"""A reminder to look again, for what waits in a destination while no further spans come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from byline import errors

#: After how many seconds.
_LATER: Final = 5.0


class RecheckTimer:
    """Calls back a little later, however often it was asked to meanwhile.

    Args:
        callback: What is called, in a thread of its own.
    """

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        self._timer: threading.Timer | None = None

    def set(self) -> None:
        """Ask for a reminder."""
        if self._timer is not None:
            return
        timer = self._timer = threading.Timer(_LATER, self._remind)
        timer.name = "byline-reminder"
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:
            # The interpreter is about to end, and all that waits is sent.
            self._timer = None

    def stop(self) -> None:
        """Ask for none any more; a child process does so, in which the timer does not run."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _remind(self) -> None:
        self._timer = None
        try:
            self._callback()
        except Exception:
            errors.report_internal_error("export")
