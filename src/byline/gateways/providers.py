"""Plain providers: they are read, and get nothing unless the app asks for it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_OPENAI_PATHS: Final = ("/chat/completions", "/responses")


def opaque(user_id: str) -> str:
    """Return a stable id of 64 characters that says nothing of the user.

    Example:
        >>> len(opaque("ada@example.com"))
        64
    """
    return hashlib.sha256(user_id.encode()).hexdigest()


class OpenAI(Gateway):
    """OpenAI itself.

    Args:
        base_url: Where it is reached, if not at its own host.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        safety_identifier: Whether the hash of the user's id goes out as ``safety_identifier``.
    """

    name: ClassVar[str] = "openai"
    hosts: ClassVar[tuple[str, ...]] = ("api.openai.com",)
    is_provider: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = ()
    notes = (
        ("sends", "nothing; with `safety_identifier=True` the SHA-256 of the user's id in the body", "documentation"),
        ("reads", "`x-request-id`, `x-ratelimit-*`", "documentation"),
        ("joins", "by request id", "documentation"),
    )

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        safety_identifier: bool = False,
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases)
        self.safety_identifier = safety_identifier

    def write(self, call: GatewayRequest) -> None:
        """Write the safety identifier, if that is wanted."""
        user = call.attribution.user_id
        if self.safety_identifier and user and call.path.endswith(_OPENAI_PATHS):
            call.add({"safety_identifier": opaque(user)})

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read the request's id."""
        facts.request_id = values.text(reply.headers.get("x-request-id")) or facts.request_id


class Anthropic(Gateway):
    """Anthropic itself.

    Args:
        base_url: Where it is reached, if not at its own host.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        user_id: Whether the hash of the user's id goes out as ``metadata.user_id``.
    """

    name: ClassVar[str] = "anthropic"
    hosts: ClassVar[tuple[str, ...]] = ("api.anthropic.com",)
    is_provider: ClassVar[bool] = True
    notes = (
        ("sends", "nothing; with `user_id=True` the SHA-256 of the user's id as `metadata.user_id`", "documentation"),
        ("reads", "`request-id`, `anthropic-ratelimit-*`", "documentation"),
        ("joins", "by request id", "documentation"),
    )

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        user_id: bool = False,
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases)
        self.user_id = user_id

    def write(self, call: GatewayRequest) -> None:
        """Write the user's opaque id, if that is wanted."""
        user = call.attribution.user_id
        if self.user_id and user and call.path.endswith("/messages"):
            call.add_into("metadata", {"user_id": opaque(user)})

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read the request's id."""
        facts.request_id = values.text(reply.headers.get("request-id")) or facts.request_id


class Gemini(Gateway):
    """Google's Gemini API and Vertex AI."""

    name: ClassVar[str] = "gemini"
    hosts: ClassVar[tuple[str, ...]] = ("generativelanguage.googleapis.com", "aiplatform.googleapis.com")
    is_provider: ClassVar[bool] = True
    notes = (
        ("sends", "nothing", "documentation"),
        ("reads", "the body alone", "documentation"),
        ("joins", "by response id", "documentation"),
    )
