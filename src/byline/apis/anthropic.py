"""Anthropic's Messages API."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final
from urllib.parse import unquote

from byline.apis.json_body import Members
from byline.apis.messages import (
    Message,
    Part,
    build_message,
    generic_part,
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
    set_count,
    set_finish_reason,
    token_count,
)
from byline.call_result import CallResult
from byline.gateways import values

#: Events of a stream that state neither usage nor a finish reason.
_CONTENT_EVENTS: Final = frozenset({"content_block_start", "content_block_delta", "content_block_stop", "ping"})
#: Blocks of one stream that are captured.
_MAX_BLOCKS: Final = 1000


class Messages(ApiParser):
    """``/messages``. Its ``input_tokens`` exclude the tokens of the prompt cache; the call result's include them."""

    name: ClassVar[str] = "anthropic.messages"
    default_provider: ClassVar[str] = "anthropic"
    required_members: ClassVar[frozenset[str]] = frozenset({"model", "messages"})
    parameters: ClassVar[Parameters] = {
        "max_tokens": ("max_tokens", int),
        "temperature": ("temperature", float),
        "top_p": ("top_p", float),
        "top_k": ("top_k", int),
        "stop_sequences": ("stop_sequences", tuple),
        "thinking.type": ("reasoning.level", str),
        "output_config.effort": ("reasoning.level", str),
    }
    output_types: ClassVar[tuple[str, ...]] = ("output_format.type", "output_config.format.type")

    def reply_in(self, event: Members) -> Members:
        """Return the message of the first event; the others have their members at the top."""
        message = event.get_object("message")
        return message if message is not None else event

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read a message, or an event that states usage or a finish reason."""
        if reply.get_string("type") in _CONTENT_EVENTS:
            return
        super().apply_reply(reply, result)
        set_finish_reason(reply.get_string("stop_reason") or reply.get_dict("delta").get("stop_reason"), result)

    def apply_usage(self, usage: Mapping[str, Any], result: CallResult) -> None:
        """Add up the input tokens; a later event repeats or completes an earlier one."""
        uncached = token_count(usage.get("input_tokens"))
        if uncached is not None:
            set_count(result, "cache_read_tokens", usage.get("cache_read_input_tokens"))
            set_count(result, "cache_write_tokens", usage.get("cache_creation_input_tokens"))
            result.input_tokens = uncached + (result.cache_read_tokens or 0) + (result.cache_write_tokens or 0)
        set_count(result, "output_tokens", usage.get("output_tokens"))

    def input_messages(self, request: Members) -> list[Message]:
        """Return the messages; tool results are messages of the user."""
        return [
            build_message(item.get("role"), block_parts(item.get("content")))
            for item in list_objects(request.get("messages"))
        ]

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system prompt, which is a text or a list of blocks."""
        return block_parts(request.get("system"))

    def tool_definitions(self, request: Members) -> list[Any]:
        """Return the tools; the GenAI conventions call the schema ``parameters``."""
        return [
            {
                "type": "function",
                "name": tool.get("name"),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema"),
            }
            for tool in list_objects(request.get("tools"))
        ]

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message."""
        parts = block_parts(reply.get("content"))
        return [build_message("assistant", parts, finish_reason=reply.get("stop_reason"))] if parts else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message, each block of which is joined from its deltas."""
        blocks: dict[Any, dict[str, Any]] = {}
        finish_reason: Any = None
        for event in events:
            kind, delta = event.get("type"), event.get_dict("delta")
            if kind == "content_block_start" and len(blocks) < _MAX_BLOCKS:
                blocks[event.get("index")] = {**event.get_dict("content_block"), "pieces": []}
            elif kind == "content_block_delta" and event.get("index") in blocks:
                piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json")
                if isinstance(piece, str):
                    blocks[event.get("index")]["pieces"].append(piece)
            elif kind == "message_delta":
                finish_reason = delta.get("stop_reason") or finish_reason
        parts = [_joined_part(block) for block in blocks.values()]
        return [build_message("assistant", parts, finish_reason=finish_reason)] if parts else []


class VertexMessages(Messages):
    """``:rawPredict`` and ``:streamRawPredict`` of Anthropic's models on Vertex AI; the path names the model."""

    name: ClassVar[str] = "anthropic.vertex"
    default_provider: ClassVar[str] = "gcp.vertex_ai"
    #: Tokens are counted without a call of a model.
    path_pattern: ClassVar[re.Pattern[str] | None] = re.compile("/publishers/anthropic/models/(?!count-tokens)")
    required_members: ClassVar[frozenset[str]] = frozenset({"messages"})

    def model_in_path(self, path: str) -> str | None:
        """Return the model of ``…/models/claude-sonnet-4@20250514:rawPredict``."""
        return values.text(unquote(path.rpartition("/")[2].rpartition(":")[0]))

    def is_streamed(self, request: Members, path: str) -> bool:
        """Return whether path or body ask for a stream."""
        return path.endswith(":streamRawPredict") or super().is_streamed(request, path)


def _joined_part(block: dict[str, Any]) -> Part:
    joined = "".join(block["pieces"])
    kind = block.get("type")
    if kind == "tool_use":
        return tool_call_part(block.get("id"), block.get("name"), joined or block.get("input"))
    if kind == "thinking":
        return reasoning_part(joined or block.get("thinking", ""))
    return text_part(joined or block.get("text", ""))


def block_parts(content: object) -> list[Part]:
    """Return the parts of a content, which is a text or a list of blocks."""
    if isinstance(content, str):
        return [text_part(content)]
    # Redacted thinking is encrypted.
    return [_block_part(block) for block in list_objects(content) if block.get("type") != "redacted_thinking"]


def _block_part(block: Mapping[str, Any]) -> Part:
    kind = block.get("type")
    if kind == "text":
        return text_part(block.get("text"))
    if kind == "thinking":
        return reasoning_part(block.get("thinking"))
    if kind in ("tool_use", "server_tool_use"):
        return tool_call_part(block.get("id"), block.get("name"), block.get("input"))
    if kind == "tool_result":
        return tool_response_part(block.get("tool_use_id"), block.get("content"), _binary_part)
    return _binary_part(block) or generic_part(block)


def _binary_part(block: Mapping[str, Any]) -> Part | None:
    kind = block.get("type")
    if kind not in ("image", "document"):
        return None
    source = values.mapping(block.get("source"))
    return media_part(
        str(kind),
        uri=source.get("url"),
        file_id=source.get("file_id"),
        mime=source.get("media_type"),
        data=source.get("data"),
    )
