"""What is kept of a reply's body while the app reads it: enough to read the facts from, and no more."""

from __future__ import annotations

import time
import zlib
from collections import deque
from typing import Any, Final

#: Of a stream its beginning has the ids, and its end the usage.
_HEAD: Final = 16 * 1024
_TAIL_CHUNKS: Final = 64
#: The longest body that is read whole, unpacked.
_MAX_WHOLE: Final = 8 * 1024 * 1024


class Seen:
    """The body of one reply, as far as it is kept.

    Args:
        streamed: Whether it is a stream, of which beginning and end are enough.
        encoding: Its Content-Encoding; what cannot be undone here is not read.
        whole: Whether a stream is kept whole as well, for its content.
        mark: Bytes that show a stream's last event.

    Attributes:
        first: When the first chunk came, by `time.perf_counter`.
        marked: Whether the mark has come by.
        tail: The last chunks of a stream.
    """

    def __init__(self, *, streamed: bool, encoding: str = "identity", whole: bool = False, mark: bytes = b"") -> None:
        self.first: float | None = None
        self.marked = False
        self.tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        self._head: list[bytes] = []
        self._size = 0
        self._limit = _HEAD if streamed and not whole else _MAX_WHOLE
        self._streamed = streamed
        self._mark = mark if streamed else b""
        self._unpack: Any = None
        self._readable = True
        if encoding in ("gzip", "deflate"):
            self._unpack = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        elif encoding not in ("", "identity"):
            self._readable = False

    def is_decoded(self) -> None:
        """Say that the chunks come with their Content-Encoding undone."""
        self._unpack = None
        self._readable = True

    def see(self, chunk: bytes) -> bool:
        """Keep what is needed of a chunk.

        Returns:
            Whether from now on it is enough to put each chunk into `tail`, which costs next to nothing.
        """
        if self.first is None:
            self.first = time.perf_counter()
        if not chunk:
            return False
        if self._unpack is not None and self._readable:
            try:
                # A small body can unpack to one that fills the memory.
                chunk = self._unpack.decompress(chunk, _MAX_WHOLE)
                if self._unpack.unconsumed_tail:
                    self._readable = False
            except zlib.error:
                self._readable = False
        if not self._readable:
            self._head.clear()
            self.tail.clear()
            return False
        if self._size < self._limit:
            self._size += len(chunk)
            self._head.append(chunk)
        elif self._streamed:
            self.tail.append(chunk)
        else:
            # Longer than what is read: the rest would make no JSON of it.
            self._head.clear()
            self._readable = False
        if self._mark and self._mark in chunk:
            self.marked = True
        return not self._mark and self._unpack is None and self._streamed and self._size >= self._limit

    def body(self) -> bytes | None:
        """Return the whole body, ``None`` where it is too long or cannot be read."""
        return b"".join(self._head) if self._readable else None

    def ends(self) -> tuple[bytes, bytes]:
        """Return beginning and end of a stream; the first is empty where the second is the whole."""
        head, tail = b"".join(self._head), b"".join(self.tail)
        # Chunks between the two are missing only where the tail was full.
        return (head, tail) if len(self.tail) == _TAIL_CHUNKS else (b"", head + tail)

    def clear(self) -> None:
        """Let go of all of it."""
        self._head.clear()
        self.tail.clear()
