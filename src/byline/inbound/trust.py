"""Which claims are accepted, and from whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping
from inspect import iscoroutinefunction
from typing import Any, Final, cast

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

Predicate = Callable[[MutableMapping[str, Any]], "bool | str | Collection[str] | None"]
Trust = Collection[str] | Predicate


def validate_trust(trust: Trust) -> Trust:
    """Return ``trust`` when it can be used. Raises `SettingError` ``byline.E011`` otherwise."""
    if is_plain_function(trust):
        return trust
    try:
        groups = None if isinstance(trust, str) else frozenset(cast("Collection[str]", trust))
    except TypeError:
        groups = None
    if groups is None or not groups <= GROUPS:
        raise SettingError(
            "byline.E011",
            f"trust={trust!r} names no claim groups",
            f"pass a set of {', '.join(sorted(GROUPS))}, an empty set, or a plain function of the request",
        )
    return GROUPS if groups == GROUPS else groups


def is_plain_function(value: object) -> bool:
    """Whether this can be called and answers at once: the spans cannot wait for a coroutine."""
    return callable(value) and not iscoroutinefunction(value) and not iscoroutinefunction(type(value).__call__)


def accepted_fields(trust: Trust, raw: MutableMapping[str, Any]) -> frozenset[str]:
    """Return the attribution fields that this request may claim."""
    answer = trust(raw) if callable(trust) else trust
    if answer is True:
        return FIELDS
    if not answer:
        return frozenset()
    groups = GROUPS.intersection((answer,) if isinstance(answer, str) else answer)
    return frozenset(field for field, group in GROUP_OF.items() if group in groups)
