"""The JSON body of a request: buffered as the app reads it, and decoded only on demand."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, Final, TypedDict

import msgspec

from byline import internal_metrics
from byline.attribution import ALL_OTHER_KEYS, INVALID_JSON, TOO_LONG, TOO_MANY, Undecoded
from byline.fork import fork_safe_lock

#: Bytes of the bodies of all requests under way that are kept; bodies up to 64 KiB do not count.
MAX_BUFFERED: Final = 64 * 1024 * 1024
SMALL: Final = 64 * 1024
#: Bytes of a body in which long texts are looked for, because they take longer to skip than to find.
_LONG_BODY: Final = 16 * 1024
#: Bytes between two quotes that are not decoded to find claims.
_LONG_TEXT: Final = 4096
#: Stands for such a text: longer than each value that is accepted, and no JSON outside a text.
_LEFT_OUT: Final = b"x" * 512
#: Bytes of the longest escape sequence, such as ``\\u00e4``.
_ESCAPE: Final = 6
#: Escape sequences at each end of a long text that are passed over.
_MAX_ESCAPES: Final = 4
#: Places of a chunk without long texts in which such texts are looked for, about.
_PROBES: Final = 16
#: Bytes of memory that a chunk takes besides its content: many tiny chunks take more than the body itself.
_CHUNK_BYTES: Final = 48
#: Chunks of a short body that do not count.
_FEW_CHUNKS: Final = 512
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

#: Bytes of all members of a body that are decoded.
MAX_DECODED: Final = 512 * 1024
#: Bytes of a member that is decoded whole.
MAX_MEMBER: Final = 64 * 1024
#: Bytes of one value in a longer member. An accepted value of 500 characters has at most 6,000 in JSON.
_MAX_VALUE: Final = 8 * 1024
#: A longer member with more colons than these has so many keys that only the known ones are decoded.
_MAX_COLONS: Final = 20_000
#: Bytes of a body that is decoded by Python's ``json``.
_MAX_LENIENT: Final = 256 * 1024

#: Function of the scope that returns whether the body is JSON, and its Content-Length.
InspectHeaders = Callable[[MutableMapping[str, Any]], tuple[bool, int | None]]

_decode: Final = msgspec.json.Decoder().decode
_decode_raw_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_DECODE_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

#: A request may decode its body from several threads at once; decoding holds the GIL anyway.
_lock: Final = fork_safe_lock()


class _BufferBudget:
    """Bytes of all request bodies of the process that are kept beyond 64 KiB each.

    Many callers that send most of a large body and then wait would otherwise fill the memory of an app that keeps
    nothing of the bodies itself.
    """

    def __init__(self) -> None:
        self._taken = 0
        # Given back by finalizers, which may run while the lock is held.
        self._returned: deque[int] = deque()

    def take(self, size: int) -> bool:
        """Take bytes of the budget, unless it has not as many left."""
        with _budget_lock:
            while self._returned:
                self._taken -= self._returned.popleft()
            if self._taken + size > MAX_BUFFERED:
                return False
            self._taken += size
            return True

    def give_back(self, size: int) -> None:
        """Give bytes back. Safe in finalizers."""
        self._returned.append(size)


_budget_lock: Final = fork_safe_lock()
_budget: Final = _BufferBudget()


class _BudgetShare:
    """The bytes of the budget that one body has taken; they are given back when the body releases this object.

    An object of its own, because few bodies need one and a finalizer takes time.
    """

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    def grow(self, size: int) -> bool:
        """Take so many bytes that the body has `size`, unless the budget has not as many left."""
        if not _budget.take(size - self.size):
            return False
        self.size = size
        return True

    def __del__(self) -> None:
        _budget.give_back(self.size)


class BodyBuffer:
    """References to the chunks that the app has read so far, up to a limit.

    Nothing is copied or parsed before `decode`. The headers are inspected only when the body is
    decoded or grows beyond 64 KiB, because most bodies are small and most requests call no model.

    Args:
        limit: Size in bytes beyond which all chunks are released.
        expected: The Content-Length, if known.
        inspect_headers: Called with ``scope`` to find out whether the body is JSON; ``None`` if the
            body is known to be JSON.
        scope: The ASGI scope of the request.
    """

    # Set when they change, because there is one buffer for each request.
    size = 0
    expected: int | None = None
    ended = False
    ignored = False
    overflow = False
    #: Whether no further chunk is kept.
    _closed = False
    _share: _BudgetShare | None = None
    _one_pass: dict[str, Any] | None = None
    _members: Mapping[str, Any] | None = MappingProxyType({})

    def __init__(
        self,
        limit: int,
        expected: int | None = None,
        inspect_headers: InspectHeaders | None = None,
        scope: MutableMapping[str, Any] | None = None,
    ) -> None:
        self.chunks: list[bytes] = []
        self.limit = limit
        self._inspect_headers = inspect_headers
        self._scope = scope
        if expected is not None:
            self.expected = expected
            self.overflow = self._closed = expected > limit

    def append(self, chunk: bytes, last: bool) -> None:
        """Keep a chunk that the app has just read."""
        if self._closed:
            return
        if chunk:
            if type(chunk) is not bytes:
                # The server may reuse its buffer.
                chunk = bytes(chunk)
            self.chunks.append(chunk)
            size = self.size = self.size + len(chunk)
            if size > SMALL or len(self.chunks) > _FEW_CHUNKS:
                self._release_if_unreadable()
                if self.chunks:
                    self._take_budget()
        if last:
            self.ended = self._closed = True

    def restart(self, *, from_start: bool) -> None:
        """Forget a body that the app has read in part and reads again, or of which it skips a part."""
        if self.is_complete():
            self.ended = self._closed = True
            return
        self._release()
        self.size = 0
        if not from_start:
            self.ignored = self._closed = True

    def is_complete(self) -> bool:
        """Return whether nothing more can be learnt from the body.

        Some apps stop reading at Content-Length and never see the last message.
        """
        if self.ended:
            return True
        if self._inspect_headers is not None or self.size > self.limit:
            self._release_if_unreadable()
        return self.ignored or self.overflow or (self.expected is not None and self.size >= self.expected)

    def _release_if_unreadable(self) -> None:
        if self._inspect_headers is not None:
            with _lock:
                inspect_headers = self._inspect_headers
                if inspect_headers is not None:
                    is_json, self.expected = inspect_headers(self._scope or {})
                    self.ignored = not is_json
                    self._inspect_headers = self._scope = None
        if not self.ignored and (self.size > self.limit or (self.expected or 0) > self.limit):
            self.overflow = True
        if self.ignored or self.overflow:
            self._closed = True
            self._release()

    def _take_budget(self) -> None:
        if self._share is None:
            self._share = _BudgetShare()
        if not self._share.grow(self.size + _CHUNK_BYTES * len(self.chunks)):
            self.overflow = self._closed = True
            self._release()
            internal_metrics.increment("bodies.over_budget")

    def _release(self) -> None:
        self.chunks = []
        self._share = None

    def decode(self, decoder: BodyDecoder) -> Mapping[str, Any] | None:
        """Return the wanted members and release the chunks; ``None`` if the body is not JSON.

        An empty body, and JSON that is not an object, have no members.
        """
        self._release_if_unreadable()
        if self.chunks:
            with _lock:
                chunks = self.chunks
                if chunks:
                    # Bytes after the announced end do not belong to the body.
                    self.ended = self._closed = True
                    self._members = decoder.decode(chunks[0] if len(chunks) == 1 else b"".join(chunks))
                    self._release()
        return self._members

    def decode_in_one_pass(self, decode: Callable[[bytes], dict[str, Any] | None]) -> dict[str, Any] | None:
        """Return the result of a function of a short body, and release the chunks.

        A body is short if it has at most 64 KiB without its long texts, see `leave_out_long_texts`.

        Args:
            decode: Returns ``None``, or fails to decode, if the body has to be read by `decode`.
        """
        # Without the lock: two threads that decode at once have equal results.
        chunks = self.chunks
        if not chunks or self.size > self.limit:
            return self._one_pass
        if self.size > _LONG_BODY:
            text = leave_out_long_texts(chunks)
            if len(text) > SMALL:
                return None
        else:
            text = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        try:
            members = decode(text)
        except _DECODE_ERRORS:
            return None
        if members is not None:
            self._one_pass = members
            self.ended = self._closed = True
            self._release()
        return members


def leave_out_long_texts(chunks: Iterable[bytes]) -> bytes:
    r"""Return a JSON text with 512 times ``x`` in place of the insides of long texts.

    Most of a large body is the prompt: documents, images in base64. Quotes are found ten times faster than a decoder
    skips texts. Bytes without a quote are the inside of one text, or no text at all: numbers, for example. The result
    is no JSON in the latter case, so that it cannot be mistaken for the body. What is left out is not validated: an
    app refuses a body that is broken there.

    Example:
        >>> body = b'{"content": "' + b"lorem " * 10_000 + b'", "user": "ada"}'
        >>> left = leave_out_long_texts([body])
        >>> len(body), len(left) < 600, left.endswith(b'", "user": "ada"}')
        (60030, True, True)
    """
    parts: list[bytes] = []
    for chunk in chunks:
        size = len(chunk)
        kept = position = 0
        step = _LONG_TEXT
        while position < size:
            quote = chunk.find(b'"', position)
            if quote < 0:
                quote = size
            if quote - position < _LONG_TEXT:
                position += step
                step = min(2 * step, max(_LONG_TEXT, size // _PROBES))
                continue
            begin = _skip_escapes(chunk, chunk.rfind(b'"', kept, position) + 1 or kept)
            end = _skip_escapes_backwards(chunk, quote)
            if begin + len(_LEFT_OUT) < end:
                parts += (chunk[kept:begin], _LEFT_OUT)
                kept = end
            position = quote + 1
            step = _LONG_TEXT
        parts.append(chunk[kept:])
    return b"".join(parts)


def _skip_escapes(chunk: bytes, begin: int) -> int:
    """Return a place after `begin` that is in no escape sequence, which may have begun before; else the end."""
    for _ in range(_MAX_ESCAPES):
        begin += _ESCAPE
        found = chunk.rfind(b"\\", begin - _ESCAPE, begin)
        if found < 0:
            return begin
        begin = found + 1
    return len(chunk)


def _skip_escapes_backwards(chunk: bytes, end: int) -> int:
    """Return a place before `end` that is in no escape sequence; else the beginning."""
    for _ in range(_MAX_ESCAPES):
        found = chunk.find(b"\\", max(0, end - _ESCAPE), end)
        if found < 0:
            return end
        end = found
    return 0


class BodyDecoder:
    """Decodes only the wanted top-level members of a JSON object.

    Each member is decoded by itself, so that one invalid member does not affect the others. Texts
    that msgspec refuses and Python's ``json`` accepts (NaN, UTF-16, lone surrogates) are decoded by
    the latter, because the app accepts them too.

    At most `MAX_DECODED` bytes of a body become Python objects: decoding 6 MiB of ``[[],[],…]``
    takes half a second and 140 MiB, skipping them takes 40 ms. Of longer members only the wanted
    nested members and short values are decoded.

    Args:
        names: The wanted members.
        nested: Members of which only nested members are wanted → the paths to these.
        presence_only: Members of which only the presence is wanted, because they may be long.
        known_keys: The nested members that are wanted of any member that is too long to be decoded.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        nested: Mapping[str, Collection[tuple[str, ...]]] | None = None,
        presence_only: Collection[str] = (),
        known_keys: Iterable[str] = (),
    ) -> None:
        self.names = tuple(dict.fromkeys((*names, *presence_only)))
        self._nested = {name: _PathDecoder(paths) for name, paths in (nested or {}).items()}
        self._presence_only = frozenset(presence_only) - frozenset(names)
        self._known_keys = frozenset(known_keys)
        self._decode_members = _build_members_decoder(self.names)
        self._decode_known = _build_members_decoder(self._known_keys)

    def decode(self, data: bytes) -> dict[str, Any] | None:
        """Return the wanted members, ``None`` if the body is not JSON.

        A member that cannot be decoded is `INVALID_JSON`, one that is too long is `TOO_LONG`.
        """
        try:
            members: dict[str, Any] = self._decode_members(data.removeprefix(_BYTE_ORDER_MARK))
        except _DECODE_ERRORS:
            return self._decode_all(data)
        is_short = len(data) <= MAX_MEMBER
        budget = MAX_DECODED
        for name, raw in members.items():
            if name in self._presence_only:
                members[name] = True
            elif name in self._nested:
                members[name] = self._nested[name].decode(raw)
            elif is_short:
                members[name] = _decode_value(raw)
            else:
                size = memoryview(raw).nbytes
                if size > MAX_MEMBER or size > budget:
                    members[name], size = self._decode_partly(raw, budget)
                else:
                    members[name] = _decode_value(raw)
                budget -= size
        return members

    def _decode_partly(self, raw: msgspec.Raw, budget: int) -> tuple[Any, int]:
        """Return a long object without its long values, and the number of bytes decoded."""
        text = memoryview(raw).tobytes()
        if not text.startswith(b"{"):
            return TOO_LONG, 0
        is_crowded = text.count(b":") > _MAX_COLONS
        try:
            members: dict[str, Any] = (self._decode_known if is_crowded else _decode_raw_members)(text)
        except _DECODE_ERRORS:
            return INVALID_JSON, 0
        decoded = 0
        for key, value in members.items():
            size = memoryview(value).nbytes
            if size <= (MAX_MEMBER if key in self._known_keys else _MAX_VALUE) and decoded + size <= budget:
                members[key] = _decode_value(value)
                decoded += size
            else:
                members[key] = TOO_LONG
        if is_crowded:
            members[ALL_OTHER_KEYS] = TOO_MANY
        return members, decoded

    def _decode_all(self, data: bytes) -> dict[str, Any] | None:
        value = decode_leniently(data) if len(data) <= _MAX_LENIENT else INVALID_JSON
        if value is INVALID_JSON:
            return None
        if not isinstance(value, dict):
            return {}
        return {name: True if name in self._presence_only else value[name] for name in self.names if name in value}


