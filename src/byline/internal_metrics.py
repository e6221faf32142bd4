"""Counts what happened inside byline itself: drops, errors, submissions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from byline.fork import after_fork_in_child, fork_safe_lock

_lock: Final = fork_safe_lock()
_counts: Final[Counter[str]] = Counter()
_levels: Final[dict[str, Callable[[], dict[str, int]]]] = {}

# What the parent has counted is the parent's to tell.
after_fork_in_child(_counts.clear)


def increment(name: str, amount: int = 1) -> None:
    """Add to a counter."""
    with _lock:
        _counts[name] += amount


def register_gauges(name: str, read: Callable[[], dict[str, int]]) -> None:
    """Register gauges, e.g. the length of a queue, that `gauge_values` reads until `unregister_gauges`."""
    _levels[name] = read


def unregister_gauges(name: str) -> None:
    """Read its levels no more."""
    _levels.pop(name, None)


def gauge_values() -> dict[str, int]:
    """Return all levels as they stand."""
    return {f"{name}.{level}": value for name, read in sorted(_levels.items()) for level, value in read().items()}


def counter_values() -> dict[str, int]:
    """Return all counters as they stand."""
    with _lock:
        return dict(sorted(_counts.items()))


def clear() -> None:
    """Set all counters back; for tests and `byline.uninstrument`."""
    with _lock:
        _counts.clear()
