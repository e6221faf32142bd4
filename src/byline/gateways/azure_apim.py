"""Azure API Management, with header names of the operator's: https://learn.microsoft.com/azure/api-management."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Gateway, GatewayRequest, GatewayResponse


class AzureAPIM(Gateway):
    """Azure API Management in front of models, at ``base_url``.

    Args:
        base_url: The URL of the service, unless that is at ``*.azure-api.net``.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        forward_claims: As for every gateway.
        session_header: The header from which your policy reads the session; by default no session is sent.
        user_header: The header from which your policy reads the user; by default no user is sent.
        remaining_tokens_header: As in your ``llm-token-limit`` policy.
        remaining_quota_tokens_header: As in your ``llm-token-limit`` policy.

    Example:
        >>> AzureAPIM("https://apim.example.com", user_header="x-user", remaining_tokens_header="remaining-tokens").name
        'azure_apim'
    """

    name: ClassVar[str] = "azure_apim"
    hosts: ClassVar[tuple[str, ...]] = (".azure-api.net",)

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        forward_claims: Collection[str] = (),
        session_header: str | None = None,
        user_header: str | None = None,
        remaining_tokens_header: str = "remaining-tokens",
        remaining_quota_tokens_header: str = "remaining-quota-tokens",
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases, forward_claims=forward_claims)
        self.session_header = session_header
        self.user_header = user_header
        self.remaining_tokens_header = remaining_tokens_header.lower()
        self.remaining_quota_tokens_header = remaining_quota_tokens_header.lower()

    def inject(self, request: GatewayRequest) -> None:
        """Set the session and user headers that the operator has named."""
        if self.session_header:
            self.set_header(request, self.session_header.lower(), request.attribution.session_id)
        if self.user_header:
            self.set_header(request, self.user_header.lower(), request.attribution.user_id)

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract the remaining tokens."""
        for name in (self.remaining_tokens_header, self.remaining_quota_tokens_header):
            remaining = values.count(response.headers.get(name))
            if remaining is not None:
                result.tokens = RateLimit(remaining=remaining)
                return
