"""The JSON body of a request: teed as the app reads it, and read only when somebody asks."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypedDict

import msgspec

from byline.attribution import BROKEN, Broken
from byline.fork import fork_safe_lock

DEFAULT_LIMIT: Final = 16 * 1024 * 1024
_SMALL: Final = 64 * 1024

ContentHeaders = Callable[[MutableMapping[str, Any]], tuple[bool, int | None]]

_decode: Final = msgspec.json.Decoder().decode
_decode_raw: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

#: A request may ask from several threads at once; decoding holds the interpreter's own lock anyway.
_lock: Final = fork_safe_lock()


class BodyBuffer:
    """References to the chunks that the app has read so far, up to a limit.

    Nothing is copied and nothing is parsed before `read`. Whether this is JSON at all, and how long
    it will be, is asked only when somebody wants to read it or when it grows: most bodies are small,
    and most requests call no model.

    Args:
        limit: Bytes beyond which all chunks are let go.
        expected: What Content-Length announces, where that is known.
        describe: Function of ``raw`` that returns whether this is one JSON text, and its
            Content-Length; ``None`` where it is JSON for certain.
        raw: The scope of the request.
    """

    __slots__ = ("_describe", "_members", "_raw", "chunks", "ended", "expected", "ignored", "limit", "overflow", "size")

    def __init__(
        self,
        limit: int,
        expected: int | None = None,
        describe: ContentHeaders | None = None,
        raw: MutableMapping[str, Any] | None = None,
    ) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.limit = limit
        self.expected = expected
        self.ended = False
        self.ignored = False
        self.overflow = expected is not None and expected > limit
        self._describe = describe
        self._raw = raw
        self._members: dict[str, Any] | None = {}

    def feed(self, chunk: bytes, last: bool) -> None:
        """Take note of a chunk that the app has just been given."""
        if self.ended or self.overflow or self.ignored:
            return
        if chunk:
            if type(chunk) is not bytes:
                # A buffer that the server may fill anew.
                chunk = bytes(chunk)
            self.chunks.append(chunk)
            self.size += len(chunk)
            if self.size > _SMALL:
                self._look()
        if last:
            self.ended = True

    def is_complete(self) -> bool:
        """Whether the app has seen all of it; nothing more will be learnt from it then.

        Some apps stop reading at Content-Length and never see a chunk that says it is the last.
        """
        if self._describe is not None or self.size > self.limit:
            self._look()
        return self.ended or self.ignored or self.overflow or (self.expected is not None and self.size >= self.expected)

    def _look(self) -> None:
        """Find out what this is, and let go of what will not be read."""
        if self._describe is not None:
            with _lock:
                describe = self._describe
                if describe is not None:
                    readable, self.expected = describe(self._raw or {})
                    self.ignored = not readable
                    self._describe = self._raw = None
        if not self.ignored and (self.size > self.limit or (self.expected or 0) > self.limit):
            self.overflow = True
        if self.ignored or self.overflow:
            self.chunks = []

    def read(self, reader: BodyDecoder) -> dict[str, Any] | None:
        """Return the wanted members, ``None`` when this is not JSON; let the chunks go.

        JSON of any other kind than an object has no members, nor has no body at all.
        """
        if self.chunks:
            with _lock:
                chunks = self.chunks
                if chunks:
                    # What comes after the announced end is not the body's.
                    self.ended = True
                    self._members = reader.read(chunks[0] if len(chunks) == 1 else b"".join(chunks))
                    self.chunks = []
        return self._members


class BodyDecoder:
    """Reads only the wanted top-level members of a JSON object.

    Each is kept raw until it is asked for, so that one broken member spoils no other. Texts that
    msgspec refuses but Python's ``json`` accepts (NaN, a byte order mark, UTF-16, lone surrogates)
    are read by the latter, for the app reads them too.

    Args:
        names: The members that are wanted.
        within: Members of which only what stands at some paths is wanted, with these paths.
        present: Members of which only is wanted whether they are there: the longest may be among them.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        within: Mapping[str, Collection[tuple[str, ...]]] | None = None,
        present: Collection[str] = (),
    ) -> None:
        self.names = tuple(dict.fromkeys((*names, *present)))
        self._within = dict(within or {})
        self._present = frozenset(present) - frozenset(names)
        # Which becomes a dictionary of those that are there.
        make: Any = TypedDict
        wanted = make("Wanted", dict.fromkeys(self.names, msgspec.Raw), total=False)
        self._decode = msgspec.json.Decoder(wanted).decode

    def read(self, data: bytes) -> dict[str, Any] | None:
        """Return the wanted members, ``None`` when the body is not JSON.

        In the place of a member that cannot be decoded by itself stands `BROKEN`.
        """
        try:
            members: dict[str, Any] = self._decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return self._read_slowly(data)
        for name, raw in members.items():
            if name in self._present:
                members[name] = True
            elif name in self._within:
                members[name] = _pick(raw, self._within[name])
            else:
                members[name] = _decode_one(raw)
        return members

    def _read_slowly(self, data: bytes) -> dict[str, Any] | None:
        value = decode_slowly(data)
        if value is BROKEN:
            return None
        if not isinstance(value, dict):
            return {}
        return {name: True if name in self._present else value[name] for name in self.names if name in value}


def _pick(raw: msgspec.Raw, paths: Collection[tuple[str, ...]]) -> Any:
    """Decode what stands at some paths, and nothing around it."""
    try:
        inner = _decode_raw(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    found: dict[str, Any] = {}
    for name, rest in {path[0]: [other[1:] for other in paths if other[0] == path[0]] for path in paths}.items():
        if name in inner:
            found[name] = _decode_one(inner[name]) if () in rest else _pick(inner[name], rest)
    return found


def _decode_one(raw: msgspec.Raw) -> Any:
    try:
        return _decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return decode_slowly(bytes(raw))


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


def value_at_path(members: Any, path: tuple[str, ...]) -> Any:
    """Return what stands at a dotted path of decoded JSON, ``None`` where nothing does."""
    for part in path:
        if not isinstance(members, dict):
            return members if members is BROKEN else None
        members = members.get(part)
    return members
