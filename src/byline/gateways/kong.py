"""Kong AI Gateway: https://developer.konghq.com/ai-gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Gateway, GatewayResponse


class Kong(Gateway):
    """Kong AI Gateway at ``base_url``. It knows its callers by their credentials, so that ids go nowhere."""

    name: ClassVar[str] = "kong"
    joins: ClassVar[bool] = True
    notes = (
        ("sends", "`traceparent`", "documentation"),
        (
            "reads",
            "`X-Kong-LLM-Model`, `-Request-Id`, `-Proxy-Latency`; `X-Cache-*`; `X-AI-RateLimit-*`",
            "documentation",
        ),
        ("joins", "its span is a child of the LLM span, with Kong's OpenTelemetry plugin", "documentation"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply through the AI plugins names the model."""
        return "x-kong-llm-model" in headers

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read model, request, latency, cache and limits."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("x-kong-request-id")) or facts.request_id
        model = values.text(headers.get("x-kong-llm-model"))
        facts.model_id = model
        if model and "/" in model:
            facts.gateway_provider = model.partition("/")[0]
        facts.overhead = values.seconds(headers.get("x-kong-proxy-latency"))
        cache = headers.get("x-cache-status", "").upper()
        if cache in ("HIT", "MISS", "BYPASS", "REFRESH"):
            facts.cache_hit = cache == "HIT"
            facts.cache_key = values.text(headers.get("x-cache-key"))
        limit = RateLimit(
            self._of(headers, "x-ai-ratelimit-limit-"),
            self._of(headers, "x-ai-ratelimit-remaining-"),
            values.number(headers.get("x-ai-ratelimit-reset")),
        )
        if limit != RateLimit():
            facts.tokens = limit

    def _of(self, headers: Mapping[str, str], start: str) -> int | None:
        # The rest of the name is the window and the provider.
        return next((values.count(value) for name, value in headers.items() if name.startswith(start)), None)
