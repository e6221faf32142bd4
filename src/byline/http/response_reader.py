"""Reads the response of an LLM request into a call result, from as little of the body as needed."""

from __future__ import annotations

import re
import time
import zlib
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from byline import errors, internal_metrics
from byline.apis import ApiParser, apply_stated_cost, parse_error
from byline.call_result import CallResult
from byline.gateways import GatewayRegistry, rate_limits
from byline.gateways.base import Gateway
from byline.genai.pricing import estimate_cost, needs_estimate, prices
from byline.http import gateway_exchange
from byline.media import MediaBudget

#: A stream states ids in the first events and usage in the last events.
HEAD_BYTES: Final = 16 * 1024
TAIL_BYTES: Final = 64 * 1024
_TAIL_CHUNKS: Final = 256
#: The tail keeps fewer chunks if the average chunk is larger than this.
_LARGE_CHUNK: Final = 1024
_TAIL_LARGE_CHUNKS: Final = 64
#: Chunks below this average are joined, because `_TAIL_CHUNKS` of them could miss the usage.
_SMALL_CHUNK: Final = 32
_JOINED_BYTES: Final = 2048
#: Longer than any match of an API's `end_mark`, or of `_DONE`.
_END_MARK_BYTES: Final = 64
#: The last event of OpenAI-shaped streams. Text of a model cannot match, because JSON escapes line breaks.
_DONE: Final = re.compile(rb"(?:^|\n)data: ?\[DONE\]\s*\Z")
#: Types of bodies that are no text: speech.
_MEDIA: Final = ("audio/", "image/", "video/", "application/octet-stream")
#: Longer bodies (decompressed) are not read.
MAX_BODY_BYTES: Final = 8 * 1024 * 1024


