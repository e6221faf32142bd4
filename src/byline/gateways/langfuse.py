"""Langfuse's AI Gateway: https://langfuse.com/docs/gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final
from urllib.parse import quote

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

#: What stands in its headers as it is; everything else is percent-encoded, other scripts too.
_PLAIN: Final = " !#$&'()*+./;<=>?@[]^_`{|}~-"
_MAX_BYTES: Final = 1024


class LangfuseGateway(Gateway):
    """Langfuse's AI Gateway at ``base_url``.

    It records every call in Langfuse by itself: say ``broadcasts=True`` where byline exports to the
    same project, so that only one of the two carries usage and cost.
    """

    name: ClassVar[str] = "langfuse"
    joins: ClassVar[bool] = True
    #: Encoded, an id of other scripts is up to twelve times as long.
    longest: ClassVar[int] = _MAX_BYTES
    #: Underscores and dashes are the same in names of headers, so that LiteLLM's are among these.
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "langfuse-session-id", sent=True, encoded=True),
        Field("user_id", "header", "langfuse-user-id", sent=True, encoded=True),
        Field("trace_name", "header", "langfuse-trace-name", sent=True, encoded=True),
        Field("tags", "header", "langfuse-tags", "tags", sent=True, encoded=True),
        Field("metadata", "header", "langfuse-metadata", "metadata", sent=True, encoded=True),
    )
    notes = (
        (
            "sends",
            (
                "`traceparent`, `langfuse-session-id`, `langfuse-user-id`, `langfuse-trace-name`, `langfuse-tags`, "
                "`langfuse-metadata` (`key:value`, separated by commas); all percent-encoded"
            ),
            "source",
        ),
        ("reads", "`langfuse-request-id`, `langfuse-provider`, `langfuse-provider-connection-id`", "source"),
        ("joins", "its generation is a child of the LLM span", "source"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply names its request."""
        return "langfuse-request-id" in headers

    def put(self, call: GatewayRequest, name: str, value: object) -> None:
        """Write a header in its percent-encoding."""
        if isinstance(value, str):
            value = quote(value, _PLAIN + ":")
        elif isinstance(value, tuple):
            value = tuple(quote(values.as_text(tag), _PLAIN + ":") for tag in value)
        elif isinstance(value, Mapping):
            # As a list of entries, each of which may go if there is no room.
            value = tuple(self._entries(value))
        super().put(call, name, value)

    def _entries(self, metadata: Mapping[str, object]) -> list[str]:
        entries = []
        for key, value in metadata.items():
            text = values.as_text(value)
            if not text.strip() or not text.isprintable():
                self.leave_out(f"langfuse-metadata {key}", "not printable")
            elif len(text.encode()) > _MAX_BYTES:
                self.leave_out(f"langfuse-metadata {key}", "too long")
            else:
                entries.append(f"{quote(key, _PLAIN)}:{quote(text, _PLAIN + ':')}")
        return entries

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read the request's id and the provider's connection."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("langfuse-request-id")) or facts.request_id
        facts.gateway_provider = values.text(headers.get("langfuse-provider"))
        facts.model_id = values.text(headers.get("langfuse-provider-connection-id"))
