"""Adds members to a JSON object without re-encoding what is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

_encode: Final = msgspec.json.Encoder().encode
_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def members_of(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the top-level members of a JSON object, each raw; ``None`` when it is none."""
    try:
        return _decode_raw(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def splice(body: bytes, members: Mapping[str, Any], present: Collection[str] | None = None) -> bytes:
    """Add top-level members to a JSON object, byte for byte the same but for what is added.

    A member that is there already stays as it is, and what is no JSON object comes back unchanged.

    Args:
        body: The JSON text.
        members: What to add.
        present: The keys that are there, where the caller knows them.

    Example:
        >>> splice(b'{"model": "gpt-4o"}', {"user": "ada", "model": "other"})
        b'{"user":"ada","model": "gpt-4o"}'
    """
    if present is None:
        found = members_of(body)
        if found is None:
            return body
        present = found
    added = {key: value for key, value in members.items() if key not in present}
    if not added:
        return body
    start = body.index(b"{") + 1
    comma = b"," if present else b""
    return b"".join((body[:start], _encode(added)[1:-1], comma, memoryview(body)[start:]))


def splice_into(body: bytes, name: str, members: Mapping[str, Any]) -> bytes:
    """Add members to the object that stands at a top-level member, which is made where it is missing.

    Example:
        >>> splice_into(b'{"trace": {"a": 1}}', "trace", {"b": 2, "a": 3})
        b'{"trace": {"b":2,"a": 1}}'
    """
    found = members_of(body)
    if found is None or not members:
        return body
    raw = found.get(name)
    if raw is None:
        return splice(body, {name: members}, found)
    inner = bytes(raw)
    wider = splice(inner, members)
    # The raw member is a view into the body: where it stands there is where it starts.
    start = _position(body, raw)
    if wider is inner or start < 0:
        return body
    return b"".join((body[:start], wider, memoryview(body)[start + len(inner) :]))


def _position(body: bytes, raw: msgspec.Raw) -> int:
    """Return where a raw member stands in the body it came from; -1 where that is not certain."""
    inner = bytes(raw)
    first = body.find(inner)
    return first if body.find(inner, first + 1) < 0 else -1
