"""Fits values into headers: whole or not at all, and lists and objects without what does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from byline.attribution import MASKS, MetadataValue
from byline.gateways.values import as_text

LeaveOut = Callable[[str, str], None]


def encode_header_value(name: str, value: object, *, longest: int, room: int, leave_out: LeaveOut) -> str:
    """Return the text of a header, empty where nothing is left.

    An id is kept whole or left out, for a cut id is another id. Of tags and objects the last ones go
    first.

    Args:
        name: The header's name.
        value: A text, a number, a tuple of tags or an object.
        longest: The most characters of a text.
        room: The most characters of name and value together.
        leave_out: What is told of each thing that does not fit: its name and the reason.

    Example:
        >>> encode_header_value("x-tags", ("a", "b,c", "d"), longest=9, room=99, leave_out=lambda name, reason: None)
        'a,d'
    """
    if isinstance(value, tuple):
        return _fit_tags(name, value, room - len(name), leave_out)
    if isinstance(value, Mapping):
        return _fit_object(name, value, room - len(name), leave_out)
    # Clients refuse to send blanks around a value.
    text = as_text(value).strip()
    if not is_sendable(text):
        leave_out(name, "not printable ASCII")
    elif isinstance(value, str) and len(text) > longest:
        leave_out(name, "too long")
    elif len(name) + len(text) > room:
        leave_out(name, "no room")
    else:
        return text
    return ""


def _fit_tags(name: str, tags: tuple[Any, ...], room: int, leave_out: LeaveOut) -> str:
    kept: list[str] = []
    for tag in tags:
        text = as_text(tag).strip()
        if not is_sendable(text):
            leave_out(name, "not printable ASCII")
        elif "," in text:
            # It would be read as two.
            leave_out(name, "has a comma")
        elif len(text) + 1 > room:
            leave_out(name, "no room")
        else:
            kept.append(text)
            room -= len(text) + 1
    return ",".join(kept)


def _fit_object(name: str, members: Mapping[str, Any], room: int, leave_out: LeaveOut) -> str:
    kept = dict(members)
    # JSON escapes what a header cannot carry.
    text = json.dumps(kept, separators=(",", ":"))
    while kept and len(text) > room:
        key, _ = kept.popitem()
        leave_out(f"{name} {key}", "no room")
        text = json.dumps(kept, separators=(",", ":"))
    return text if kept else ""


def is_sendable(text: str) -> bool:
    """Whether a header can carry this text."""
    return text.isascii() and text.isprintable()


def merge_ids_and_metadata(
    ids: Mapping[str, object],
    metadata: Mapping[str, MetadataValue],
    *,
    reserved: Collection[str] = (),
    leave_out: LeaveOut,
) -> dict[str, MetadataValue]:
    """Return ids and metadata as one object, the ids first.

    Metadata never passes for an id, even for one that is not known: it comes from the client as a
    rule, while an id may have been vouched for.

    Example:
        >>> merge_ids_and_metadata({"user_id": None}, {"user_id": "eve", "n": 1}, leave_out=lambda name, reason: None)
        {'n': 1}
    """
    both: dict[str, MetadataValue] = {name: value for name, value in ids.items() if value and isinstance(value, str)}
    for key, value in metadata.items():
        if key in MASKS:
            # Asked of byline; who understands it is told in its own way.
            continue
        if key in ids or key in reserved:
            leave_out(f"metadata {key}", "the name is taken")
        elif isinstance(value, float) and not math.isfinite(value):
            leave_out(f"metadata {key}", "no number")
        else:
            both[key] = value
    return both
