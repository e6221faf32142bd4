"""Reads what comes back of one exchange into its facts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from byline import errors, internal_metrics
from byline.apis import ApiParser, parse_error
from byline.apis.content import MessageCapture
from byline.call_result import CallResult
from byline.gateways.base import Gateway
from byline.gateways.registry import GatewayRegistry
from byline.http import gateway_exchange
from byline.http.pricing import estimate_cost
from byline.http.rate_limits import extract_rate_limits
from byline.http.response_buffer import ResponseBuffer


class ResponseReader:
    """The reading of one reply.

    Args:
        known: The gateways that are known by what they answer.
        wire: The API shape that is spoken.
        gateway: The gateway that was called, ``None`` where the reply may still say it.
        facts: Where the facts go.
        content: Where prompts and completions go, ``None`` where they are not captured.

    Attributes:
        gateway: The gateway that has answered.
        seen: What is kept of the body, from the moment of its headers on.
        is_stream: Whether it comes in events.
    """

    def __init__(
        self,
        known: GatewayRegistry,
        wire: ApiParser,
        gateway: Gateway | None,
        facts: CallResult,
        content: MessageCapture | None,
    ) -> None:
        self._known = known
        self._wire = wire
        self._facts = facts
        self._content = content
        self._headers: Mapping[str, str] = {}
        self._started = time.perf_counter()
        self.gateway = gateway
        self.seen = ResponseBuffer(streamed=False)
        self.is_stream = False

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Read status and headers (names in lower case)."""
        self._facts.status_code = status
        self._headers = headers
        if self.gateway is None:
            self.gateway = self._known.answered(headers)
        kind = headers.get("content-type", "")
        self.is_stream = status < 400 and ("event" in kind or "ndjson" in kind or self._facts.streamed)
        self._facts.streamed = self.is_stream
        self.seen = ResponseBuffer(
            streamed=self.is_stream,
            encoding=headers.get("content-encoding", "identity").lower(),
            whole=self._content is not None,
            mark=self._wire.end_mark,
        )
        extract_rate_limits(headers, self._facts, time.time())

    def glimpse(self) -> None:
        """Read so much of a stream as has come."""
        if self.seen.marked:
            self._facts.duration = time.perf_counter() - self._started
        self._read_stream()

    def end(self, body: bytes | None) -> None:
        """Read the whole; ``body`` where the client has read all of it already."""
        self._facts.duration = time.perf_counter() - self._started
        if not self.is_stream:
            self._read_whole((self.seen.body() or b"") if body is None else body)
            return
        if body is not None:
            # A stream that the client has read to its end by itself.
            self.seen.is_decoded()
            self.seen.see(body)
        self._read_stream()

    def _read_whole(self, body: bytes) -> None:
        facts = self._facts
        if facts.status_code is not None and facts.status_code >= 400:
            parse_error(facts.status_code, body, facts)
        decoded = self._wire.read_reply(body, facts) if body else None
        if body and decoded is None:
            internal_metrics.increment("replies.unreadable")
            errors.logger.debug("a reply to %s is no JSON: its facts are left out", self._wire.name)
        if self._content is not None and decoded is not None:
            self._content.reply(body)
        self._read_gateway(decoded)

    def _read_stream(self) -> None:
        head, tail = self.seen.ends()
        if self.seen.first is not None:
            self._facts.time_to_first_chunk = self.seen.first - self._started
        # The reasons of a stream that is read again would stand there twice.
        self._facts.finish_reasons = ()
        self._read_gateway(self._wire.read_stream(head, tail, self._facts) if tail else None)
        if self._content is not None:
            self._content.stream(head + tail)

    def _read_gateway(self, decoded: Mapping[str, Any] | None) -> None:
        gateway_exchange.extract(self.gateway, self._facts, self._headers, decoded, streamed=self.is_stream)
        estimate_cost(self._facts)
