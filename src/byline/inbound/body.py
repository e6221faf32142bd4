"""The JSON body of a request: teed as the app reads it, and read only when somebody asks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

DEFAULT_LIMIT: Final = 16 * 1024 * 1024

_decode: Final = msgspec.json.Decoder().decode
_absent: Final = msgspec.UNSET


class Body:
    """References to the chunks that the app has read so far, up to a limit.

    Nothing is copied and nothing is parsed before `read`. ``complete`` says that the app has seen
    the last chunk or as many bytes as Content-Length announced; over the limit all chunks are let
    go at once.
    """

    __slots__ = ("_members", "chunks", "complete", "expected", "limit", "overflow", "size")

    def __init__(self, limit: int, expected: int | None) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.limit = limit
        self.expected = expected
        self.complete = False
        self._members: dict[str, Any] | None = None
        self.overflow = expected is not None and expected > limit

    def feed(self, chunk: bytes, last: bool) -> None:
        """Take note of a chunk that the app has just been given."""
        if self.complete or self.overflow:
            return
        if chunk:
            self.size += len(chunk)
            if self.size > self.limit:
                self.overflow = True
                self.chunks = []
                return
            self.chunks.append(chunk)
        # Some apps stop reading at Content-Length and never see a chunk that says it is the last.
        if last or (self.expected is not None and self.size >= self.expected):
            self.complete = True

    def read(self, reader: BodyReader) -> dict[str, Any] | None:
        """Return the wanted members, ``None`` when this is no JSON object; let the chunks go."""
        if self.chunks:
            data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
            self.chunks = []
            self._members = reader.read(data)
        return self._members


#: Stands for a body of which the app has not asked for anything yet.
UNREAD: Final = Body(0, None)


class BodyReader:
    """Reads only the wanted top-level members of a JSON object.

    Each is kept raw until it is asked for, so that one broken member spoils no other. Texts that
    msgspec refuses but Python's ``json`` accepts (NaN, a byte order mark, UTF-16, lone surrogates)
    are read by the latter, for the app reads them too.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        fields = [
            (f"f{index}", msgspec.Raw | msgspec.UnsetType, msgspec.field(default=_absent, name=name))
            for index, name in enumerate(self.names)
        ]
        self._struct = msgspec.defstruct("Wanted", fields, gc=False)
        self._decoder = msgspec.json.Decoder(self._struct)

    def read(self, data: bytes) -> dict[str, Any] | None:
        """Return the wanted members, ``None`` when the body is no JSON object.

        A member that cannot be decoded by itself is left out.
        """
        try:
            wanted = self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._read_slowly(data)
        members: dict[str, Any] = {}
        for index, name in enumerate(self.names):
            raw = getattr(wanted, f"f{index}")
            if raw is not _absent:
                try:
                    members[name] = _decode(raw)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                    _add_slowly(members, name, bytes(raw))
        return members

    def _read_slowly(self, data: bytes) -> dict[str, Any] | None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        return {name: value[name] for name in self.names if name in value}


def _add_slowly(members: dict[str, Any], name: str, raw: bytes) -> None:
    try:
        members[name] = json.loads(raw)
    except (ValueError, RecursionError):
        # An object in the place of an id says "wrong type" where it is cleaned, as this must.
        members[name] = {}


def at_path(members: Any, path: tuple[str, ...]) -> Any:
    """Return what stands at a dotted path of decoded JSON, ``None`` where nothing does."""
    for part in path:
        if not isinstance(members, dict):
            return None
        members = members.get(part)
    return members
