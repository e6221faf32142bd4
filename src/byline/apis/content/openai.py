"""Content of chat completions, text completions and embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.apis.content import parts
from byline.apis.content.parts import Message, Part
from byline.apis.content.reader import Reader, items
from byline.gateways import values


class Chat(Reader):
    """``/chat/completions``."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """System messages stay where they stand."""
        return [message_of(item) for item in items(members.get("messages"))]

    def tools(self, members: Mapping[str, Any]) -> list[Any]:
        """The conventions have a function's members beside its type."""
        return [flat(tool) for tool in items(members.get("tools"))]

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message a choice."""
        return [
            {**message_of(values.mapping(choice.get("message"))), "finish_reason": choice.get("finish_reason")}
            for choice in items(members.get("choices"))
        ]

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Put the pieces of each choice together."""
        choices: dict[int, _Gathered] = {}
        for event in stream:
            for choice in items(event.get("choices")):
                index = choice.get("index")
                key = index if type(index) is int else 0
                if key in choices or len(choices) < 64:
                    choices.setdefault(key, _Gathered()).add(choice)
        return [choices[index].message() for index in sorted(choices)]


class _Gathered:
    """The pieces of one choice of a stream."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}
        self._reason: Any = None

    def add(self, choice: Mapping[str, Any]) -> None:
        delta = values.mapping(choice.get("delta"))
        self._reason = choice.get("finish_reason") or self._reason
        for kept, piece in (
            (self._text, delta.get("content") or choice.get("text")),
            (self._reasoning, delta.get("reasoning_content") or delta.get("reasoning")),
        ):
            if isinstance(piece, str):
                kept.append(piece)
        for call in items(delta.get("tool_calls")):
            index = call.get("index")
            function = values.mapping(call.get("function"))
            found = self._calls.setdefault(
                index if type(index) is int else 0, {"id": None, "name": None, "arguments": []}
            )
            found["id"] = call.get("id") or found["id"]
            found["name"] = function.get("name") or found["name"]
            if isinstance(function.get("arguments"), str):
                found["arguments"].append(function["arguments"])

    def message(self) -> Message:
        found: list[Part] = []
        if self._reasoning:
            found.append(parts.reasoning("".join(self._reasoning)))
        if self._text:
            found.append(parts.text("".join(self._text)))
        found += [
            parts.tool_call(call["id"], call["name"], "".join(call["arguments"])) for call in self._calls.values()
        ]
        return parts.message("assistant", found, finish_reason=self._reason)


class Completions(Chat):
    """``/completions``."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """A prompt is a user's message; several are several."""
        return prompts(members.get("prompt"))

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message a choice."""
        return [
            parts.message("assistant", [parts.text(choice.get("text"))], finish_reason=choice.get("finish_reason"))
            for choice in items(members.get("choices"))
        ]


class Embeddings(Reader):
    """``/embeddings``: there is input alone."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """Texts; tokens are no text."""
        return prompts(members.get("input"))


def prompts(given: object) -> list[Message]:
    """Return one user's message a text."""
    several = given if isinstance(given, list) else [given]
    return [parts.message("user", [parts.text(item)]) for item in several if isinstance(item, str)]


def flat(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool's definition as the conventions have it."""
    function = tool.get("function")
    return {"type": tool.get("type", "function"), **function} if isinstance(function, Mapping) else dict(tool)


def message_of(item: Mapping[str, Any]) -> Message:
    """Return one message of a chat."""
    role = item.get("role", "assistant")
    if role == "tool":
        return parts.message(role, [parts.tool_response(item.get("tool_call_id"), item.get("content"))])
    found: list[Part] = []
    thought = item.get("reasoning_content") or item.get("reasoning")
    if isinstance(thought, str):
        found.append(parts.reasoning(thought))
    found += parts_of(item.get("content"))
    if isinstance(item.get("refusal"), str):
        found.append(parts.text(item["refusal"]))
    for call in items(item.get("tool_calls")):
        function = values.mapping(call.get("function"))
        found.append(parts.tool_call(call.get("id"), function.get("name"), function.get("arguments")))
    name = item.get("name")
    return parts.message(role, found, **({"name": name} if isinstance(name, str) else {}))


def parts_of(content: object) -> list[Part]:
    """Return the parts of a message's content, a text or a list."""
    if isinstance(content, str):
        return [parts.text(content)]
    found: list[Part] = []
    for item in items(content):
        kind = item.get("type")
        if kind in ("text", "input_text", "output_text"):
            found.append(parts.text(item.get("text")))
        elif kind in ("image_url", "input_image"):
            image = item.get("image_url")
            url = image.get("url") if isinstance(image, Mapping) else image
            found.append(parts.media("image", uri=url, file_id=item.get("file_id")))
        elif kind == "input_audio":
            found.append(parts.media("audio", mime=values.mapping(item.get("input_audio")).get("format")))
        elif kind in ("file", "input_file"):
            file = item.get("file") if isinstance(item.get("file"), Mapping) else item
            found.append(parts.media("document", file_id=values.mapping(file).get("file_id")))
        elif kind == "refusal":
            found.append(parts.text(item.get("refusal")))
        else:
            found.append(parts.other(item))
    return found
