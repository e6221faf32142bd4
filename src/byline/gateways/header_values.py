"""Encodes header values within length limits: texts whole or not at all, lists and objects without their last parts."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from byline.attribution import MASKS, MetadataValue
from byline.gateways.values import as_text

#: Called with the name of a field that is not sent, and the reason.
OnOmit = Callable[[str, str], None]


def encode_header_value(name: str, value: object, *, max_length: int, budget: int, on_omit: OnOmit) -> str:
    """Return the text of a header, empty if nothing can be sent.

    An id is sent whole or not at all, because a truncated id would identify something else. Tags and
    members of objects are omitted from the last one on.

    Args:
        name: The header's name.
        value: A text, a number, a tuple of tags or an object.
        max_length: The most characters of a text.
        budget: The most characters of name and value together.
        on_omit: Called for each part of the value that is omitted.

    Example:
        >>> encode_header_value("x-tags", ("a", "b,c", "d"), max_length=9, budget=99, on_omit=lambda name, reason: None)
        'a,d'
    """
    if isinstance(value, tuple):
        return _encode_tags(name, value, budget - len(name), on_omit)
    if isinstance(value, Mapping):
        return _encode_object(name, value, budget - len(name), on_omit)
    # HTTP clients refuse values with leading or trailing spaces.
    text = as_text(value).strip()
    if not is_sendable(text):
        on_omit(name, "not printable ASCII")
    elif isinstance(value, str) and len(text) > max_length:
        on_omit(name, "too long")
    elif len(name) + len(text) > budget:
        on_omit(name, "no room")
    else:
        return text
    return ""


def _encode_tags(name: str, tags: tuple[Any, ...], budget: int, on_omit: OnOmit) -> str:
    encoded: list[str] = []
    for tag in tags:
        text = as_text(tag).strip()
        if not is_sendable(text):
            on_omit(name, "not printable ASCII")
        elif "," in text:
            # The gateway would split it into two tags.
            on_omit(name, "has a comma")
        elif len(text) + 1 > budget:
            on_omit(name, "no room")
        else:
            encoded.append(text)
            budget -= len(text) + 1
    return ",".join(encoded)


def _encode_object(name: str, members: Mapping[str, Any], budget: int, on_omit: OnOmit) -> str:
    remaining = dict(members)
    # JSON escapes the characters that a header cannot carry.
    text = json.dumps(remaining, separators=(",", ":"))
    while remaining and len(text) > budget:
        key, _ = remaining.popitem()
        on_omit(f"{name} {key}", "no room")
        text = json.dumps(remaining, separators=(",", ":"))
    return text if remaining else ""


def is_sendable(text: str) -> bool:
    """Return whether a header can carry this text."""
    return text.isascii() and text.isprintable()


def merge_ids_and_metadata(
    ids: Mapping[str, object],
    metadata: Mapping[str, MetadataValue],
    *,
    reserved: Collection[str] = (),
    on_omit: OnOmit,
) -> dict[str, MetadataValue]:
    """Return ids and metadata as one object, the ids first.

    Metadata cannot stand in for an id, even for one that is not set: metadata usually comes from the
    client, while an id may have been authenticated. Names are compared without case and with
    underscores as dashes, because some gateways make headers of them.

    Example:
        >>> merge_ids_and_metadata({"user_id": None}, {"user_id": "eve", "n": 1}, on_omit=lambda name, reason: None)
        {'n': 1}
    """
    merged: dict[str, MetadataValue] = {name: value for name, value in ids.items() if value and isinstance(value, str)}
    taken = _fold_names((*ids, *reserved))
    for key, value in metadata.items():
        if key in MASKS:
            # A request to byline; gateways that know masking get it in their own form.
            continue
        if _fold_name(key) in taken:
            on_omit(f"metadata {key}", "the name is reserved")
        elif isinstance(value, float) and not math.isfinite(value):
            on_omit(f"metadata {key}", "not a finite number")
        else:
            merged[key] = value
    return merged


@functools.lru_cache(maxsize=256)
def _fold_names(names: tuple[str, ...]) -> frozenset[str]:
    """Return the names that metadata cannot have. Each gateway has the same ones for all its calls."""
    return frozenset(map(_fold_name, names))


def _fold_name(name: str) -> str:
    return name.strip().lower().replace("-", "_")
