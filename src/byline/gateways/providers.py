"""Model providers: byline reads their responses, and sends them a hashed user id only if configured."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_PATHS_WITH_SAFETY_IDENTIFIER: Final = ("/chat/completions", "/responses")


def hash_user_id(user_id: str) -> str:
    """Return the SHA-256 of a user id in hex, which a provider may get instead of the id.

    Example:
        >>> len(hash_user_id("ada@example.com"))
        64
    """
    return hashlib.sha256(user_id.encode()).hexdigest()


class OpenAI(Gateway):
    """OpenAI's own API.

    Args:
        base_url: The URL, if not the provider's own.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        forward_claims: As for every gateway.
        safety_identifier: Whether to send the hash of the user's id as ``safety_identifier``.
    """

    name: ClassVar[str] = "openai"
    hosts: ClassVar[tuple[str, ...]] = ("api.openai.com",)
    is_provider: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = ()

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        forward_claims: Collection[str] = (),
        safety_identifier: bool = False,
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases, forward_claims=forward_claims)
        self.safety_identifier = safety_identifier

    def inject(self, request: GatewayRequest) -> None:
        """Add the safety identifier, if configured."""
        user = request.attribution.user_id
        if self.safety_identifier and user and request.path.endswith(_PATHS_WITH_SAFETY_IDENTIFIER):
            request.add_members({"safety_identifier": hash_user_id(user)})

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract the request id."""
        result.request_id = values.text(response.headers.get("x-request-id")) or result.request_id


class Anthropic(Gateway):
    """Anthropic's own API.

    Args:
        base_url: The URL, if not the provider's own.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        forward_claims: As for every gateway.
        user_id: Whether to send the hash of the user's id as ``metadata.user_id``.
    """

    name: ClassVar[str] = "anthropic"
    hosts: ClassVar[tuple[str, ...]] = ("api.anthropic.com",)
    is_provider: ClassVar[bool] = True

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        forward_claims: Collection[str] = (),
        user_id: bool = False,
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases, forward_claims=forward_claims)
        self.user_id = user_id

    def inject(self, request: GatewayRequest) -> None:
        """Add the hashed user id, if configured."""
        user = request.attribution.user_id
        if self.user_id and user and request.path.endswith("/messages"):
            request.add_to_object("metadata", {"user_id": hash_user_id(user)})

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract the request id."""
        result.request_id = values.text(response.headers.get("request-id")) or result.request_id


class Gemini(Gateway):
    """Google's Gemini API and Vertex AI."""

    name: ClassVar[str] = "gemini"
    hosts: ClassVar[tuple[str, ...]] = ("generativelanguage.googleapis.com", "aiplatform.googleapis.com")
    is_provider: ClassVar[bool] = True
