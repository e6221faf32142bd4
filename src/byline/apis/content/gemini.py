"""Content of Gemini's generateContent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.apis.content import parts
from byline.apis.content.openai import prompts
from byline.apis.content.parts import Message, Part
from byline.apis.content.reader import Reader, items
from byline.gateways import values


class Generate(Reader):
    """``:generateContent`` and its stream."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """A model's turn is the assistant's."""
        given = members.get("contents")
        return prompts(given) if isinstance(given, str) else [_message_of(item) for item in items(given)]

    def system(self, members: Mapping[str, Any]) -> list[Part]:
        """Both spellings are taken by the API."""
        given = members.get("systemInstruction") or members.get("system_instruction")
        return _parts_of(values.mapping(given).get("parts"))

    def tools(self, members: Mapping[str, Any]) -> list[Any]:
        """Function declarations, from all tools."""
        return [
            {"type": "function", **declared}
            for tool in items(members.get("tools"))
            for declared in items(tool.get("functionDeclarations") or tool.get("function_declarations"))
        ]

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message a candidate."""
        return [
            {**_message_of(values.mapping(candidate.get("content"))), "finish_reason": candidate.get("finishReason")}
            for candidate in items(members.get("candidates"))
        ]

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Each event has the next parts of each candidate."""
        found: dict[Any, Message] = {}
        for event in stream:
            for candidate in items(event.get("candidates")):
                whole = found.setdefault(candidate.get("index", 0), parts.message("assistant", [], finish_reason=None))
                whole["finish_reason"] = candidate.get("finishReason") or whole["finish_reason"]
                for part in _parts_of(values.mapping(candidate.get("content")).get("parts")):
                    _append(whole["parts"], part)
        return list(found.values())


def _append(whole: list[Part], part: Part) -> None:
    last = whole[-1] if whole else None
    if last is not None and part["type"] == last["type"] and part["type"] in ("text", "reasoning"):
        last["content"] = parts.shorten(last["content"] + part["content"])
    else:
        whole.append(part)


def _message_of(item: Mapping[str, Any]) -> Message:
    role = item.get("role", "user")
    return parts.message("assistant" if role == "model" else role, _parts_of(item.get("parts")))


def _parts_of(given: object) -> list[Part]:
    found: list[Part] = []
    for part in items(given):
        call, answer = part.get("functionCall"), part.get("functionResponse")
        inline = part.get("inlineData") or part.get("inline_data")
        file = values.mapping(part.get("fileData") or part.get("file_data"))
        if isinstance(part.get("text"), str):
            found.append(parts.reasoning(part["text"]) if part.get("thought") is True else parts.text(part["text"]))
        elif isinstance(call, Mapping):
            found.append(parts.tool_call(call.get("id"), call.get("name"), call.get("args")))
        elif isinstance(answer, Mapping):
            found.append(parts.tool_response(answer.get("id") or answer.get("name"), answer.get("response")))
        elif isinstance(inline, Mapping):
            mime = inline.get("mimeType") or inline.get("mime_type")
            found.append(parts.media(str(mime).partition("/")[0], mime=mime))
        elif file:
            mime = file.get("mimeType") or file.get("mime_type")
            uri = file.get("fileUri") or file.get("file_uri")
            found.append(parts.media(str(mime).partition("/")[0], uri=uri, mime=mime))
    return found
