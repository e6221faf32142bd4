"""Content of the own shapes of Ollama and Cohere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.calls.content import parts
from byline.calls.content.openai import Chat, message_of, prompts
from byline.calls.content.parts import Message
from byline.calls.content.reader import Reader, items
from byline.gateways import values


class OllamaChat(Chat):
    """``/api/chat``; images are bare Base64 beside the text, and are left out with it."""

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        said = members.get("message")
        return [{**message_of(said), "finish_reason": members.get("done_reason")}] if isinstance(said, Mapping) else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Each line has the next piece."""
        return _join(stream, lambda event: values.mapping(event.get("message")).get("content"))


class OllamaGenerate(Reader):
    """``/api/generate``."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """The prompt."""
        return prompts(members.get("prompt"))

    def system(self, members: Mapping[str, Any]) -> list[dict[str, Any]]:
        """A text."""
        given = members.get("system")
        return [parts.text(given)] if isinstance(given, str) else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Each line has the next piece."""
        return _join(stream, lambda event: event.get("response"))

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        said = members.get("response")
        return [parts.message("assistant", [parts.text(said)])] if isinstance(said, str) else []


class CohereChat(Chat):
    """``/v2/chat``."""

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        said = members.get("message")
        reason = members.get("finish_reason")
        return [{**message_of(said), "finish_reason": reason}] if isinstance(said, Mapping) else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Pieces of text stand in ``content-delta`` events."""

        def piece(event: Mapping[str, Any]) -> object:
            said = values.mapping(values.mapping(event.get("delta")).get("message"))
            return values.mapping(said.get("content")).get("text")

        return _join(stream, piece)


class Embeddings(Reader):
    """Embeddings: there is input alone."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """Ollama's ``input``, Cohere's ``texts``, Gemini's ``content``."""
        found = prompts(members.get("input") or members.get("texts"))
        for part in items(values.mapping(members.get("content")).get("parts")):
            found += prompts(part.get("text"))
        return found


def _join(stream: Iterable[Mapping[str, Any]], piece: Any) -> list[Message]:
    pieces = [found for found in map(piece, stream) if isinstance(found, str)]
    return [parts.message("assistant", [parts.text("".join(pieces))])] if pieces else []
