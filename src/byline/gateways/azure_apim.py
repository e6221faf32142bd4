"""Azure API Management, whose header names the operator sets: https://learn.microsoft.com/azure/api-management."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Gateway, GatewayRequest, GatewayResponse


class AzureAPIM(Gateway):
    """Azure API Management in front of models, at ``base_url``.

    Args:
        base_url: Where it is reached.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        session_header: The header that your policy reads the session from; nothing is sent without.
        user_header: The header that your policy reads the user from.
        remaining_tokens_header: As in your ``llm-token-limit`` policy.
        remaining_quota_tokens_header: As in your ``llm-token-limit`` policy.

    Example:
        >>> AzureAPIM("https://apim.example.com", user_header="x-user", remaining_tokens_header="remaining-tokens").name
        'azure_apim'
    """

    name: ClassVar[str] = "azure_apim"
    hosts: ClassVar[tuple[str, ...]] = (".azure-api.net",)
    remarks = ("Nothing is sent unless `session_header` or `user_header` name the headers of your policy.",)
    notes = (
        ("sends", "session and user under the header names of your policy", "documentation"),
        ("reads", "remaining tokens and quota under the header names of your policy", "documentation"),
        ("joins", "by the dimensions of your policy", "documentation"),
    )

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        session_header: str | None = None,
        user_header: str | None = None,
        remaining_tokens_header: str = "remaining-tokens",
        remaining_quota_tokens_header: str = "remaining-quota-tokens",
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases)
        self.session_header = session_header
        self.user_header = user_header
        self.remaining_tokens_header = remaining_tokens_header.lower()
        self.remaining_quota_tokens_header = remaining_quota_tokens_header.lower()

    def write(self, call: GatewayRequest) -> None:
        """Write session and user where the operator has named headers for them."""
        if self.session_header:
            self.put(call, self.session_header.lower(), call.attribution.session_id)
        if self.user_header:
            self.put(call, self.user_header.lower(), call.attribution.user_id)

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read what is left of the tokens."""
        for name in (self.remaining_tokens_header, self.remaining_quota_tokens_header):
            remaining = values.count(reply.headers.get(name))
            if remaining is not None:
                facts.tokens = RateLimit(remaining=remaining)
                return
