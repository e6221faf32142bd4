"""Handling of byline's own errors: telemetry never breaks the app."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from byline.internal_metrics import increment

logger: Final = logging.getLogger("byline")


#: Different messages that are logged; later ones are counted only.
MAX_MESSAGES: Final = 1000


class OnceLogger:
    """Logs each message once in the life of the process, and counts the rest as ``log.suppressed``."""

    def __init__(self) -> None:
        self._logged: set[str] = set()

    def log(self, level: int, key: str, message: str, *values: object) -> None:
        """Log a message the first time that its key is used."""
        if key in self._logged or len(self._logged) >= MAX_MESSAGES:
            increment("log.suppressed")
            return
        self._logged.add(key)
        logger.log(level, message, *values)

    def clear(self) -> None:
        """Log every message again, once."""
        self._logged.clear()


once: Final = OnceLogger()


def warn_once(key: str, message: str, *values: object) -> None:
    """Log a warning the first time that its key is used."""
    once.log(logging.WARNING, key, message, *values)


def error_once(key: str, message: str, *values: object) -> None:
    """Log an error the first time that its key is used."""
    once.log(logging.ERROR, key, message, *values)


def report_internal_error(where: str) -> None:
    """Handle the current exception: raise it again under pytest, else count the exception and log it once.

    Call this in an ``except`` block. The log has the place and the class of the exception only, because the
    message of the exception may contain a prompt or a key.
    """
    error = sys.exception() if sys.version_info >= (3, 11) else sys.exc_info()[1]
    if error is None:
        return
    # A bug in byline fails the tests of byline and of its users, and nothing else.
    if "PYTEST_VERSION" in os.environ:
        raise error
    increment(f"errors.{where}")
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = "" if traceback is None else f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
    warn_once(where, "byline.E090: %s failed with %s%s; the app goes on without it", where, type(error).__name__, place)


def report_callback_error(where: str) -> None:
    """Handle the current exception of a function of the user's, which may be any but a ``KeyboardInterrupt``.

    ``sys.exit()``, or a cancelled task in an event loop of the function's own, would end byline's thread.
    """
    if isinstance(sys.exc_info()[1], KeyboardInterrupt):
        raise
    report_internal_error(where)
