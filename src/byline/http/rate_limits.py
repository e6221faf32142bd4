"""Rate limits of providers and gateways, in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.rate_limits import parse_reset

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
#: Of OpenAI and most others, Anthropic, Azure, Amazon.
_REQUEST_IDS: Final = ("x-request-id", "request-id", "apim-request-id", "x-amzn-requestid")
_PLAIN: Final = (
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)


def extract_rate_limits(headers: Mapping[str, str], facts: CallResult, now: float) -> None:
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
        stated = (headers.get(name) for name in _REQUEST_IDS)
        facts.request_id = values.text(next((found for found in stated if found), None))


def _first(headers: Mapping[str, str], groups: tuple[tuple[str, str, str], ...], now: float) -> RateLimit | None:
    for limit, remaining, reset in groups:
        found = RateLimit(
            values.count(headers.get(limit)),
            values.count(headers.get(remaining)),
            parse_reset(headers.get(reset, ""), now),
        )
        if found != RateLimit():
            return found
    return None
