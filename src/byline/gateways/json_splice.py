"""Inserts members into a JSON object without re-encoding the rest of the text."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import msgspec

_encode: Final = msgspec.json.Encoder().encode
_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_EMPTY_OBJECT: Final = re.compile(rb"[ \t\r\n]*\{[ \t\r\n]*\}")
#: Positions that are tried if the text of a member occurs several times, and the bytes that are decoded for that.
_MAX_POSITIONS: Final = 64
_MAX_DECODED: Final = 4 * 1024 * 1024


def top_level_members(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Return the raw top-level members of a JSON object, ``None`` if the text is not a JSON object.

    Of repeated names the last one counts, as in Python's ``json``.
    """
    try:
        return _decode_raw(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def encode_members(members: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    """Return members with their values as JSON text."""
    return {name: msgspec.Raw(_encode(value)) for name, value in members.items()}


def insert_members(body: bytes, members: Mapping[str, Any], present: Collection[str] | None = None) -> bytes:
    """Return the JSON object with added top-level members; all other bytes stay the same.

    Members that are already there stay as they are, and a text that is not a JSON object is returned
    unchanged.

    Args:
        body: The JSON text.
        members: The members to add.
        present: The names that are there, if the caller knows them. Finding them takes about five
            times as long as copying the body.

    Example:
        >>> insert_members(b'{"model": "gpt-4o"}', {"user": "ada", "model": "other"})
        b'{"user":"ada","model": "gpt-4o"}'
    """
    if present is None:
        decoded = top_level_members(body)
        if decoded is None:
            return body
        present = decoded
    added = {key: value for key, value in members.items() if key not in present}
    if not added:
        return body
    start = body.index(b"{") + 1
    # By the text itself: `present` may be that of an earlier text.
    comma = b"" if _EMPTY_OBJECT.match(body) else b","
    return b"".join((body[:start], _encode(added)[1:-1], comma, memoryview(body)[start:]))


def insert_into_member(
    body: bytes, name: str, members: Mapping[str, Any], present: Mapping[str, msgspec.Raw] | None = None
) -> bytes:
    """Return the JSON object with members added to the object at one top-level member, created if needed.

    If the member is not an object, the text is returned unchanged.

    Args:
        body: The JSON text.
        name: The top-level member.
        members: The members to add.
        present: The raw members of the body, if the caller has decoded them.

    Example:
        >>> insert_into_member(b'{"trace": {"a": 1}}', "trace", {"b": 2, "a": 3})
        b'{"trace": {"b":2,"a": 1}}'
    """
    if present is None:
        present = top_level_members(body)
    if present is None or not members:
        return body
    if name not in present:
        return insert_members(body, {name: members}, present)
    inner = bytes(present[name])
    extended = insert_members(inner, members)
    if extended is inner:
        return body
    for start in _candidate_positions(body, name, inner):
        changed = b"".join((body[:start], extended, memoryview(body)[start + len(inner) :]))
        # The same text may also occur in a nested object; only at the right position does exactly this member change.
        if _changed_members(present, top_level_members(changed)) == {name: extended}:
            return changed
    return body


def _candidate_positions(body: bytes, name: str, inner: bytes) -> Iterator[int]:
    # Each try decodes the body once. A body of nested decoys must not make the app's request slow.
    max_tries = min(_MAX_POSITIONS, max(2, _MAX_DECODED // len(body)))
    key = re.compile(re.escape(_encode(name)) + rb"[ \t\r\n]*:[ \t\r\n]*")
    tried = 0
    for match in key.finditer(body):
        if body.startswith(inner, match.end()):
            yield match.end()
            tried += 1
            if tried >= max_tries:
                return


def _changed_members(before: Mapping[str, msgspec.Raw], after: Mapping[str, msgspec.Raw] | None) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in (after or {}).items() if name not in before or before[name] != raw}
