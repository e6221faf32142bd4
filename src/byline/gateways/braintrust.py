"""Braintrust's proxy: https://github.com/braintrustdata/braintrust-proxy."""

from __future__ import annotations

from typing import ClassVar

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Gateway, GatewayResponse


class Braintrust(Gateway):
    """Braintrust's AI proxy. It accepts no session, user or trace id."""

    name: ClassVar[str] = "braintrust"
    #: The endpoint used, and Braintrust's span.
    response_headers: ClassVar[frozenset[str]] = frozenset({"x-bt-used-endpoint", "x-bt-span-id"})
    hosts: ClassVar[tuple[str, ...]] = ("api.braintrust.dev", "gateway.braintrust.dev", "braintrustproxy.com")

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract span id, endpoint and cache."""
        headers = response.headers
        result.request_id = values.text(headers.get("x-bt-span-id")) or result.request_id
        result.gateway_provider = values.text(headers.get("x-bt-used-endpoint"))
        cached = headers.get("x-bt-cached", "").upper()
        if cached:
            result.cache_hit = cached in ("HIT", "TRUE", "1")
