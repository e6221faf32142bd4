"""Events of a streamed body: server-sent events, lines of JSON, or a JSON array."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

_BLANK: Final = re.compile(rb"\n\n+")
_decode: Final = msgspec.json.Decoder().decode


def decode_event(text: bytes) -> Any:
    """Decode JSON, ``None`` where it is none."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def iter_events(stream: bytes) -> Iterator[dict[str, Any]]:
    """Return the JSON objects of a stream, whichever of the three forms it has.

    What is cut off at either end, comments, and marks such as ``[DONE]`` are passed over.
    """
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # JSON may have these letters in its texts, but no line of it begins with them.
    if not text.startswith(b"data:") and b"\ndata:" not in text:
        yield from _lines(text)
        return
    for block in _BLANK.split(text):
        # A field's value starts after one optional space; several data lines are one value.
        data = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if data:
            found = decode_event(b"\n".join(data))
            if isinstance(found, dict):
                yield found


def _lines(text: bytes) -> Iterator[dict[str, Any]]:
    whole = decode_event(text)
    if isinstance(whole, dict):
        # A gateway that does not stream.
        whole = [whole]
    if isinstance(whole, list):
        yield from (item for item in whole if isinstance(item, dict))
        return
    for line in text.split(b"\n"):
        found = decode_event(line.strip().strip(b","))
        if isinstance(found, dict):
            yield found
