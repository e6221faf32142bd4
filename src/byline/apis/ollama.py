"""Ollama's own API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from byline.apis.json_body import Members
from byline.apis.messages import (
    Message,
    Part,
    build_message,
    join_pieces,
    list_objects,
    system_parts,
    text_part,
    user_messages,
)
from byline.apis.openai import chat_message
from byline.apis.parser import (
    ApiParser,
    Parameters,
    set_count,
    set_finish_reason,
    vector_length,
)
from byline.call_result import CallResult


class OllamaChat(ApiParser):
    """``/api/chat``. A stream is lines of JSON."""

    name: ClassVar[str] = "ollama.chat"
    #: The conventions have no name for Ollama; instrumentations use this one.
    default_provider: ClassVar[str] = "ollama"
    required_members: ClassVar[frozenset[str]] = frozenset({"model", "messages"})
    parameters: ClassVar[Parameters] = {
        "options.num_predict": ("max_tokens", int),
        "options.temperature": ("temperature", float),
        "options.top_p": ("top_p", float),
        "options.top_k": ("top_k", int),
        "options.seed": ("seed", int),
        "options.stop": ("stop_sequences", tuple),
        "think": ("reasoning.level", str),
    }
    output_types: ClassVar[tuple[str, ...]] = ("format",)

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - the request alone decides
        """Return whether the request asks for a stream, which is the default."""
        return request.get("stream") is not False

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also token counts and finish reason, which stand at the top of the last object."""
        super().apply_reply(reply, result)
        set_count(result, "input_tokens", reply.get("prompt_eval_count"))
        set_count(result, "output_tokens", reply.get("eval_count"))
        set_finish_reason(reply.get_string("done_reason"), result)

    def input_messages(self, request: Members) -> list[Message]:
        """Return all messages; the Base64 images beside a text are left out."""
        return [chat_message(item) for item in list_objects(request.get("messages"))]

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message."""
        message = reply.get_dict("message")
        return [{**chat_message(message), "finish_reason": reply.get("done_reason")}] if message else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message, joined from the texts of all lines."""
        return join_pieces((event.get_dict("message").get("content"), event.get("done_reason")) for event in events)


class OllamaGenerate(OllamaChat):
    """``/api/generate``."""

    name: ClassVar[str] = "ollama.generate"
    required_members: ClassVar[frozenset[str]] = frozenset({"model", "prompt"})
    operation: ClassVar[str] = "text_completion"

    def input_messages(self, request: Members) -> list[Message]:
        """Return the prompt."""
        return user_messages(request.get("prompt"))

    def system_instructions(self, request: Members) -> list[Part]:
        """Return the system prompt."""
        return system_parts(request.get("system"))

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message."""
        text, reason = reply.get_string("response"), reply.get("done_reason")
        return [] if text is None else [build_message("assistant", [text_part(text)], finish_reason=reason)]

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message, joined from the texts of all lines."""
        return join_pieces((event.get("response"), event.get("done_reason")) for event in events)


class OllamaEmbed(OllamaChat):
    """``/api/embed``, which never streams."""

    name: ClassVar[str] = "ollama.embed"
    required_members: ClassVar[frozenset[str]] = frozenset({"model", "input"})
    operation: ClassVar[str] = "embeddings"
    dimensions: ClassVar[str | None] = "dimensions"

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the dimensions, unless the request states them."""
        super().apply_reply(reply, result)
        result.dimensions = result.dimensions or vector_length(reply.raw.get("embeddings"))

    def is_streamed(self, request: Members, path: str) -> bool:  # noqa: ARG002 - embeddings are one reply
        """Return ``False``."""
        return False

    def input_messages(self, request: Members) -> list[Message]:
        """Return the texts."""
        return user_messages(request.get("input"))
