"""Telemetry never breaks the app: every hook ends in `report_internal_error`."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

from byline import internal_metrics

logger: Final = logging.getLogger("byline")
_told: Final[set[str]] = set()


def report_internal_error(where: str) -> None:
    """Handle the exception in flight: raise it again under pytest, else count it and log it once.

    Call it in an ``except`` block. The log names the place and the exception's class alone, for its
    message may hold a prompt or a key.
    """
    error = sys.exception() if sys.version_info >= (3, 11) else sys.exc_info()[1]
    if error is None:
        return
    # So that a bug in byline fails the tests of byline and of its users, and nothing else.
    if "PYTEST_VERSION" in os.environ:
        raise error
    internal_metrics.increment(f"errors.{where}")
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    place = "" if traceback is None else f" at {traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
    warn_once(where, "byline.E090: %s failed with %s%s; the app goes on without it", where, type(error).__name__, place)


def warn_once(key: str, message: str, *values: object) -> None:
    """Log a warning the first time that its key comes by."""
    if key not in _told:
        _told.add(key)
        logger.warning(message, *values)


def error_once(key: str, message: str, *values: object) -> None:
    """Log an error the first time that its key comes by."""
    if key not in _told:
        _told.add(key)
        logger.error(message, *values)