class ResponseBuffer:
    """The parts of one response body that are kept until they are parsed.

    Args:
        streamed: Keep the beginning and the end only, which is enough for a stream.
        encoding: Content-Encoding of the body. One that cannot be decoded here makes the body unreadable.
        whole: Keep a stream whole, to capture the content.
        skipped: Keep nothing.
        end_mark: Pattern in the last event of a stream.

    Attributes:
        first_chunk_time: `time.perf_counter` of the first chunk.
        saw_terminal_event: The last event has arrived completely.
        tail: The last chunks of a stream.
    """

    def __init__(
        self,
        *,
        streamed: bool,
        encoding: str = "identity",
        whole: bool = False,
        end_mark: re.Pattern[bytes] | None = None,
        skipped: bool = False,
    ) -> None:
        self.first_chunk_time: float | None = None
        self.saw_terminal_event = False
        self.tail: deque[bytes] = deque(maxlen=_TAIL_CHUNKS)
        self._joined = bytearray()
        self._head: list[bytes | bytearray] = []
        self._size = 0
        self._count = 0
        self._head_limit = HEAD_BYTES if streamed and not whole else MAX_BODY_BYTES
        self._streamed = streamed
        self._tail_is_cut = False
        self._end_mark = end_mark if streamed else None
        self._last_bytes = b""
        self._found_end_mark = False
        self._encoding = encoding
        self._decompressor: Any = None
        self._is_readable = not skipped
        self._is_skipped = skipped
        if encoding in ("gzip", "deflate"):
            self._decompressor = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
        elif encoding not in ("", "identity"):
            self._is_readable = False

    def disable_decompression(self) -> None:
        """Expect chunks that the client has decompressed already."""
        self._decompressor = None
        self._is_readable = not self._is_skipped

    def append(self, chunk: bytes) -> bool:
        """Keep the needed part of a chunk.

        Returns:
            True if the following chunks need only be appended to `tail`, which is much faster.
        """
        if self.first_chunk_time is None:
            self.first_chunk_time = time.perf_counter()
            if not self._is_readable and not self._is_skipped:
                internal_metrics.increment("replies.encoded")
        if not chunk:
            return False
        if self._decompressor is not None and self._is_readable:
            chunk = self._decompress(chunk)
        if not self._is_readable:
            self.clear()
            return False
        self._count += 1
        if self._streamed:
            self._find_terminal_event(chunk)
        room = self._head_limit - self._size
        self._size += len(chunk)
        if room > 0:
            self._append_to_head(chunk if len(chunk) <= room else chunk[:room])
        if len(chunk) > room:
            self._append_to_tail(chunk if room <= 0 else chunk[room:])
        if self._end_mark is not None or self._decompressor is not None or not self._streamed:
            return False
        if self._joined or self._size < self._head_limit or self._size < self._count * _SMALL_CHUNK:
            return False
        if self._size >= self._count * _LARGE_CHUNK:
            self._tail_is_cut = self._tail_is_cut or len(self.tail) > _TAIL_LARGE_CHUNKS
            self.tail = deque(self.tail, _TAIL_LARGE_CHUNKS)
        return True

    def _find_terminal_event(self, chunk: bytes) -> None:
        # The mark may be split between two chunks.
        joined = self._last_bytes + chunk
        self._last_bytes = joined[-_END_MARK_BYTES:]
        self.saw_terminal_event = _DONE.search(self._last_bytes) is not None
        if self._end_mark is not None and not self.saw_terminal_event:
            self._found_end_mark = self._found_end_mark or self._end_mark.search(joined) is not None
            self.saw_terminal_event = self._found_end_mark and joined.endswith((b"\n\n", b"\r\n\r\n"))

    def tail_is_done(self) -> bool:
        """Return whether the chunks that were appended to `tail` directly end with ``data: [DONE]``."""
        last_bytes = self.tail[-1]
        if len(last_bytes) < _END_MARK_BYTES and len(self.tail) > 1:
            last_bytes = self.tail[-2] + last_bytes
        self.saw_terminal_event = _DONE.search(last_bytes[-_END_MARK_BYTES:]) is not None
        return self.saw_terminal_event

    def _append_to_head(self, chunk: bytes) -> None:
        # A chunk takes 41 bytes of memory besides its content; a server may send megabytes in chunks of two bytes.
        if len(chunk) >= _SMALL_CHUNK:
            self._head.append(chunk)
        elif self._head and type(self._head[-1]) is bytearray:
            self._head[-1] += chunk
        else:
            self._head.append(bytearray(chunk))

    def _append_to_tail(self, chunk: bytes) -> None:
        if not self._streamed:
            # A JSON body that is cut at the limit cannot be parsed.
            internal_metrics.increment("replies.over_budget")
            self._is_readable = False
            self._head.clear()
            return
        self._joined += chunk[-TAIL_BYTES:]
        self._tail_is_cut = self._tail_is_cut or len(chunk) > TAIL_BYTES
        if len(self._joined) >= _JOINED_BYTES:
            self._tail_is_cut = self._tail_is_cut or len(self.tail) == _TAIL_CHUNKS
            self.tail.append(bytes(self._joined))
            self._joined.clear()

    def _decompress(self, chunk: bytes) -> bytes:
        try:
            # The limit protects against a small body that decompresses to gigabytes.
            decompressed: bytes = self._decompressor.decompress(chunk, MAX_BODY_BYTES)
        except zlib.error:
            if self._encoding != "deflate" or self._size:
                self._is_readable = False
                return b""
            # Some servers send raw deflate data, without the zlib header that RFC 9110 requires.
            self._encoding, self._decompressor = "", zlib.decompressobj(-zlib.MAX_WBITS)
            return self._decompress(chunk)
        if self._decompressor.unconsumed_tail:
            internal_metrics.increment("replies.over_budget")
            self._is_readable = False
        return decompressed

    def body(self) -> bytes | None:
        """Return the whole body, ``None`` for a body that is too long or cannot be decoded."""
        return b"".join(self._head) if self._is_readable else None

    def head_and_tail(self) -> tuple[bytes, bytes]:
        """Return the beginning and the end of a stream. The beginning is empty if the end is the whole stream."""
        head = b"".join(self._head)
        tail_chunks, tail_size = [bytes(self._joined)], len(self._joined)
        for chunk in reversed(self.tail):
            if tail_size >= TAIL_BYTES:
                self._tail_is_cut = True
                break
            tail_chunks.append(chunk)
            tail_size += len(chunk)
        tail = b"".join(reversed(tail_chunks))
        is_whole = not self._tail_is_cut and len(self.tail) != self.tail.maxlen and tail_size <= TAIL_BYTES
        return (b"", head + tail) if is_whole else (head, tail[-TAIL_BYTES:])

    def clear(self) -> None:
        """Release the kept chunks."""
        self._head.clear()
        self.tail.clear()
        self._joined.clear()


