"""Cohere's own API, version 2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

from byline.apis.json_body import Members
from byline.apis.messages import Message, join_pieces, list_objects, user_messages
from byline.apis.openai import chat_message
from byline.apis.parser import (
    ApiParser,
    Parameters,
    Usage,
    find_value,
    set_finish_reason,
    vector_length,
)
from byline.call_result import CallResult

#: Members of a request that are embedded.
_EMBEDDED: Final = frozenset({"texts", "images", "inputs"})


class CohereChat(ApiParser):
    """``/v2/chat``."""

    name: ClassVar[str] = "cohere.chat"
    default_provider: ClassVar[str] = "cohere"
    required_members: ClassVar[frozenset[str]] = frozenset({"model", "messages"})
    parameters: ClassVar[Parameters] = {
        "max_tokens": ("max_tokens", int),
        "temperature": ("temperature", float),
        "p": ("top_p", float),
        "k": ("top_k", int),
        "seed": ("seed", int),
        "frequency_penalty": ("frequency_penalty", float),
        "presence_penalty": ("presence_penalty", float),
        "stop_sequences": ("stop_sequences", tuple),
        "thinking.type": ("reasoning.level", str),
        "embedding_types": ("encoding_formats", tuple),
    }
    output_types: ClassVar[tuple[str, ...]] = ("response_format.type",)
    usage: ClassVar[Usage] = {
        "input_tokens": ("billed_units.input_tokens", "tokens.input_tokens"),
        "output_tokens": ("billed_units.output_tokens", "tokens.output_tokens"),
        "cache_read_tokens": ("cached_tokens",),
    }

    def reply_in(self, event: Members) -> Members:
        """Return the event with the members of its delta: those of the last event are a reply's."""
        delta = event.get_object("delta")
        members = event if delta is None else Members({**event.raw, **delta.raw})
        return Members({name: raw for name, raw in members.raw.items() if name != "type"})

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the finish reason, and the usage of embeddings and ranks, which stands in ``meta``."""
        super().apply_reply(reply, result)
        self.apply_usage(reply.get_dict("meta"), result)
        set_finish_reason(reply.get_string("finish_reason"), result)

    def input_messages(self, request: Members) -> list[Message]:
        """Return all messages, system messages among them."""
        return [chat_message(item) for item in list_objects(request.get("messages"))]

    def output_messages(self, reply: Members) -> list[Message]:
        """Return one message."""
        message = reply.get_dict("message")
        return [{**chat_message(message), "finish_reason": reply.get("finish_reason")}] if message else []

    def join_stream(self, events: Iterable[Members]) -> list[Message]:
        """Return one message, joined from the texts of all ``content-delta`` events."""
        deltas = (event.get_dict("delta") for event in events)
        return join_pieces((find_value(delta, "message.content.text"), delta.get("finish_reason")) for delta in deltas)


class CohereEmbed(CohereChat):
    """``/v2/embed`` and ``/v1/embed``."""

    name: ClassVar[str] = "cohere.embed"
    dimensions: ClassVar[str | None] = "output_dimension"
    required_members: ClassVar[frozenset[str]] = frozenset({"model"})
    operation: ClassVar[str] = "embeddings"

    def apply_reply(self, reply: Members, result: CallResult) -> None:
        """Read also the dimensions, unless the request states them."""
        super().apply_reply(reply, result)
        result.dimensions = result.dimensions or vector_length(reply.raw.get("embeddings"))

    def has_required_members(self, request: Members) -> bool:
        """Return whether the body has a model and something to embed."""
        return super().has_required_members(request) and not request.raw.keys().isdisjoint(_EMBEDDED)

    def input_messages(self, request: Members) -> list[Message]:
        """Return the texts."""
        return user_messages(request.get("texts"))

    def output_messages(self, reply: Members) -> list[Message]:  # noqa: ARG002 - embeddings are no text
        """Return none."""
        return []


class CohereRerank(CohereEmbed):
    """``/v2/rerank`` and ``/v1/rerank``, which Jina, Voyage and vLLM offer too."""

    name: ClassVar[str] = "cohere.rerank"
    required_members: ClassVar[frozenset[str]] = frozenset({"model", "query", "documents"})
    operation: ClassVar[str] = "rerank"
    dimensions: ClassVar[str | None] = None
    #: Cohere counts searches; the others count tokens.
    usage: ClassVar[Usage] = {"input_tokens": ("billed_units.input_tokens", "total_tokens")}

    def has_required_members(self, request: Members) -> bool:
        """Return whether the body has model, query and documents."""
        return self.required_members <= request.raw.keys()

    def input_messages(self, request: Members) -> list[Message]:
        """Return the query."""
        return user_messages(request.get("query"))
