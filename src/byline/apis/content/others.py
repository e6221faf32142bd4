"""Content of the own shapes of Ollama and Cohere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from byline.apis.content import parts
from byline.apis.content.openai import Chat, message_of, prompts
from byline.apis.content.parts import Message
from byline.apis.content.reader import Reader, items
from byline.gateways import values


class OllamaChat(Chat):
    """``/api/chat``; images are bare Base64 beside the text, and are left out with it."""

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        said = members.get("message")
        return [{**message_of(said), "finish_reason": members.get("done_reason")}] if isinstance(said, Mapping) else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Each line has the next piece."""
        return _join(
            (values.mapping(event.get("message")).get("content"), event.get("done_reason")) for event in stream
        )


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
        return _join((event.get("response"), event.get("done_reason")) for event in stream)

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        said = members.get("response")
        reason = members.get("done_reason")
        return [parts.message("assistant", [parts.text(said)], finish_reason=reason)] if isinstance(said, str) else []


class CohereChat(Chat):
    """``/v2/chat``."""

    def output(self, members: Mapping[str, Any]) -> list[Message]:
        """One message."""
        said = members.get("message")
        reason = members.get("finish_reason")
        return [{**message_of(said), "finish_reason": reason}] if isinstance(said, Mapping) else []

    def gather(self, stream: Iterable[Mapping[str, Any]]) -> list[Message]:
        """Pieces of text stand in ``content-delta`` events, the reason in the last one."""
        deltas = [values.mapping(event.get("delta")) for event in stream]
        return _join(
            (
                values.mapping(values.mapping(delta.get("message")).get("content")).get("text"),
                delta.get("finish_reason"),
            )
            for delta in deltas
        )


class Embeddings(Reader):
    """Embeddings: there is input alone."""

    def input(self, members: Mapping[str, Any]) -> list[Message]:
        """Ollama's ``input``, Cohere's ``texts``, Gemini's ``content``."""
        found = prompts(members.get("input") or members.get("texts"))
        for part in items(values.mapping(members.get("content")).get("parts")):
            found += prompts(part.get("text"))
        return found


def _join(events: Iterable[tuple[object, object]]) -> list[Message]:
    """Put the pieces of one message together, each with the reason for which it ends, where it has one."""
    pieces: list[str] = []
    reason: object = None
    for piece, ending in events:
        if isinstance(piece, str):
            pieces.append(piece)
        reason = ending or reason
    return [parts.message("assistant", [parts.text("".join(pieces))], finish_reason=reason)] if pieces else []
