"""Amazon Bedrock: Converse for all models, and Invoke with the bodies of each model's own API."""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import unquote

import msgspec

from byline.apis.anthropic import Messages
from byline.apis.json_body import Members, parse_object
from byline.apis.messages import (
    Message,
    Part,
    build_message,
    list_objects,
    media_part,
    reasoning_part,
    text_part,
    tool_call_part,
    tool_response_part,
)
from byline.apis.parser import (
    ApiParser,
    Parameters,
    apply_error,
    find_value,
    set_count,
    set_finish_reason,
    token_count,
)
from byline.call_result import CallResult
from byline.gateways import values

#: Total length, length of the headers, and the checksum of both; a checksum of the whole frame stands last.
_PRELUDE: Final = struct.Struct(">III")
_CHECKSUM: Final = 4
#: Blocks of one stream that are captured.
_MAX_BLOCKS: Final = 1000
_ANTHROPIC: Final = Messages()
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
    """Base of both APIs: the path names the model, streams are binary frames."""

    path_pattern: ClassVar[re.Pattern[str] | None] = re.compile("/model/")

    def provider_for(self, host: str) -> str:  # noqa: ARG002 - Bedrock has many hosts
        """Return Bedrock's name in the GenAI conventions."""
        return "aws.bedrock"

    def model_in_path(self, path: str) -> str | None:
        """Return the model of ``/model/anthropic.claude-sonnet-4/converse``."""
        return values.text(unquote(path.partition("/model/")[2].rpartition("/")[0]))

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - the path alone decides
        """Return whether the path is that of a stream."""
        return path.endswith("-stream")

    def iter_events(self, stream: bytes, is_wanted: Callable[[bytes], bool]) -> Iterator[Members]:  # noqa: ARG002
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

    def input_messages(self, request: Members) -> list[Message]:
        """Return the messages."""
        return [
            build_message(item.get("role"), _block_parts(item.get("content")))
            for item in list_objects(request.get("messages"))
        ]

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system prompt."""
        return _block_parts(request.get("system"))

    def tool_definitions(self, request: Members) -> list[Any]:
        """Return the tool specifications; the GenAI conventions call the schema ``parameters``."""
        tools = [
            values.mapping(tool.get("toolSpec")) for tool in list_objects(request.get_dict("toolConfig").get("tools"))
        ]
        return [
            {
                "type": "function",
                "name": tool.get("name"),
                "description": tool.get("description"),
                "parameters": find_value(tool, "inputSchema.json"),
            }
            for tool in tools
            if tool
        ]

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message."""
        parts = _block_parts(find_value(reply, "output.message.content"))
        return [build_message("assistant", parts, finish_reason=reply.get("stopReason"))] if parts else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message, each block of which is joined from the deltas."""
        blocks: dict[Any, dict[str, Any]] = {}
        finish_reason: object = None
        for event in events:
            index = event.get("contentBlockIndex")
            if "stopReason" in event:
                finish_reason = event.get("stopReason")
            if type(index) is not int or (index not in blocks and len(blocks) >= _MAX_BLOCKS):
                continue
            block = blocks.setdefault(index, {"tool": {}, "text": [], "reasoning": [], "input": []})
            block["tool"] = find_value(event, "start.toolUse") or block["tool"]
            for name, path in (
                ("text", "delta.text"),
                ("reasoning", "delta.reasoningContent.text"),
                ("input", "delta.toolUse.input"),
            ):
                piece = find_value(event, path)
                if isinstance(piece, str):
                    block[name].append(piece)
        parts = [_joined_part(block) for block in blocks.values()]
        return [build_message("assistant", parts, finish_reason=finish_reason)] if parts else []


def _joined_part(block: Mapping[str, Any]) -> Part:
    tool = values.mapping(block["tool"])
    if tool:
        return tool_call_part(tool.get("toolUseId"), tool.get("name"), "".join(block["input"]))
    return reasoning_part("".join(block["reasoning"])) if block["reasoning"] else text_part("".join(block["text"]))


def _block_parts(content: object) -> list[Part]:
    return [part for item in list_objects(content) if (part := _block_part(item)) is not None]


def _block_part(block: Mapping[str, Any]) -> Part | None:
    text, call, response = block.get("text"), block.get("toolUse"), block.get("toolResult")
    if isinstance(text, str):
        return text_part(text)
    if isinstance(call, Mapping):
        return tool_call_part(call.get("toolUseId"), call.get("name"), call.get("input"))
    if isinstance(response, Mapping):
        return tool_response_part(response.get("toolUseId"), response.get("content"), _binary_part)
    reasoning = find_value(block, "reasoningContent.reasoningText.text")
    if isinstance(reasoning, str):
        return reasoning_part(reasoning)
    # Not known: markers of the prompt cache, encrypted reasoning, and blocks of guardrails.
    return _binary_part(block)


def _binary_part(block: Mapping[str, Any]) -> Part | None:
    for kind in ("image", "document", "video"):
        media = block.get(kind)
        if isinstance(media, Mapping):
            mime = media.get("format") if kind == "document" else f"{kind}/{media.get('format')}"
            source = values.mapping(media.get("source"))
            return media_part(kind, uri=find_value(source, "s3Location.uri"), mime=mime, data=source.get("bytes"))
    return None


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

    def input_messages(self, request: Members) -> list[Message]:
        """Return the messages of a request to one of Anthropic's models."""
        return _ANTHROPIC.input_messages(request) if "anthropic_version" in request else []

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system prompt of a request to one of Anthropic's models."""
        return _ANTHROPIC.system_instructions(request) if "anthropic_version" in request else []

    def tool_definitions(self, request: Members) -> list[Any]:
        """Return the tools of a request to one of Anthropic's models."""
        return _ANTHROPIC.tool_definitions(request) if "anthropic_version" in request else []

    def output_messages(self, reply: Members) -> list[Message]:
        """Return the message of one of Anthropic's models."""
        return _ANTHROPIC.output_messages(reply) if reply.get_string("type") == "message" else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return the message of one of Anthropic's models; other models have events of other types."""
        return _ANTHROPIC.join_stream(events)
