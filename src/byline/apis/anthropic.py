"""Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from byline.apis.fields import real_number, string_tuple, token_count, whole_number
from byline.apis.parser import ApiParser
from byline.apis.provider_names import provider_for_host
from byline.call_result import CallResult
from byline.gateways import values


class Messages(ApiParser):
    """``/messages``. Its ``input_tokens`` leave out what the cache read and wrote; ours hold them."""

    name: ClassVar[str] = "anthropic.messages"
    needs: ClassVar[frozenset[str]] = frozenset({"model", "messages"})
    bulky: ClassVar[frozenset[str]] = frozenset({"content"})
    parameters = {  # noqa: RUF012 - a class variable, as the base class says
        "max_tokens": ("max_tokens", whole_number),
        "temperature": ("temperature", real_number),
        "top_p": ("top_p", real_number),
        "top_k": ("top_k", whole_number),
        "stop_sequences": ("stop_sequences", string_tuple),
        "service_tier": ("service_tier", values.text),
    }

    def provider(self, host: str) -> str:
        """Others speak this shape under their own names."""
        return provider_for_host(host) or "anthropic"

    def unwrap(self, event: dict[str, Any]) -> dict[str, Any]:
        """The first event wraps the message; the last but one has the rest of the usage at its top."""
        inner = event.get("message")
        return inner if isinstance(inner, dict) else event

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Take what a message or an event says."""
        if members.get("type") in ("content_block_start", "content_block_delta", "content_block_stop", "ping"):
            return
        super().take(members, facts)
        reason = members.get("stop_reason") or values.mapping(members.get("delta")).get("stop_reason")
        if values.text(reason):
            facts.finish_reasons = (str(reason),)

    def take_usage(self, usage: Mapping[str, Any], facts: CallResult) -> None:
        """Add up the input; a later event repeats or completes an earlier one."""
        read = token_count(usage.get("cache_read_input_tokens"))
        write = token_count(usage.get("cache_creation_input_tokens"))
        fresh = token_count(usage.get("input_tokens"))
        if fresh is not None:
            facts.cache_read_tokens = read if read is not None else facts.cache_read_tokens
            facts.cache_write_tokens = write if write is not None else facts.cache_write_tokens
            facts.input_tokens = fresh + (facts.cache_read_tokens or 0) + (facts.cache_write_tokens or 0)
        output = token_count(usage.get("output_tokens"))
        facts.output_tokens = output if output is not None else facts.output_tokens
