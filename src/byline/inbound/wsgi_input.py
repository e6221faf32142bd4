"""The body of a WSGI request: its input stream, teed as the app reads it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

from byline.inbound.body import BodyBuffer, is_json, parse_length

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "QUERY"})


def tee_wsgi_input(environ: MutableMapping[str, Any], limit: int) -> BodyBuffer | None:
    """Put a tee in the place of the input of a JSON request, and return its body."""
    if environ.get("REQUEST_METHOD") not in _WITH_BODY or not limit:
        return None
    if not is_json(str(environ.get("CONTENT_TYPE", ""))):
        return None
    if str(environ.get("HTTP_CONTENT_ENCODING", "identity")).lower() != "identity":
        return None
    stream = environ.get("wsgi.input")
    if stream is None:
        return None
    body = BodyBuffer(limit, parse_length(str(environ.get("CONTENT_LENGTH") or "")))
    environ["wsgi.input"] = WsgiInputTee(stream, body)
    return body


class WsgiInputTee:
    """An input stream with the four methods of PEP 3333 and no other.

    Werkzeug calls ``readinto`` on streams that have it: whatever this class does not cover would go
    past the tee.
    """

    __slots__ = ("_body", "_stream")

    def __init__(self, stream: Any, body: BodyBuffer) -> None:
        self._stream = stream
        self._body = body

    def read(self, *size: int | None) -> bytes:
        """Read as the stream does."""
        data: bytes = self._stream.read(*size)
        asked: int | None = size[0] if size else -1
        # Fewer bytes than asked for do not mean the end on a socket; none, or all there were, do.
        self._body.feed(data, last=(not data and asked != 0) or asked is None or asked < 0)
        return data

    def readline(self, *size: int) -> bytes:
        """Read a line as the stream does."""
        line: bytes = self._stream.readline(*size)
        self._body.feed(line, last=not line and size != (0,))
        return line

    def readlines(self, *hint: int) -> list[bytes]:
        """Read lines as the stream does."""
        lines: list[bytes] = self._stream.readlines(*hint)
        for line in lines:
            self._body.feed(line, last=False)
        self._body.feed(b"", last=not hint or not lines)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self._body.feed(line, last=False)
            yield line
        self._body.feed(b"", last=True)
