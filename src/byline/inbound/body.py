"""The JSON body of a request: teed as the app reads it, and read only when somebody asks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from byline.attribution import BROKEN, Broken

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
        self._members: dict[str, Any] | None = {}
        self.overflow = expected is not None and expected > limit

    def feed(self, chunk: bytes, last: bool) -> None:
        """Take note of a chunk that the app has just been given."""
        if self.complete or self.overflow:
            return
        if chunk:
            if type(chunk) is not bytes:
                # A buffer that the server may fill anew.
                chunk = bytes(chunk)
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
        """Return the wanted members, ``None`` when this is not JSON; let the chunks go.

        JSON of any other kind than an object has no members, nor has no body at all.
        """
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
        """Return the wanted members, ``None`` when the body is not JSON.

        In the place of a member that cannot be decoded by itself stands `BROKEN`.
        """
        try:
            wanted = self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._read_slowly(data)
        members: dict[str, Any] = {}
        for name, raw in zip(self.names, msgspec.structs.astuple(wanted), strict=True):
            if raw is not _absent:
                try:
                    members[name] = _decode(raw)
                except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                    members[name] = decode_slowly(bytes(raw))
        return members

    def _read_slowly(self, data: bytes) -> dict[str, Any] | None:
        value = decode_slowly(data)
        if value is BROKEN:
            return None
        if not isinstance(value, dict):
            return {}
        return {name: value[name] for name in self.names if name in value}


def decode_slowly(text: bytes | str) -> Any:
    """Decode JSON with everything that Python's ``json`` puts up with; `BROKEN` where it does not.

    Integers that Python would refuse, of more than 4,300 digits, are broken by themselves.
    """
    try:
        return json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return BROKEN


def _parse_int(digits: str) -> int | Broken:
    return int(digits) if len(digits) < 1000 else BROKEN


def is_json(content_type: str) -> bool:
    """Whether a body of this type is one JSON text."""
    return content_type.partition(";")[0].rstrip().lower().endswith(("/json", "+json"))


def parse_length(text: str) -> int | None:
    """Return a Content-Length, ``None`` where it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def at_path(members: Any, path: tuple[str, ...]) -> Any:
    """Return what stands at a dotted path of decoded JSON, ``None`` where nothing does."""
    for part in path:
        if not isinstance(members, dict):
            return members if members is BROKEN else None
        members = members.get(part)
    return members
