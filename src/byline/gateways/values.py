"""Checked values of responses: numbers, texts and objects; ``None`` for anything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

_MAX_TEXT: Final = 200
_MAX_NUMBER: Final = 1e12
#: Types of values that may state a number; a boolean does not.
_STATES_NUMBER: Final = (int, float, str)
#: The most USD that a response may state for one call; more is taken for an error.
MAX_COST: Final = 10_000


def number(value: object) -> float | None:
    """Return a finite number that is not negative, also from text; ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, _STATES_NUMBER):
        return None
    try:
        parsed = float(value)
    except (ValueError, OverflowError):
        return None
    return parsed if math.isfinite(parsed) and 0 <= parsed <= _MAX_NUMBER else None


def amount(value: object) -> float | None:
    """Return an amount of money in USD, ``None`` if the value is not an amount."""
    return number(value)


def ticks(value: object) -> float | None:
    """Return an amount in xAI's unit as USD: ten billion ticks are one USD.

    Source: https://docs.x.ai/developers/cost-tracking.

    Example:
        >>> ticks(37756000)
        0.0037756
    """
    return value / 1e10 if type(value) is int and 0 <= value <= _MAX_NUMBER * 100 else None


def cost(value: object) -> float | None:
    """Return the cost of one call in USD, ``None`` if the value cannot be one.

    Example:
        >>> cost("0.25"), cost(999_999_999)
        (0.25, None)
    """
    parsed = number(value)
    return parsed if parsed is not None and parsed <= MAX_COST else None


def count(value: object) -> int | None:
    """Return a whole number, ``None`` for anything else."""
    parsed = number(value)
    return int(parsed) if parsed is not None and parsed == int(parsed) else None


def seconds(milliseconds: object) -> float | None:
    """Return milliseconds as seconds, ``None`` if the value is not a number."""
    parsed = number(milliseconds)
    return None if parsed is None else parsed / 1000


def text(value: object) -> str | None:
    """Return a printable text of at most 200 characters, ``None`` for anything else."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable() else None


def as_text(value: object) -> str:
    """Return a metadata value as text, with booleans as in JSON.

    Example:
        >>> as_text(True), as_text(2), as_text("a")
        ('true', '2', 'a')
    """
    return str(value).lower() if isinstance(value, bool) else str(value)


def mapping(value: object) -> Mapping[str, Any]:
    """Return an object, an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}
