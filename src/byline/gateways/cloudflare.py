"""Cloudflare AI Gateway: https://developers.cloudflare.com/ai-gateway/observability."""

from __future__ import annotations

from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_MAX_ENTRIES: Final = 5


class Cloudflare(Gateway):
    """Cloudflare AI Gateway. It accepts five metadata entries; session and user come first."""

    name: ClassVar[str] = "cloudflare"
    #: The id of the log entry, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"cf-aig-log-id"})
    routes_on: ClassVar[frozenset[str]] = frozenset({"metadata"})
    hosts: ClassVar[tuple[str, ...]] = ("gateway.ai.cloudflare.com",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("trace_id", "header", "cf-aig-otel-trace-id"),
        Field("parent_span_id", "header", "cf-aig-otel-parent-span-id"),
        Field("metadata", "header", "cf-aig-metadata", "controls"),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Set metadata and the ids of the LLM span."""
        attribution = request.attribution
        ids = {
            "session_id": attribution.session_id,
            "user_id": attribution.user_id,
            "trace_name": attribution.trace_name,
        }
        entries = self.metadata_for(request, ids, reserved=("cf.user_id",))
        for key in list(entries)[_MAX_ENTRIES:]:
            self.log_omitted(f"cf-aig-metadata {key}", "more than five entries")
        self.set_header(request, "cf-aig-metadata", dict(list(entries.items())[:_MAX_ENTRIES]))
        trace_id = self.gateway_trace_id(request)
        if trace_id:
            self.set_header(request, "cf-aig-otel-trace-id", trace_id)
            self.set_header(request, "cf-aig-otel-parent-span-id", request.span_id)

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract log id, provider, model, fallbacks and cache."""
        headers = response.headers
        result.request_id = values.text(headers.get("cf-aig-log-id")) or result.request_id
        result.gateway_provider = values.text(headers.get("cf-aig-provider"))
        result.model_id = values.text(headers.get("cf-aig-model"))
        result.fallbacks = values.count(headers.get("cf-aig-step"))
        status = headers.get("cf-aig-cache-status", "").upper()
        if status in ("HIT", "MISS"):
            result.cache_hit = status == "HIT"
