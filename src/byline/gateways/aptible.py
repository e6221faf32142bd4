"""Aptible's AI Gateway: https://www.aptible.com/docs/llm-gateway."""

from __future__ import annotations

from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways.base import Field, Gateway, GatewayResponse
from byline.gateways.litellm import LiteLLM

_LITELLM: Final = LiteLLM()


class Aptible(Gateway):
    """Aptible's AI Gateway. Its trace drain exports the session as ``gen_ai.conversation.id``.

    Aptible does not document its responses. Responses that look like LiteLLM's are read as LiteLLM's.
    """

    name: ClassVar[str] = "aptible"
    hosts: ClassVar[tuple[str, ...]] = ("llm-gateway.aptible.com",)
    fields: ClassVar[tuple[Field, ...]] = (Field("session_id", "header", "x-session-id", sent=True),)

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Read the response as LiteLLM's if the headers show LiteLLM."""
        if _LITELLM.matches_response(response.headers):
            _LITELLM.extract(response, result)
