"""Rate limits from the headers of every provider."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from byline.call_result import CallResult, RateLimit
from byline.gateways.rate_limits import extract_rate_limits, parse_reset

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8.64s", 8.64),
        ("15ms", 0.015),
        ("1m30s", 90.0),
        ("6h0m0s", 21600.0),
        ("1d2h", 93600.0),
        ("12", 12.0),
        (str(NOW + 5), 5.0),
        (str(int((NOW + 5) * 1000)), 5.0),
        ("2027-01-15T08:00:10Z", 10.0),
        ("2027-01-15T09:00:10+01:00", 10.0),
        ("2027-01-15T07:59:00Z", 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("5s and more", None),
        ("nan", None),
        ("9999-01-01T00:00:00Z", None),
    ],
)
def test_resets_are_seconds(text: str, seconds: float | None) -> None:
    """Resets are durations or timestamps; any other text is dropped."""
    assert parse_reset(text, NOW) == seconds


@given(st.text(max_size=60))
def test_no_reset_raises(text: str) -> None:
    """Any text of a header can be parsed."""
    found = parse_reset(text, NOW)
    assert found is None or found >= 0


def test_openai_headers() -> None:
    """OpenAI states limit, remainder and reset of requests and of tokens."""
    result = CallResult()
    headers = {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "800000",
        "x-ratelimit-remaining-tokens": "799000",
        "x-ratelimit-reset-tokens": "1m",
        "x-request-id": "req_1",
    }
    extract_rate_limits(headers, result, NOW)
    assert result.requests == RateLimit(5000, 4999, 0.012)
    assert result.tokens == RateLimit(800000, 799000, 60.0)
    assert result.request_id == "req_1"


def test_anthropic_headers() -> None:
    """Anthropic states resets as timestamps."""
    result = CallResult()
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:01:00Z",
        "request-id": "req_2",
    }
    extract_rate_limits(headers, result, NOW)
    assert result.requests == RateLimit(50, 49, 60.0)
    assert result.tokens is None
    assert result.request_id == "req_2"


def test_malformed_headers_are_dropped() -> None:
    """A header that is no number is dropped."""
    result = CallResult()
    extract_rate_limits(
        {"x-ratelimit-limit-requests": "many", "x-ratelimit-limit": "-1", "x-request-id": "a\nb"}, result, NOW
    )
    assert (result.requests, result.tokens, result.request_id) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20", 20.0),
        ("Fri, 15 Jan 2027 08:00:20 GMT", 20.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("later", None),
        ("Fri, 99 Jan 2027 08:00:20 GMT", None),
        ("x" * 10_000, None),
    ],
)
def test_retry_after_is_in_seconds(text: str, seconds: float | None) -> None:
    """A number of seconds or a date of HTTP; any other text is dropped."""
    result = CallResult()
    extract_rate_limits({"retry-after": text}, result, NOW)
    assert result.retry_after == seconds
