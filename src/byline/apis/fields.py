"""Reads single members of a body: what cannot be true is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from byline.call_result import CallResult
from byline.gateways import values

_MAX_TOKENS: Final = 1_000_000_000


def token_count(value: object) -> int | None:
    """Return a number of tokens, ``None`` for what cannot be one."""
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else None


def whole_number(value: object) -> int | None:
    """Return a whole number as a parameter; some SDKs write 5 as 5.0."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) < 2**63 else None


def string_list(value: object) -> int | None:
    """Return a number of choices, which the conventions leave out where it is one."""
    found = whole_number(value)
    return None if found == 1 else found


def real_number(value: object) -> float | None:
    """Return a number as a parameter."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e12 else None


def string_tuple(value: object) -> tuple[str, ...] | None:
    """Return one text or several, at most sixteen."""
    several = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    kept = tuple(item for item in several[:16] if isinstance(item, str) and 0 < len(item) <= 200)
    return kept or None


def add_finish_reason(reason: object, facts: CallResult) -> None:
    """Add a finish reason."""
    found = values.text(reason)
    if found is not None:
        facts.finish_reasons = (*facts.finish_reasons, found)[:16]


def apply_error(members: Mapping[str, Any], facts: CallResult) -> None:
    """Take the error that a body states, in any provider's shape."""
    error = members.get("error")
    if error is None and members.get("type") != "error":
        error = members.get("detail") or (members.get("message") if "choices" not in members else None)
        if not isinstance(error, str) or "id" in members:
            return
    if isinstance(error, Mapping):
        kind = error.get("type") or error.get("status") or error.get("code")
        message = error.get("message")
    else:
        kind, message = None, error
    facts.error_type = values.text(str(kind)) if isinstance(kind, str | int) else facts.error_type
    facts.error_type = facts.error_type or "error"
    if isinstance(message, str) and message:
        facts.error_message = message[:500]
