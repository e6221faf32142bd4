"""Values of replies: numbers that are numbers and texts that are short, else nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

_MAX_TEXT: Final = 200
_MAX_NUMBER: Final = 1e12


def number(value: object) -> float | None:
    """Return a finite number that is not negative, also from text; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and 0 <= found <= _MAX_NUMBER else None


def amount(value: object) -> float | None:
    """Return an amount of money in USD."""
    return number(value)


def count(value: object) -> int | None:
    """Return a whole number."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def seconds(milliseconds: object) -> float | None:
    """Return milliseconds as seconds."""
    found = number(milliseconds)
    return None if found is None else found / 1000


def text(value: object) -> str | None:
    """Return a short printable text."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable() else None


def as_text(value: object) -> str:
    """Return a metadata value as the text that JSON would have for it.

    Example:
        >>> as_text(True), as_text(2), as_text("a")
        ('true', '2', 'a')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
