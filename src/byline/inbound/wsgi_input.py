"""``wsgi.input`` of a WSGI request, wrapped to buffer the body as the app reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
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
    """An input stream that appends all bytes read to a buffer.

    PEP 3333 requires four methods, but apps use those of the server's stream, for example through
    ``io.TextIOWrapper``. Methods that read are wrapped; all other attributes are those of the stream.
    """

    __slots__ = ("_body", "_stream")

    def __init__(self, stream: Any, body: BodyBuffer) -> None:
        self._stream = stream
        self._body = body

    def __getattr__(self, name: str) -> Any:
        # Only for attributes that this class lacks, so that the stream decides which of them exist.
        attribute = getattr(self._stream, name)
        wrapper = _WRAPPERS.get(name)
        if wrapper is None:
            return attribute
        return lambda *args: wrapper(self._body, attribute, *args)

    def read(self, *size: int | None) -> bytes:
        """Read as from the wrapped stream."""
        return _read(self._body, self._stream.read, *size)

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

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def __enter__(self) -> WsgiInputTee:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._stream.__exit__(*error)


def _read(body: BodyBuffer, method: Any, *size: int | None) -> bytes:
    data: bytes = method(*size)
    requested = size[0] if size else -1
    # A short read from a socket does not mean the end; an empty one, or a read without size, does.
    body.append(data, last=(not data and requested != 0) or requested is None or requested < 0)
    return data


def _read_once(body: BodyBuffer, method: Any, *size: int) -> bytes:
    data: bytes = method(*size)
    body.append(data, last=not data and size != (0,))
    return data


def _read_into(body: BodyBuffer, method: Any, target: Any) -> int | None:
    count: int | None = method(target)
    view = memoryview(target).cast("B")
    if count is not None:
        body.append(bytes(view[:count]), last=count == 0 and view.nbytes > 0)
    return count


def _seek(body: BodyBuffer, method: Any, *args: int) -> Any:
    position = method(*args)
    body.restart(from_start=position == 0)
    return position


_WRAPPERS: Final[dict[str, Callable[..., Any]]] = {
    "read1": _read_once,
    "readall": _read,
    "readinto": _read_into,
    "readinto1": _read_into,
    "seek": _seek,
}
