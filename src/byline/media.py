"""Binary parts of captured conversations, kept beside the text of their messages until a destination uploads them."""

from __future__ import annotations

import binascii
import hashlib
from base64 import b64encode
from collections import deque
from functools import cached_property
from typing import Final

from byline.fork import fork_safe_lock
from byline.internal_metrics import increment

#: Bytes of one part; a larger one is left out.
MAX_BYTES: Final = 10 * 1024 * 1024
#: Bytes of all parts that wait in a process.
MAX_TOTAL: Final = 64 * 1024 * 1024
#: First bytes → type, for answers that state no type.
_SIGNATURES: Final = {
    b"RIFF": "audio/wav",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"OggS": "audio/ogg",
    b"fLaC": "audio/flac",
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"%PDF": "application/pdf",
}
_FROM_URL_SAFE: Final = str.maketrans("-_", "+/")


class Media:
    """One binary part.

    Args:
        content_type: Its media type, e.g. ``image/png``.
        data: Its bytes in Base64.
        budget: Where its size counts until the part is released.
    """

    def __init__(self, content_type: str, data: str, budget: MediaBudget) -> None:
        self.content_type = content_type
        self.data = data
        self._budget = budget

    def __del__(self) -> None:
        self._budget.give_back(len(self.data))

    @property
    def size(self) -> int:
        """The number of bytes: Base64 has four characters for three."""
        return len(self.data.rstrip("=")) * 3 // 4

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the bytes, in Base64."""
        return b64encode(hashlib.sha256(self.decode()).digest()).decode()

    def decode(self) -> bytes:
        """Return the bytes. Raises `ValueError` for a text that is no Base64."""
        text = self.data.translate(_FROM_URL_SAFE)
        return binascii.a2b_base64(text + "=" * (-len(text) % 4))


class MediaBudget:
    """Bounds the binary parts that wait in memory: 10 MiB for one, 64 MiB for all.

    Parts beyond that are counted as ``media.over_budget``.

    Args:
        limit: Characters of Base64 that may wait at a time.
    """

    def __init__(self, limit: int = MAX_TOTAL * 4 // 3) -> None:
        self._limit = limit
        self._used = 0
        self._lock = fork_safe_lock()
        #: The sizes of released parts. A finalizer may run while its thread holds the lock.
        self._released: deque[int] = deque()

    def take(self, content_type: str, data: str) -> Media | None:
        """Return a part that counts against the budget, ``None`` if there is no room for it.

        Args:
            content_type: Its media type; if that is empty, the type is guessed from the first bytes.
            data: Its bytes in Base64.
        """
        size = len(data)
        if size == 0:
            return None
        if size > MAX_BYTES * 4 // 3 + 4:
            increment("media.over_budget")
            return None
        with self._lock:
            while self._released:
                self._used -= self._released.popleft()
            fits = self._used + size <= self._limit
            if fits:
                self._used += size
        if not fits:
            increment("media.over_budget")
            return None
        return Media(content_type or _guess_type(data), data, self)

    def give_back(self, size: int) -> None:
        """Make room again."""
        self._released.append(size)


def _guess_type(data: str) -> str:
    try:
        first = binascii.a2b_base64(data[:16].translate(_FROM_URL_SAFE))
    except ValueError:
        first = b""
    if first.startswith(b"RIFF") and first[8:] == b"WEBP":
        return "image/webp"
    return next((kind for mark, kind in _SIGNATURES.items() if first.startswith(mark)), "application/octet-stream")


class MessagesWithMedia(str):
    """Messages as JSON, with their binary parts: ``"media": n`` in a part is the n-th of them.

    As the value of an attribute the text takes the parts along to the export of its span, on every way that results
    of calls take, and exporters of the app see the text alone.
    """

    media: tuple[Media, ...] = ()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Copies and pickles that the app makes of a span have the text alone."""
        return str, (str(self),)

    @classmethod
    def with_media(cls, text: str, media: tuple[Media, ...]) -> MessagesWithMedia:
        """Return the text with these parts."""
        messages = cls(text)
        messages.media = media
        return messages
