"""Rate limits of providers and gateways, in one shape."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Final

from byline.facts import Facts, Limit
from byline.gateways import values

#: What is limited → the headers that state limit, remainder and reset, the most telling first.
_HEADERS: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    kind: (
        (
            f"x-ratelimit-limit-{kind}",
            f"x-ratelimit-remaining-{kind}",
            f"x-ratelimit-reset-{kind}",
        ),
        (
            f"anthropic-ratelimit-{kind}-limit",
            f"anthropic-ratelimit-{kind}-remaining",
            f"anthropic-ratelimit-{kind}-reset",
        ),
    )
    for kind in ("requests", "tokens")
}
_PLAIN: Final = (
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)
_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001, "µs": 0.000001}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|d|h|m|s)")
_MAX_SECONDS: Final = 366 * 86400.0
#: Numbers above these are moments of this century, not spans of time.
_EPOCH: Final = 1e9
_EPOCH_MS: Final = 1e12


def read_limits(headers: Mapping[str, str], facts: Facts, now: float) -> None:
    """Read the allowances, and the provider's id of the exchange.

    Args:
        headers: Reply headers, names in lower case.
        facts: Where they go.
        now: Seconds since the epoch, from which resets that are moments are counted.
    """
    for kind, groups in _HEADERS.items():
        limit = _first(headers, groups if kind == "tokens" else (*groups, *_PLAIN), now)
        if limit is not None:
            setattr(facts, kind, limit)
    if facts.request_id is None:
        facts.request_id = values.text(headers.get("x-request-id") or headers.get("request-id"))


def _first(headers: Mapping[str, str], groups: tuple[tuple[str, str, str], ...], now: float) -> Limit | None:
    for limit, remaining, reset in groups:
        found = Limit(
            values.count(headers.get(limit)),
            values.count(headers.get(remaining)),
            parse_reset(headers.get(reset, ""), now),
        )
        if found != Limit():
            return found
    return None


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
