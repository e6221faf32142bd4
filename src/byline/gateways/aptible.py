"""Aptible's AI Gateway: https://www.aptible.com/docs/llm-gateway."""

from __future__ import annotations

from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways.base import Field, Gateway, GatewayResponse
from byline.gateways.litellm import LiteLLM

_LITELLM: Final = LiteLLM()


class Aptible(Gateway):
    """Aptible's AI Gateway. Its trace drain files the session as ``gen_ai.conversation.id``.

    What it answers with is not documented; where its replies look like LiteLLM's they are read so.
    """

    name: ClassVar[str] = "aptible"
    hosts: ClassVar[tuple[str, ...]] = ("llm-gateway.aptible.com",)
    fields: ClassVar[tuple[Field, ...]] = (Field("session_id", "header", "x-session-id", sent=True),)
    notes = (
        ("sends", "`x-session-id`", "documentation"),
        ("reads", "what LiteLLM's replies say, where its replies look like them", "inference"),
        ("joins", "by session", "documentation"),
    )

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read LiteLLM's dialect where the reply speaks it."""
        if _LITELLM.answered(reply.headers):
            _LITELLM.read(reply, facts)
