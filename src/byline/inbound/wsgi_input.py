"""``wsgi.input`` of a WSGI request, wrapped to buffer the body as the app reads it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, Final

from byline.inbound.body import BodyBuffer, is_json, parse_length

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE", "QUERY"})


def tee_wsgi_input(environ: MutableMapping[str, Any], limit: int) -> BodyBuffer | None:
    """Wrap ``wsgi.input`` of a JSON request; return the buffer, ``None`` for other requests."""
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
    """An input stream with the four methods of PEP 3333 and no others.

    Werkzeug calls ``readinto`` if the stream has that method: reads by any method that is not wrapped
    would not reach the buffer.
    """

    __slots__ = ("_body", "_stream")

    def __init__(self, stream: Any, body: BodyBuffer) -> None:
        self._stream = stream
        self._body = body

    def read(self, *size: int | None) -> bytes:
        """Read as from the wrapped stream."""
        data: bytes = self._stream.read(*size)
        requested: int | None = size[0] if size else -1
        # A short read from a socket does not mean the end; an empty one, or a read without size, does.
        self._body.append(data, last=(not data and requested != 0) or requested is None or requested < 0)
        return data

    def readline(self, *size: int) -> bytes:
        """Read a line as from the wrapped stream."""
        line: bytes = self._stream.readline(*size)
        self._body.append(line, last=not line and size != (0,))
        return line

    def readlines(self, *hint: int) -> list[bytes]:
        """Read lines as from the wrapped stream."""
        lines: list[bytes] = self._stream.readlines(*hint)
        for line in lines:
            self._body.append(line, last=False)
        self._body.append(b"", last=not hint or not lines)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        for line in self._stream:
            self._body.append(line, last=False)
            yield line
        self._body.append(b"", last=True)
