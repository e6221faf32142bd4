"""Cloudflare AI Gateway: https://developers.cloudflare.com/ai-gateway/observability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_MAX_ENTRIES: Final = 5


class Cloudflare(Gateway):
    """Cloudflare AI Gateway. Takes five metadata entries: session and user go before the rest."""

    name: ClassVar[str] = "cloudflare"
    hosts: ClassVar[tuple[str, ...]] = ("gateway.ai.cloudflare.com",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("trace_id", "header", "cf-aig-otel-trace-id"),
        Field("parent_span_id", "header", "cf-aig-otel-parent-span-id"),
        Field("metadata", "header", "cf-aig-metadata", "controls"),
    )
    notes = (
        (
            "sends",
            (
                "`cf-aig-metadata` with `session_id`, `user_id`, `trace_name` and metadata, five entries in that "
                "order; `cf-aig-otel-trace-id`, `cf-aig-otel-parent-span-id`"
            ),
            "documentation",
        ),
        (
            "reads",
            "`cf-aig-log-id`, `cf-aig-step`, `cf-aig-model`, `cf-aig-provider`, `cf-aig-cache-status`",
            "documentation",
        ),
        ("joins", "its span is a child of the LLM span", "documentation"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply names its log entry."""
        return "cf-aig-log-id" in headers

    def write(self, call: GatewayRequest) -> None:
        """Write metadata and the ids of the LLM span."""
        known = call.attribution
        ids = {"session_id": known.session_id, "user_id": known.user_id, "trace_name": known.trace_name}
        present = self.gather(call, ids, reserved=("cf.user_id",))
        for key in list(present)[_MAX_ENTRIES:]:
            self.leave_out(f"cf-aig-metadata {key}", "more than five entries")
        self.put(call, "cf-aig-metadata", dict(list(present.items())[:_MAX_ENTRIES]))
        trace_id = self.trace_of(call)
        if trace_id:
            self.put(call, "cf-aig-otel-trace-id", trace_id)
            self.put(call, "cf-aig-otel-parent-span-id", call.span_id)

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read cache, log entry, step, model and provider."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("cf-aig-log-id")) or facts.request_id
        facts.gateway_provider = values.text(headers.get("cf-aig-provider"))
        facts.model_id = values.text(headers.get("cf-aig-model"))
        facts.fallbacks = values.count(headers.get("cf-aig-step"))
        status = headers.get("cf-aig-cache-status", "").upper()
        if status in ("HIT", "MISS"):
            facts.cache_hit = status == "HIT"
