"""Which claims are accepted, and from whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping
from typing import Any, Final

from byline.attribution import FIELDS
from byline.settings import SettingError

#: Attribution field → the claim group that it belongs to.
GROUP_OF: Final[dict[str, str]] = {
    "session_id": "session",
    "user_id": "user",
    "organization_id": "user",
    "environment_id": "user",
    "trace_id": "trace",
    "parent_span_id": "trace",
    "trace_name": "labels",
    "span_name": "labels",
    "generation_name": "labels",
    "environment": "labels",
    "release": "labels",
    "version": "labels",
    "tags": "labels",
    "metadata": "metadata",
}
GROUPS: Final = frozenset(GROUP_OF.values())

Predicate = Callable[[MutableMapping[str, Any]], bool | Collection[str]]
Trust = Collection[str] | Predicate


def check(trust: Trust) -> Trust:
    """Return ``trust`` when it can be used. Raises `SettingError` ``byline.E011`` otherwise."""
    if callable(trust):
        return trust
    groups = frozenset(trust)
    if groups == GROUPS:
        return GROUPS
    if isinstance(trust, str) or not groups <= GROUPS:
        raise SettingError(
            "byline.E011",
            f"trust={trust!r} names no claim groups",
            f"pass a set of {', '.join(sorted(GROUPS))}, an empty set, or a function of the request",
        )
    return groups


def accepted_fields(trust: Trust, raw: MutableMapping[str, Any]) -> frozenset[str]:
    """Return the attribution fields that this request may claim."""
    answer = trust(raw) if callable(trust) else trust
    if answer is True:
        return FIELDS
    if not answer:
        return frozenset()
    groups = GROUPS.intersection(answer)
    return frozenset(field for field, group in GROUP_OF.items() if group in groups)
