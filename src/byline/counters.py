"""Counts what happened inside byline itself: drops, errors, submissions."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

_lock: Final = threading.Lock()
_counts: Final[Counter[str]] = Counter()


def count(name: str, amount: int = 1) -> None:
    """Add to a counter."""
    with _lock:
        _counts[name] += amount


def snapshot() -> dict[str, int]:
    """Return all counters as they stand."""
    with _lock:
        return dict(sorted(_counts.items()))


def clear() -> None:
    """Set all counters back; for tests and `byline.uninstrument`."""
    with _lock:
        _counts.clear()
