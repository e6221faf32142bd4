"""Braintrust's proxy: https://github.com/braintrustdata/braintrust-proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Gateway, GatewayResponse


class Braintrust(Gateway):
    """Braintrust's AI proxy. It takes no ids that a request has."""

    name: ClassVar[str] = "braintrust"
    hosts: ClassVar[tuple[str, ...]] = ("api.braintrust.dev", "gateway.braintrust.dev", "braintrustproxy.com")
    notes = (
        ("sends", "nothing: it takes a parent span of Braintrust's own only", "source"),
        ("reads", "`x-bt-cached`, `x-bt-used-endpoint`, `x-bt-span-id`", "source"),
        ("joins", "by its span id", "source"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Replies name the endpoint that was used."""
        return "x-bt-used-endpoint" in headers or "x-bt-span-id" in headers

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read span, endpoint and cache."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("x-bt-span-id")) or facts.request_id
        facts.gateway_provider = values.text(headers.get("x-bt-used-endpoint"))
        cached = headers.get("x-bt-cached", "").upper()
        if cached:
            facts.cache_hit = cached in ("HIT", "TRUE", "1")
