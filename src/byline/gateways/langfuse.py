"""Langfuse's AI Gateway: https://langfuse.com/docs/gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

#: Characters that are not percent-encoded, besides letters and digits.
_SAFE: Final = " !#$&'()*+./;<=>?@[]^_`{|}~-"
_MAX_BYTES: Final = 1024


class LangfuseGateway(Gateway):
    """Langfuse's AI Gateway at ``base_url``.

    The gateway records every call in Langfuse. Set ``broadcasts=True`` if byline exports to the same
    project, so that usage and cost are counted once.
    """

    name: ClassVar[str] = "langfuse"
    #: The gateway's request id, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"langfuse-request-id"})
    sends_traceparent: ClassVar[bool] = True
    #: Percent-encoding makes a character of another script up to twelve times as long.
    max_header_value: ClassVar[int] = _MAX_BYTES
    #: Header names are compared with underscores as dashes, so that LiteLLM's names match these too.
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "langfuse-session-id", sent=True, encoded=True),
        Field("user_id", "header", "langfuse-user-id", sent=True, encoded=True),
        Field("trace_name", "header", "langfuse-trace-name", sent=True, encoded=True),
        Field("tags", "header", "langfuse-tags", "tags", sent=True, encoded=True),
        Field("metadata", "header", "langfuse-metadata", "metadata", sent=True, encoded=True),
    )

    def set_header(self, request: GatewayRequest, name: str, value: object) -> None:
        """Set a percent-encoded header."""
        if isinstance(value, str):
            value = quote(value, _SAFE + ":")
        elif isinstance(value, tuple):
            value = tuple(quote(values.as_text(tag), _SAFE + ":") for tag in value)
        elif isinstance(value, Mapping):
            # As a tuple, of which single entries can be omitted if the header gets too long.
            value = tuple(self._encode_entries(value))
        super().set_header(request, name, value)

    def _encode_entries(self, metadata: Mapping[str, object]) -> list[str]:
        entries = []
        for key, value in metadata.items():
            text = values.as_text(value)
            if not text.strip() or not text.isprintable():
                self.log_omitted(f"langfuse-metadata {key}", "not printable")
            elif len(text.encode()) > _MAX_BYTES:
                self.log_omitted(f"langfuse-metadata {key}", "too long")
            else:
                entries.append(f"{quote(key, _SAFE)}:{quote(text, _SAFE + ':')}")
        return entries

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract request id, provider and provider connection."""
        headers = response.headers
        result.request_id = values.text(headers.get("langfuse-request-id")) or result.request_id
        result.gateway_provider = values.text(headers.get("langfuse-provider"))
        result.model_id = values.text(headers.get("langfuse-provider-connection-id"))
