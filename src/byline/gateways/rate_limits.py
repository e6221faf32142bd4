"""Rate limits in response headers, in the spellings of all providers and gateways."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Final

from byline.call_result import CallResult, RateLimit
from byline.gateways import values

_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000001, "µs": 0.000001}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|d|h|m|s)")
_MAX_DATE: Final = 64
_MAX_DURATION: Final = 32
_MAX_SECONDS: Final = 366 * 86400.0
#: Numbers from 1e9 on are seconds since the epoch, from 1e12 on milliseconds since the epoch.
_EPOCH_SECONDS: Final = 1e9
_EPOCH_MILLISECONDS: Final = 1e12

#: Headers without a kind count requests.
_PLAIN_HEADERS: Final = (
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)
#: Headers of limit, remaining and reset by kind of limit; the first group with a value wins.
_LIMIT_HEADERS: Final[dict[str, tuple[tuple[str, str, str], ...]]] = {
    kind: (
        (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}"),
        (
            f"anthropic-ratelimit-{kind}-limit",
            f"anthropic-ratelimit-{kind}-remaining",
            f"anthropic-ratelimit-{kind}-reset",
        ),
        *plain,
    )
    for kind, plain in (("requests", _PLAIN_HEADERS), ("tokens", ()))
}
#: Of OpenAI and most others, Anthropic, Azure, Amazon.
_REQUEST_ID_HEADERS: Final = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")
#: Every header that is read here.
_HEADERS: Final = frozenset(
    (
        "retry-after",
        *_REQUEST_ID_HEADERS,
        *itertools.chain(*(group for groups in _LIMIT_HEADERS.values() for group in groups)),
    )
)


def extract_rate_limits(headers: Mapping[str, str], result: CallResult, now: float) -> None:
    """Write the rate limits, ``Retry-After`` and the request id of a response to the call result.

    Args:
        headers: Response headers, names in lower case.
        result: The call result to fill in.
        now: Seconds since the epoch, from which reset times are counted.
    """
    if _HEADERS.isdisjoint(headers):
        return
    for kind, groups in _LIMIT_HEADERS.items():
        limit = _first_limit(headers, groups, now)
        if limit is not None:
            setattr(result, kind, limit)
    retry_after = headers.get("retry-after")
    if retry_after is not None:
        result.retry_after = _parse_retry_after(retry_after, now)
    if result.request_id is None:
        result.request_id = values.text(next(filter(None, map(headers.get, _REQUEST_ID_HEADERS)), None))


def _first_limit(headers: Mapping[str, str], groups: tuple[tuple[str, str, str], ...], now: float) -> RateLimit | None:
    for names in groups:
        stated, remaining, reset = map(headers.get, names)
        if stated is remaining is reset is None:
            continue
        limit = RateLimit(values.count(stated), values.count(remaining), parse_reset(reset or "", now))
        if limit != RateLimit():
            return limit
    return None


def parse_reset(text: str, now: float) -> float | None:
    """Return the seconds until a rate limit resets, ``None`` if the text states no time.

    Example:
        >>> parse_reset("1m30s", 0), parse_reset("15ms", 0), parse_reset("8.64s", 0), parse_reset("12", 0)
        (90.0, 0.015, 8.64, 12.0)
        >>> parse_reset("2026-01-01T00:00:10Z", 1767225600.0)
        10.0
    """
    text = text.strip()
    duration = _parse_duration(text) if len(text) < _MAX_DURATION else None
    if duration is not None:
        return _clamp_seconds(duration)
    number = _parse_number(text)
    if number is not None:
        if number >= _EPOCH_MILLISECONDS:
            return _clamp_seconds(number / 1000 - now)
        return _clamp_seconds(number - now if number >= _EPOCH_SECONDS else number)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return _clamp_seconds(moment.timestamp() - now)


@functools.lru_cache(maxsize=1024)
def _parse_duration(text: str) -> float | None:
    """Return the seconds of a text such as ``1m30s``, ``None`` for another one. Providers send the same ones often."""
    parts = _PART.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        return None
    return sum(float(amount) * _UNITS[unit] for amount, unit in parts)


def _parse_retry_after(text: str, now: float) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which are stated as such or as a date of HTTP."""
    seconds = parse_reset(text, now)
    if seconds is not None or len(text) > _MAX_DATE:
        return seconds
    try:
        return _clamp_seconds(parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _parse_number(text: str) -> float | None:
    try:
        number = float(text) if len(text) < 32 else -1.0
    except ValueError:
        return None
    return number if 0 <= number < 1e14 else None


def _clamp_seconds(seconds: float) -> float | None:
    # A reset time that has just passed means that the limit is available now.
    return None if seconds > _MAX_SECONDS else max(0.0, round(seconds, 6))
