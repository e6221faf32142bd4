"""Amazon Bedrock: Converse for all models, and Invoke, whose bodies are the models' own."""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from byline.apis.fields import real_number, string_tuple, token_count, whole_number
from byline.apis.parser import ApiParser
from byline.apis.sse import decode_event
from byline.call_result import CallResult
from byline.gateways import values

#: Total length, length of the headers, and the checksum of these two; a checksum of all stands last.
_PRELUDE: Final = struct.Struct(">III")
_LAST: Final = 4
#: A header is its name, the type of its value (7: text), the value's length in two bytes, and the value.
_EXCEPTION: Final = re.compile(rb":(?:exception-type|error-code)\x07..([A-Za-z0-9_.]+)", re.DOTALL)


def iter_frames(stream: bytes) -> Iterator[dict[str, Any]]:
    """Return the JSON payloads of an event stream, also where it is cut off at either end.

    Source: ``application/vnd.amazon.eventstream``; Invoke's payloads wrap the model's own event as Base64.
    """
    at = 0
    while 0 <= at <= len(stream) - _PRELUDE.size:
        total, headers, checksum = _PRELUDE.unpack_from(stream, at)
        if zlib.crc32(stream[at : at + 8]) != checksum or total < _PRELUDE.size + headers + _LAST:
            # In the midst of a frame. The next one's length is below 16 MiB: its first byte is nought.
            at = stream.find(b"\0", at + 1)
            continue
        start = at + _PRELUDE.size + headers
        found = decode_event(stream[start : at + total - _LAST])
        if isinstance(found, dict):
            error = _EXCEPTION.search(stream, start - headers, start)
            yield _unwrap(found) if error is None else {"error": {**found, "type": error[1].decode("ascii", "replace")}}
        at += total


def _unwrap(event: dict[str, Any]) -> dict[str, Any]:
    inner = event.get("bytes")
    if not isinstance(inner, str):
        return event
    try:
        found = decode_event(base64.b64decode(inner, validate=True))
    except (binascii.Error, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Converse(ApiParser):
    """``/model/{id}/converse`` and its stream. Its input tokens leave out what the cache read and wrote."""

    name: ClassVar[str] = "bedrock.converse"
    within: ClassVar[str] = "/model/"
    needs: ClassVar[frozenset[str]] = frozenset({"messages"})
    bulky: ClassVar[frozenset[str]] = frozenset({"output"})
    parameters = {  # noqa: RUF012 - a class variable, as the base class says
        "inferenceConfig.maxTokens": ("max_tokens", whole_number),
        "inferenceConfig.temperature": ("temperature", real_number),
        "inferenceConfig.topP": ("top_p", real_number),
        "inferenceConfig.stopSequences": ("stop_sequences", string_tuple),
    }

    def provider(self, host: str) -> str:  # noqa: ARG002 - it has many hosts
        """Bedrock's name in the conventions."""
        return "aws.bedrock"

    def model_of(self, path: str) -> str | None:
        """``/model/anthropic.claude-sonnet-4/converse`` names it."""
        return values.text(unquote(path.partition("/model/")[2].rpartition("/")[0]))

    def is_streamed(self, members: Mapping[str, Any], path: str) -> bool:  # noqa: ARG002 - the path says it
        """The path says it."""
        return path.endswith("-stream")

    def events(self, stream: bytes) -> Iterator[dict[str, Any]]:
        """Return the events of Amazon's binary framing."""
        return iter_frames(stream)

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Take tokens, the reason, and an error."""
        usage = values.mapping(members.get("usage"))
        fresh, said = token_count(usage.get("inputTokens")), token_count(usage.get("outputTokens"))
        read, written = token_count(usage.get("cacheReadInputTokens")), token_count(usage.get("cacheWriteInputTokens"))
        if fresh is not None:
            facts.input_tokens = fresh + (read or 0) + (written or 0)
            facts.cache_read_tokens, facts.cache_write_tokens = read, written
        facts.output_tokens = said if said is not None else facts.output_tokens
        reason = values.text(members.get("stopReason"))
        if reason:
            facts.finish_reasons = (reason,)
        if "error" in members or (facts.status_code is not None and facts.status_code >= 400):
            super().take(members, facts)


class Invoke(ApiParser):
    """``/model/{id}/invoke`` and its stream, for models whose usage is spelt as Anthropic's or OpenAI's."""

    name: ClassVar[str] = "bedrock.invoke"
    within: ClassVar[str] = "/model/"
    needs: ClassVar[frozenset[str]] = frozenset()
    bulky: ClassVar[frozenset[str]] = frozenset({"content", "choices", "output", "generation"})
    parameters = {  # noqa: RUF012 - a class variable, as the base class says
        "max_tokens": ("max_tokens", whole_number),
        "max_gen_len": ("max_tokens", whole_number),
        "temperature": ("temperature", real_number),
        "top_p": ("top_p", real_number),
        "top_k": ("top_k", whole_number),
        "stop_sequences": ("stop_sequences", string_tuple),
    }
    provider = Converse.provider
    model_of = Converse.model_of
    is_streamed = Converse.is_streamed
    events = Converse.events

    def take(self, members: Mapping[str, Any], facts: CallResult) -> None:
        """Take what the families of models say, and Bedrock's own count at a stream's end."""
        inner = members.get("message")
        for said in (members, inner if isinstance(inner, Mapping) else {}):
            facts.response_id = values.text(said.get("id")) or facts.response_id
            facts.response_model = values.text(said.get("model")) or facts.response_model
            usage = values.mapping(said.get("usage"))
            fresh = token_count(usage.get("input_tokens", usage.get("prompt_tokens")))
            read, written = (token_count(usage.get(f"cache_{what}_input_tokens")) for what in ("read", "creation"))
            if fresh is not None:
                facts.input_tokens = fresh + (read or 0) + (written or 0)
                facts.cache_read_tokens, facts.cache_write_tokens = read, written
            output = token_count(usage.get("output_tokens", usage.get("completion_tokens")))
            facts.output_tokens = output if output is not None else facts.output_tokens
        counted = values.mapping(members.get("amazon-bedrock-invocationMetrics"))
        for name, fact in (("inputTokenCount", "input_tokens"), ("outputTokenCount", "output_tokens")):
            count = token_count(counted.get(name))
            if count is not None and getattr(facts, fact) is None:
                setattr(facts, fact, count)
        reason = members.get("stop_reason") or values.mapping(members.get("delta")).get("stop_reason")
        if values.text(reason):
            facts.finish_reasons = (str(reason),)
        if "error" in members or (facts.status_code is not None and facts.status_code >= 400):
            super().take(members, facts)
