"""Kong AI Gateway: https://developer.konghq.com/ai-gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Gateway, GatewayResponse


class Kong(Gateway):
    """Kong AI Gateway at ``base_url``. It identifies callers by credentials and accepts no ids."""

    name: ClassVar[str] = "kong"
    #: The model, which is in the responses of the AI plugins.
    response_headers: ClassVar[frozenset[str]] = frozenset({"x-kong-llm-model"})
    sends_traceparent: ClassVar[bool] = True

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract request id, model, overhead, cache and rate limits."""
        headers = response.headers
        result.request_id = values.text(headers.get("x-kong-request-id")) or result.request_id
        model = values.text(headers.get("x-kong-llm-model"))
        result.model_id = model
        if model and "/" in model:
            result.gateway_provider = model.partition("/")[0]
        result.overhead = values.seconds(headers.get("x-kong-proxy-latency"))
        cache = headers.get("x-cache-status", "").upper()
        if cache in ("HIT", "MISS", "BYPASS", "REFRESH"):
            result.cache_hit = cache == "HIT"
            result.cache_key = values.text(headers.get("x-cache-key"))
        limit = RateLimit(
            self._count_by_prefix(headers, "x-ai-ratelimit-limit-"),
            self._count_by_prefix(headers, "x-ai-ratelimit-remaining-"),
            values.number(headers.get("x-ai-ratelimit-reset")),
        )
        if limit != RateLimit():
            result.tokens = limit

    def _count_by_prefix(self, headers: Mapping[str, str], prefix: str) -> int | None:
        # The rest of the name is the window and the provider.
        return next((values.count(value) for name, value in headers.items() if name.startswith(prefix)), None)