class ResponseReader:
    """Reads status, headers and body of one response into a call result.

    Args:
        registry: The gateways that can be recognised by their response headers.
        parser: The API that the request was sent to.
        gateway: The gateway that the request was sent to, ``None`` if the host is not known as one.
        result: The call result to fill in.
        capture: Whether the output messages are captured.
        media: Room for the bytes of their binary parts, ``None`` if nobody uploads them.

    Attributes:
        gateway: The gateway that sent the response.
        is_stream: Whether the body is a stream of events.
        awaits_prices: Whether the cost can be estimated only when the price list is loaded.
    """

    def __init__(
        self,
        registry: GatewayRegistry,
        parser: ApiParser,
        gateway: Gateway | None,
        result: CallResult,
        *,
        capture: bool,
        media: MediaBudget | None = None,
    ) -> None:
        self._registry = registry
        self._parser = parser
        self._result = result
        self._capture = capture
        self._media = media
        self._headers: Mapping[str, str] = {}
        self._start_time = time.perf_counter()
        self.gateway = gateway
        self._buffer: ResponseBuffer | None = None
        self.is_stream = False
        self.awaits_prices = False
        self._is_media = False

    def read_headers(self, status: int, headers: Mapping[str, str]) -> None:
        """Read the status and the headers (names in lower case)."""
        self._result.status_code = status
        self._headers = headers
        if self.gateway is None:
            self.gateway = self._registry.detect_from_response(headers)
            gateway_exchange.name_provider(self.gateway, self._result)
        content_type = headers.get("content-type", "")
        self.is_stream = status < 400 and ("event" in content_type or "ndjson" in content_type or self._result.streamed)
        self._result.streamed = self.is_stream
        self._is_media = content_type.startswith(_MEDIA)
        self._buffer = None
        rate_limits.extract_rate_limits(headers, self._result, time.time())

    @property
    def buffer(self) -> ResponseBuffer:
        """The kept parts of the body, made when first needed: many clients read the whole body themselves."""
        if self._buffer is None:
            self._buffer = ResponseBuffer(
                streamed=self.is_stream,
                encoding=self._headers.get("content-encoding", "identity").lower(),
                whole=self._capture,
                end_mark=self._parser.end_mark,
                skipped=self._is_media,
            )
        return self._buffer

    def clear(self) -> None:
        """Release the kept parts of the body."""
        if self._buffer is not None:
            self._buffer.clear()

    def read_partial(self) -> None:
        """Read the events of a stream that have arrived so far."""
        self._read_stream()

    def finish(self, body: bytes | None = None, *, cut: str | None = None) -> None:
        """Read the body and estimate the cost.

        Args:
            body: The body, if the client has read it completely.
            cut: Who ended the body early, ``None`` for a body that was read to the end.
        """
        self._result.duration = time.perf_counter() - self._start_time
        if self.is_stream:
            if body is not None:
                self.buffer.disable_decompression()
                self.buffer.append(body)
            self._read_stream()
            self._mark_cut_stream(cut)
        else:
            self._read_body(b"" if self._is_media else (self.buffer.body() or b"") if body is None else body)
        result = self._result
        if result.cache_hit and result.cost and result.cache_savings is None:
            # A cache that keeps whole bodies repeats the cost of the call that filled the cache.
            result.cost, result.cache_savings = 0.0, result.cost
        # Estimated once: an estimate from the first events of a stream would count as a stated cost later.
        if prices.is_loaded:
            estimate_cost(result)
        else:
            self.awaits_prices = needs_estimate(result)

    def _read_body(self, body: bytes) -> None:
        result = self._result
        if result.status_code is not None and result.status_code >= 400:
            parse_error(result.status_code, body, result)
        decoded = self._parser.parse_response(body, result, capture=self._capture, media=self._media) if body else None
        if body and decoded is None:
            internal_metrics.increment("replies.unreadable")
            errors.logger.debug("the %s response is not a JSON object; its span gets no usage", self._parser.name)
        self._apply_gateway(decoded)

    def _read_stream(self) -> None:
        head, tail = self.buffer.head_and_tail()
        if self.buffer.first_chunk_time is not None:
            self._result.time_to_first_chunk = self.buffer.first_chunk_time - self._start_time
        decoded = None
        if tail:
            decoded = self._parser.parse_stream(head, tail, self._result, capture=self._capture, media=self._media)
        self._apply_gateway(decoded)

    def _apply_gateway(self, decoded: Mapping[str, Any] | None) -> None:
        gateway_exchange.extract(self.gateway, self._result, self._headers, decoded, streamed=self.is_stream)
        if decoded is not None and (self.gateway is None or self.gateway.is_provider):
            apply_stated_cost(decoded, self._result)

    def _mark_cut_stream(self, cut: str | None) -> None:
        result = self._result
        has_finished = bool(result.finish_reasons) or self.buffer.saw_terminal_event
        failed_in_stream = cut != "network" and result.error_type is not None
        if cut is not None and not has_finished and not failed_in_stream:
            result.stream_cut = cut
            if result.input_tokens is not None or result.output_tokens is not None:
                result.usage_is_partial = True
        if result.error_type is not None and not has_finished and self.buffer.first_chunk_time is not None:
            # The GenAI conventions' finish reason of a choice that was cut off or failed.
            result.finish_reasons = ("error",)
