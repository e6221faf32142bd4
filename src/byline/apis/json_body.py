"""JSON objects of bodies and streams. Members are decoded only when they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
#: JSON text: a body, an event of a stream, or a member that is not decoded yet.
Text = bytes | msgspec.Raw

_QUOTE: Final = ord('"')
_BRACE: Final = ord("{")
_BLANK_LINES: Final = re.compile(rb"\n\n+")
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_decode_any: Final = msgspec.json.Decoder().decode
_split_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Members(Mapping[str, Any]):
    """The members of a JSON object. Each is decoded at the first read; a member that is no JSON is ``None``.

    Long members that nobody reads, such as log probabilities, embeddings and images, are never built as
    Python objects.

    Attributes:
        raw: The JSON text of each member.

    Example:
        >>> reply = parse_object(b'{"id": "c-1", "data": [0.1, 0.2], "usage": {"total_tokens": 3}}')
        >>> reply["usage"]["total_tokens"]
        3
    """

    __slots__ = ("_decoded", "_typed", "raw")

    def __init__(self, raw: Mapping[str, msgspec.Raw]) -> None:
        self.raw = raw
        self._decoded: dict[str, Any] = {}
        self._typed: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._decoded:
            self._decoded[name] = decode_json(self.raw[name])
        return self._decoded[name]

    def __contains__(self, name: object) -> bool:
        return name in self.raw

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the decoded member, the default if the object has none of that name."""
        return self[name] if name in self.raw else default

    def get_string(self, name: str) -> str | None:
        """Return a member that is a string; a member of another type is not decoded."""
        raw = self.raw.get(name)
        if raw is None or memoryview(raw)[0] != _QUOTE:
            return None
        found: str | None = self[name]
        return found

    def get_dict(self, name: str) -> Mapping[str, Any]:
        """Return a member that is an object, an empty one otherwise; a member of another type is not decoded."""
        return (self[name] or {}) if self.has_object(name) else {}

    def get_object(self, name: str) -> Members | None:
        """Return a member that is an object, its own members not decoded."""
        return parse_object(self.raw[name]) if self.has_object(name) else None

    def get_typed(self, name: str, decode: Callable[[Text], T]) -> T | None:
        """Return a member as a typed decoder reads it, ``None`` if it has another type."""
        if name not in self._typed:
            try:
                self._typed[name] = decode(self.raw[name]) if name in self.raw else None
            except _ERRORS:
                self._typed[name] = None
        found: T | None = self._typed[name]
        return found

    def has_object(self, name: str) -> bool:
        """Return whether a member is an object."""
        raw = self.raw.get(name)
        return raw is not None and memoryview(raw)[0] == _BRACE


def decode_json(text: Text) -> Any:
    """Decode JSON; ``None`` if the text is none."""
    try:
        return _decode_any(text)
    except _ERRORS:
        return None


def parse_object(text: Text) -> Members | None:
    """Return the members of a JSON object; ``None`` if the text is no object."""
    try:
        return Members(_split_object(text))
    except _ERRORS:
        return None


def parse_array(text: Text) -> list[msgspec.Raw] | None:
    """Return the items of a JSON array, not decoded; ``None`` if the text is no array."""
    try:
        return _split_array(text)
    except _ERRORS:
        return None


def iter_events(stream: bytes, is_wanted: Callable[[bytes], bool]) -> Iterator[Members]:
    """Yield the JSON objects of server-sent events, of lines of JSON, or of a JSON array.

    Events that are cut off at either end, comments, and marks such as ``[DONE]`` are skipped.

    Args:
        stream: The bytes of the stream.
        is_wanted: Tells from the text of an event whether the event is parsed.
    """
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # A string of JSON may contain "data:", but a line of JSON never begins with these letters.
    if not text.startswith(b"data:") and b"\ndata:" not in text:
        yield from _iter_lines(text, is_wanted)
        return
    for block in _BLANK_LINES.split(text):
        # A field's value starts after one optional space; several data lines are one value.
        data = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        joined = b"\n".join(data)
        event = parse_object(joined) if data and is_wanted(joined) else None
        if event is not None:
            yield event


def _iter_lines(text: bytes, is_wanted: Callable[[bytes], bool]) -> Iterator[Members]:
    whole = parse_object(text)
    if whole is not None:
        # The server does not stream.
        yield whole
        return
    items: Iterable[Text] | None = parse_array(text)
    if items is None:
        lines = (line.strip().strip(b",") for line in text.split(b"\n"))
        items = (line for line in lines if line and is_wanted(line))
    yield from (event for item in items if (event := parse_object(item)) is not None)