class _PathDecoder:
    """Decodes the values at some paths of a JSON object, and nothing else of the object."""

    def __init__(self, paths: Collection[tuple[str, ...]]) -> None:
        rests: dict[str, list[tuple[str, ...]]] = {}
        for name, *rest in paths:
            rests.setdefault(name, []).append(tuple(rest))
        self._inner = {name: None if () in inner else _PathDecoder(inner) for name, inner in rests.items()}
        self._decode_members = _build_members_decoder(rests)

    def decode(self, raw: msgspec.Raw) -> Any:
        """Return the object with the values at the paths, ``None`` if the text is not an object."""
        try:
            members: dict[str, Any] = self._decode_members(raw)
        except _DECODE_ERRORS:
            return None
        for name, value in members.items():
            inner = self._inner[name]
            if inner is not None:
                members[name] = inner.decode(value)
            else:
                members[name] = _decode_value(value) if memoryview(value).nbytes <= _MAX_VALUE else TOO_LONG
        return members


def _build_members_decoder(names: Iterable[str]) -> Callable[[bytes | msgspec.Raw], dict[str, Any]]:
    # msgspec decodes a TypedDict into a dictionary of the members that are present.
    make_typed_dict: Any = TypedDict
    wanted = make_typed_dict("Wanted", dict.fromkeys(names, msgspec.Raw), total=False)
    return msgspec.json.Decoder(wanted).decode


def _decode_value(raw: msgspec.Raw) -> Any:
    try:
        return _decode(raw)
    except _DECODE_ERRORS:
        return decode_leniently(bytes(raw))


def decode_leniently(text: bytes | str) -> Any:
    """Decode everything that Python's ``json`` accepts; `INVALID_JSON` for all else.

    Integers of more than 4,300 digits, which Python refuses to convert, are `INVALID_JSON` by themselves.
    """
    try:
        return json.loads(text, parse_int=_parse_int)
    except (ValueError, RecursionError):
        return INVALID_JSON


def _parse_int(digits: str) -> int | Undecoded:
    return int(digits) if len(digits) < 1000 else INVALID_JSON


def is_json(content_type: str) -> bool:
    """Return whether a body of this content type is one JSON text."""
    return content_type.partition(";")[0].rstrip().lower().endswith(("/json", "+json"))


def parse_length(text: str) -> int | None:
    """Return a Content-Length, ``None`` if the text is not a number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def value_at_path(members: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path of decoded JSON, ``None`` if there is none."""
    for part in path:
        if not isinstance(members, dict):
            return members if isinstance(members, Undecoded) else None
        members = members.get(part)
    return members
