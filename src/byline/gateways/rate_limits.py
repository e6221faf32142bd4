"""Seconds until a limit is whole again, from any of the forms in which replies state them."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Final

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001, "µs": 0.000001}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|d|h|m|s)")
_MAX_SECONDS: Final = 366 * 86400.0
#: Numbers above these are moments of this century, not spans of time.
_EPOCH: Final = 1e9
_EPOCH_MS: Final = 1e12


def parse_reset(text: str, now: float) -> float | None:
    """Return the seconds until a reset, from any of the forms that are in use.

    Example:
        >>> parse_reset("1m30s", 0), parse_reset("15ms", 0), parse_reset("8.64s", 0), parse_reset("12", 0)
        (90.0, 0.015, 8.64, 12.0)
        >>> parse_reset("2026-01-01T00:00:10Z", 1767225600.0)
        10.0
    """
    text = text.strip()
    number = _number(text)
    if number is not None:
        # 1e12 and above are milliseconds since the epoch, 1e9 and above seconds.
        seconds = number / 1000 - now if number >= _EPOCH_MS else number - now if number >= _EPOCH else number
        return _sane(seconds)
    parts = _PART.findall(text) if len(text) < 32 else []
    if parts and "".join(amount + unit for amount, unit in parts) == text:
        return _sane(sum(float(amount) * _UNITS[unit] for amount, unit in parts))
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return _sane(moment.timestamp() - now)


def _number(text: str) -> float | None:
    try:
        number = float(text) if len(text) < 32 else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e14 else None


def _sane(seconds: float) -> float | None:
    # A reset that has just passed is due now.
    return None if seconds > _MAX_SECONDS else max(0.0, round(seconds, 6))
