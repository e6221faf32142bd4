"""Adds members to a JSON object without re-encoding what is there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

_encode: Final = msgspec.json.Encoder().encode
_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
#: How many places are tried where the same text stands several times.
_MAX_PLACES: Final = 64


def top_level_members(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the top-level members of a JSON object, each raw; ``None`` when it is none.

    Of a name that stands there twice the last one counts, as everywhere.
    """
    try:
        return _decode_raw(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def insert_members(body: bytes, members: Mapping[str, Any], present: Collection[str] | None = None) -> bytes:
    """Add top-level members to a JSON object, byte for byte the same but for what is added.

    A member that is there already stays as it is, and what is no JSON object comes back unchanged.

    Args:
        body: The JSON text.
        members: What to add.
        present: The names that are there, where the caller knows them; else they are looked for,
            which takes some five times as long as a copy of the body.

    Example:
        >>> insert_members(b'{"model": "gpt-4o"}', {"user": "ada", "model": "other"})
        b'{"user":"ada","model": "gpt-4o"}'
    """
    if present is None:
        found = top_level_members(body)
        if found is None:
            return body
        present = found
    added = {key: value for key, value in members.items() if key not in present}
    if not added:
        return body
    start = body.index(b"{") + 1
    comma = b"," if present else b""
    return b"".join((body[:start], _encode(added)[1:-1], comma, memoryview(body)[start:]))


def insert_into_member(
    body: bytes, name: str, members: Mapping[str, Any], found: Mapping[str, msgspec.Raw] | None = None
) -> bytes:
    """Add members to the object that stands at a top-level member, which is made where it is missing.

    Where the member is no object, everything stays as it is.

    Args:
        body: The JSON text.
        name: The top-level member.
        members: What to add to it.
        found: The body's members, where the caller has read them.

    Example:
        >>> insert_into_member(b'{"trace": {"a": 1}}', "trace", {"b": 2, "a": 3})
        b'{"trace": {"b":2,"a": 1}}'
    """
    if found is None:
        found = top_level_members(body)
    if found is None or not members:
        return body
    if name not in found:
        return insert_members(body, {name: members}, found)
    inner = bytes(found[name])
    wider = insert_members(inner, members)
    if wider is inner:
        return body
    for start in _places(body, name, inner):
        changed = b"".join((body[:start], wider, memoryview(body)[start + len(inner) :]))
        # The same text may stand further inside too: at its own place it changes this member alone.
        if _differ(found, top_level_members(changed)) == {name: wider}:
            return changed
    return body


def _places(body: bytes, name: str, inner: bytes) -> Iterator[int]:
    key = re.compile(re.escape(_encode(name)) + rb"[ \t\r\n]*:[ \t\r\n]*")
    tried = 0
    for match in key.finditer(body):
        if body.startswith(inner, match.end()):
            yield match.end()
            tried += 1
            if tried >= _MAX_PLACES:
                return


def _differ(before: Mapping[str, msgspec.Raw], after: Mapping[str, msgspec.Raw] | None) -> dict[str, bytes]:
    found = after or {}
    return {name: bytes(raw) for name, raw in found.items() if name not in before or before[name] != raw}
