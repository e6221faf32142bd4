"""What is kept of a reply's body while the app reads it: enough to read the facts from, and no more."""

from __future__ import annotations

import re
import time
import zlib
from collections import deque
from typing import Any, Final

from byline import internal_metrics

#: Of a stream its beginning has the ids, and its end the usage.
_HEAD: Final = 16 * 1024
_TAIL: Final = 64 * 1024
#: How many chunks the tail has, and how many where they are large.
_TAIL_CHUNKS: Final = 256
_LARGE_CHUNKS: Final = 64
_LARGE: Final = 1024
#: Chunks that are smaller on average are put together, or so many of them would not hold the usage.
_SMALL: Final = 32
_JOINED: Final = 2048
#: Longer than any mark.
_MARK: Final = 64
#: The longest body that is read whole, unpacked.
_MAX_WHOLE: Final = 8 * 1024 * 1024


class ResponseBuffer:
    """The body of one reply, as far as it is kept.

    Args:
        streamed: Whether it is a stream, of which beginning and end are enough.
        encoding: Its Content-Encoding; what cannot be undone here is not read.
        whole: Whether a stream is kept whole as well, for its content.
        mark: What shows a stream's last event.

    Attributes:
        first: When the first chunk came, by `time.perf_counter`.
        marked: Whether the mark has come by, and the event that has it is there as a whole.
        tail: The last chunks of a stream.
    """

    def __init__(
        self, *, streamed: bool, encoding: str = "identity", whole: bool = False, mark: re.Pattern[bytes] | None = None
    ) -> None:
        self.first: float | None = None
        self.marked = False
        self.tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        #: Small chunks together, where the tail would hold too little of them.
        self._small = bytearray()
        self._head: list[bytes] = []
        self._size = 0
        self._count = 0
        self._limit = _HEAD if streamed and not whole else _MAX_WHOLE
        self._streamed = streamed
        self._cut = False
        self._mark = mark if streamed else None
        self._before = b""
        self._found = False
        self._encoding = encoding
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
            if not self._readable:
                internal_metrics.increment("replies.encoded")
        if not chunk:
            return False
        if self._unpack is not None and self._readable:
            chunk = self._unpacked(chunk)
        if not self._readable:
            self.clear()
            return False
        self._count += 1
        if self._mark is not None:
            self._look_for(self._mark, chunk)
        room = self._limit - self._size
        self._size += len(chunk)
        if room > 0:
            self._head.append(chunk if len(chunk) <= room else chunk[:room])
        if len(chunk) > room:
            self._keep_end(chunk if room <= 0 else chunk[room:])
        if self._mark is not None or self._unpack is not None or not self._streamed:
            return False
        if self._small or self._size < self._limit or self._size < self._count * _SMALL:
            return False
        if self._size >= self._count * _LARGE:
            self._cut = self._cut or len(self.tail) > _LARGE_CHUNKS
            self.tail = deque(self.tail, _LARGE_CHUNKS)
        return True

    def _look_for(self, mark: re.Pattern[bytes], chunk: bytes) -> None:
        if not self._found:
            # It may stand where two chunks meet.
            joined = self._before + chunk
            self._found = mark.search(joined) is not None
        self._before = (self._before + chunk)[-_MARK:]
        self.marked = self._found and self._before.endswith((b"\n\n", b"\r\n\r\n"))

    def _keep_end(self, chunk: bytes) -> None:
        if not self._streamed:
            # Longer than what is read: the rest would make no JSON of it.
            self._readable = False
            self._head.clear()
            return
        self._small += chunk[-_TAIL:]
        self._cut = self._cut or len(chunk) > _TAIL
        if len(self._small) >= _JOINED:
            self._cut = self._cut or len(self.tail) == _TAIL_CHUNKS
            self.tail.append(bytes(self._small))
            self._small.clear()

    def _unpacked(self, chunk: bytes) -> bytes:
        # A small body can unpack to one that fills the memory.
        try:
            found: bytes = self._unpack.decompress(chunk, _MAX_WHOLE)
        except zlib.error:
            if self._encoding != "deflate" or self._size:
                self._readable = False
                return b""
            # Some servers leave out the header that the standard asks for.
            self._encoding, self._unpack = "", zlib.decompressobj(-zlib.MAX_WBITS)
            return self._unpacked(chunk)
        if self._unpack.unconsumed_tail:
            self._readable = False
        return found

    def body(self) -> bytes | None:
        """Return the whole body, ``None`` where it is too long or cannot be read."""
        return b"".join(self._head) if self._readable else None

    def ends(self) -> tuple[bytes, bytes]:
        """Return beginning and end of a stream; the first is empty where the second is the whole."""
        head = b"".join(self._head)
        end, kept = [bytes(self._small)], len(self._small)
        # Only as much as is worth the reading, from the end on.
        for chunk in reversed(self.tail):
            if kept >= _TAIL:
                self._cut = True
                break
            end.append(chunk)
            kept += len(chunk)
        tail = b"".join(reversed(end))
        whole = not self._cut and len(self.tail) != self.tail.maxlen and kept <= _TAIL
        return (b"", head + tail) if whole else (head, tail[-_TAIL:])

    def clear(self) -> None:
        """Let go of all of it."""
        self._head.clear()
        self.tail.clear()
        self._small.clear()
