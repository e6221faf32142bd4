"""How many spans may wait for a destination, and for how long: as the variables of OpenTelemetry's SDK say."""

from __future__ import annotations

import os
from typing import Final

_DEFAULT_ROOM: Final = 2048
_DEFAULT_BATCH: Final = 512
#: How long a span may be in memory alone where there is a spool, in milliseconds.
_SPOOL_DELAY: Final = 500.0


def queue_size() -> int:
    """Return how many spans may wait in memory."""
    return _read("OTEL_BSP_MAX_QUEUE_SIZE", _DEFAULT_ROOM)


def batch_size(room: int) -> int:
    """Return how many spans go at once, of so many that may wait."""
    return min(_read("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", _DEFAULT_BATCH), room)


def schedule_delay_millis(*, spooled: bool) -> float | None:
    """Return how long a span waits for others, in milliseconds; ``None`` for as long as the SDK lets it."""
    # What is on disk is safe, so that it goes there soon.
    return _SPOOL_DELAY if spooled and not os.environ.get("OTEL_BSP_SCHEDULE_DELAY") else None


def _read(variable: str, default: int) -> int:
    try:
        return max(1, int(os.environ.get(variable, "")))
    except ValueError:
        return default
