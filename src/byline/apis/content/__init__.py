"""Prompts and completions in the GenAI conventions' JSON, only where the app asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from byline import errors
from byline.apis.content import anthropic, gemini, openai, others, responses
from byline.apis.content.reader import Reader
from byline.call_result import CallResult

#: Name of an API shape → the reader of its content.
CONTENT_READERS: Final[dict[str, Reader]] = {
    "openai.chat": openai.Chat(),
    "openai.completions": openai.Completions(),
    "openai.embeddings": openai.Embeddings(),
    "openai.responses": responses.Responses(),
    "anthropic.messages": anthropic.Messages(),
    "gemini.generate": gemini.Generate(),
    "gemini.embed": others.Embeddings(),
    "ollama.chat": others.OllamaChat(),
    "ollama.generate": others.OllamaGenerate(),
    "ollama.embed": others.Embeddings(),
    "cohere.chat": others.CohereChat(),
    "cohere.embed": others.Embeddings(),
}


class MessageCapture:
    """Reads the content of one call into its facts; what cannot be read is left out."""

    def __init__(self, wire: str, facts: CallResult) -> None:
        self._reader = CONTENT_READERS.get(wire, Reader())
        self._facts = facts

    def request(self, body: bytes | None) -> None:
        """Read the request's body."""
        self._read(self._reader.read_request, body)

    def reply(self, body: bytes) -> None:
        """Read a whole reply's body."""
        self._read(self._reader.read_reply, body)

    def stream(self, body: bytes) -> None:
        """Read a streamed reply's body."""
        self._read(self._reader.read_stream, body)

    def _read(self, read: Callable[[bytes, CallResult], None], body: bytes | None) -> None:
        if not body:
            return
        try:
            read(body, self._facts)
        except Exception:
            errors.report_internal_error("content")


__all__ = ["READERS", "Captured", "Reader"]
