"""Content of the Responses API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.apis.content import parts
from byline.apis.content.openai import flat, parts_of, prompts
from byline.apis.content.parts import Message, Part
from byline.apis.content.reader import Reader, items
from byline.gateways import values


class Responses(Reader):
    """``/responses``."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """A text, or items of which messages, tool calls and their answers are the common ones."""
        given = members.get("input")
        return prompts(given) if isinstance(given, str) else [_message_of(item) for item in items(given)]

    def system(self, members: Mapping[str, Any]) -> list[Part]:
        """The instructions."""
        given = members.get("instructions")
        return [parts.text(given)] if isinstance(given, str) else []

    def tools(self, members: Mapping[str, Any]) -> list[Any]:
        """They are flat already."""
        return [flat(tool) for tool in items(members.get("tools"))]

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """All output items are parts of one message."""
        found: list[Part] = []
        for item in items(members.get("output")):
            found += _message_of(item)["parts"]
        return [parts.message("assistant", found, finish_reason=members.get("status"))] if found else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """The last event has the whole; a stream that broke off has its pieces."""
        pieces: list[str] = []
        whole: list[Message] = []
        for event in stream:
            whole = self.output(values.mapping(event.get("response"))) or whole
            if event.get("type") == "response.output_text.delta" and isinstance(event.get("delta"), str):
                pieces.append(event["delta"])
        if whole or not pieces:
            return whole
        return [parts.message("assistant", [parts.text("".join(pieces))])]


def _message_of(item: Mapping[str, Any]) -> Message:
    kind = item.get("type", "message")
    if kind == "message":
        return parts.message(item.get("role"), parts_of(item.get("content")))
    if kind == "function_call":
        call = parts.tool_call(item.get("call_id"), item.get("name"), item.get("arguments"))
        return parts.message("assistant", [call])
    if kind == "function_call_output":
        return parts.message("tool", [parts.tool_response(item.get("call_id"), item.get("output"))])
    if kind == "reasoning":
        summary = [part.get("text") for part in items(item.get("summary"))]
        return parts.message("assistant", [parts.reasoning(said) for said in summary if isinstance(said, str)])
    return parts.message("assistant", [parts.other(item)])
