"""Content of Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.apis.content import parts
from byline.apis.content.parts import Message, Part
from byline.apis.content.reader import Reader, items
from byline.gateways import values


class Messages(Reader):
    """``/messages``."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """Tool results come as a user's message."""
        return [
            parts.message(item.get("role"), blocks_of(item.get("content"))) for item in items(members.get("messages"))
        ]

    def system(self, members: Mapping[str, Any]) -> list[Part]:
        """A text or blocks."""
        return blocks_of(members.get("system"))

    def tools(self, members: Mapping[str, Any]) -> list[Any]:
        """The schema is called ``parameters`` in the conventions."""
        return [
            {
                "type": "function",
                "name": tool.get("name"),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema"),
            }
            for tool in items(members.get("tools"))
        ]

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        found = blocks_of(members.get("content"))
        return [parts.message("assistant", found, finish_reason=members.get("stop_reason"))] if found else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Put the pieces of each block together."""
        blocks: dict[Any, dict[str, Any]] = {}
        reason: Any = None
        for event in stream:
            kind, delta = event.get("type"), values.mapping(event.get("delta"))
            if kind == "content_block_start" and len(blocks) < 1000:
                blocks[event.get("index")] = {**values.mapping(event.get("content_block")), "pieces": []}
            elif kind == "content_block_delta" and event.get("index") in blocks:
                piece = delta.get("text") or delta.get("thinking") or delta.get("partial_json")
                if isinstance(piece, str):
                    blocks[event.get("index")]["pieces"].append(piece)
            elif kind == "message_delta":
                reason = delta.get("stop_reason") or reason
        found = [_gathered(block) for block in blocks.values()]
        return [parts.message("assistant", found, finish_reason=reason)] if found else []


def _gathered(block: dict[str, Any]) -> Part:
    said = "".join(block.pop("pieces"))
    kind = block.get("type")
    if kind == "tool_use":
        return parts.tool_call(block.get("id"), block.get("name"), said or block.get("input"))
    if kind == "thinking":
        return parts.reasoning(said or block.get("thinking", ""))
    return parts.text(said or block.get("text", ""))


def blocks_of(content: object) -> list[Part]:
    """Return the parts of a content, a text or blocks."""
    if isinstance(content, str):
        return [parts.text(content)]
    found: list[Part] = []
    for block in items(content):
        kind = block.get("type")
        if kind == "text":
            found.append(parts.text(block.get("text")))
        elif kind == "thinking":
            found.append(parts.reasoning(block.get("thinking")))
        elif kind in ("tool_use", "server_tool_use"):
            found.append(parts.tool_call(block.get("id"), block.get("name"), block.get("input")))
        elif kind == "tool_result":
            found.append(parts.tool_response(block.get("tool_use_id"), block.get("content")))
        elif kind in ("image", "document"):
            source = values.mapping(block.get("source"))
            found.append(
                parts.media(
                    str(kind), uri=source.get("url"), file_id=source.get("file_id"), mime=source.get("media_type")
                )
            )
        elif kind != "redacted_thinking":
            found.append(parts.other(block))
    return found
