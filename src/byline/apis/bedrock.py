"""Amazon Bedrock: Converse for all models, and Invoke with the bodies of each model's own API."""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import msgspec

from byline.apis.json_body import Members, parse_object
from byline.apis.parser import (
    ApiParser,
    Parameters,
    apply_error,
    set_count,
    set_finish_reason,
    token_count,
)
from byline.call_result import CallResult
from byline.gateways import values

#: Total length, length of the headers, and the checksum of both; a checksum of the whole frame stands last.
_PRELUDE: Final = struct.Struct(">III")
_CHECKSUM: Final = 4
#: A header is its name, the type of its value (7: text), the value's length in two bytes, and the value.
_EXCEPTION: Final = re.compile(rb":(?:exception-type|error-code)\x07..([A-Za-z0-9_.]+)", re.DOTALL)


def iter_frames(stream: bytes) -> Iterator[Members]:
    """Yield the JSON payloads of an event stream, even if the stream is cut off at either end.

    Source: ``application/vnd.amazon.eventstream``. A payload of Invoke contains the model's own event as Base64.
    """
    at = 0
    while 0 <= at <= len(stream) - _PRELUDE.size:
        total, headers, checksum = _PRELUDE.unpack_from(stream, at)
        if zlib.crc32(stream[at : at + 8]) != checksum or total < _PRELUDE.size + headers + _CHECKSUM:
            # This is the middle of a frame. The next frame is shorter than 16 MiB: its first byte is 0.
            at = stream.find(b"\0", at + 1)
            continue
        start = at + _PRELUDE.size + headers
        payload = parse_object(stream[start : at + total - _CHECKSUM])
        if payload is not None:
            exception = _EXCEPTION.search(stream, start - headers, start)
            yield _model_event(payload) if exception is None else _error_event(payload, exception[1])
        at += total


def _model_event(payload: Members) -> Members:
    encoded = payload.get_string("bytes")
    if encoded is None:
        return payload
    try:
        return parse_object(base64.b64decode(encoded, validate=True)) or Members({})
    except (binascii.Error, ValueError):
        return Members({})


def _error_event(payload: Members, kind: bytes) -> Members:
    error = {"message": payload.get("message"), "type": kind.decode("ascii", "replace")}
    return Members({"error": msgspec.Raw(msgspec.json.encode(error))})


class _Bedrock(ApiParser):
    """What both APIs have in common: the path names the model, streams are binary frames."""

    path_pattern: ClassVar[re.Pattern[str] | None] = re.compile("/model/")

    def provider_for(self, host: str) -> str:  # noqa: ARG002 - Bedrock has many hosts
        """Return Bedrock's name in the GenAI conventions."""
        return "aws.bedrock"

    def model_in_path(self, path: str) -> str | None:
        """Return the model of ``/model/anthropic.claude-sonnet-4/converse``."""
        return values.text(unquote(path.partition("/model/")[2].rpartition("/")[0]))

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - the path alone decides
        """Whether the path is that of a stream."""
        return path.endswith("-stream")

    def iter_events(self, stream: bytes) -> Iterator[Members]:
        """Yield the events of Amazon's binary frames."""
        return iter_frames(stream)

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read the error of an error reply, and of an event that is one."""
        if "error" in reply or (result.status_code is not None and result.status_code >= 400):
            apply_error(reply, result)

    def apply_input(self, uncached: object, cache_read: object, cache_write: object, result: CallResult) -> None:
        """Add up the input tokens; the first number excludes the tokens of the prompt cache."""
        if token_count(uncached) is not None:
            result.cache_read_tokens, result.cache_write_tokens = token_count(cache_read), token_count(cache_write)
            cached = (result.cache_read_tokens or 0) + (result.cache_write_tokens or 0)
            result.input_tokens = (token_count(uncached) or 0) + cached


class Converse(_Bedrock):
    """``/model/{id}/converse`` and its stream."""

    name: ClassVar[str] = "bedrock.converse"
    required_members: ClassVar[frozenset[str]] = frozenset({"messages"})
    parameters: ClassVar[Parameters] = {
        "inferenceConfig.maxTokens": ("max_tokens", int),
        "inferenceConfig.temperature": ("temperature", float),
        "inferenceConfig.topP": ("top_p", float),
        "inferenceConfig.stopSequences": ("stop_sequences", tuple),
    }

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read tokens, finish reason and error."""
        usage = reply.get_dict("usage")
        cached = (usage.get("cacheReadInputTokens"), usage.get("cacheWriteInputTokens"))
        self.apply_input(usage.get("inputTokens"), *cached, result)
        set_count(result, "output_tokens", usage.get("outputTokens"))
        set_finish_reason(reply.get_string("stopReason"), result)
        super().apply_reply(reply, result)


class Invoke(_Bedrock):
    """``/model/{id}/invoke`` and its stream, for models that state usage as Anthropic's or OpenAI's do."""

    name: ClassVar[str] = "bedrock.invoke"
    parameters: ClassVar[Parameters] = {
        "max_tokens": ("max_tokens", int),
        "max_gen_len": ("max_tokens", int),
        "temperature": ("temperature", float),
        "top_p": ("top_p", float),
        "top_k": ("top_k", int),
        "stop_sequences": ("stop_sequences", tuple),
    }

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read the members of each family of models, and Bedrock's own token counts at the end of a stream."""
        for members in (reply, reply.get_object("message") or Members({})):
            result.response_id = values.text(members.get_string("id")) or result.response_id
            result.response_model = values.text(members.get_string("model")) or result.response_model
            self.apply_usage(members.get_dict("usage"), result)
        counts = reply.get_dict("amazon-bedrock-invocationMetrics")
        if result.input_tokens is None:
            set_count(result, "input_tokens", counts.get("inputTokenCount"))
        if result.output_tokens is None:
            set_count(result, "output_tokens", counts.get("outputTokenCount"))
        set_finish_reason(reply.get_string("stop_reason") or reply.get_dict("delta").get("stop_reason"), result)
        super().apply_reply(reply, result)

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Read the token counts of either spelling."""
        cached = (usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens"))
        self.apply_input(usage.get("input_tokens", usage.get("prompt_tokens")), *cached, result)
        set_count(result, "output_tokens", usage.get("output_tokens", usage.get("completion_tokens")))
