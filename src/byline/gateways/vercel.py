"""Vercel AI Gateway: https://vercel.com/docs/ai-gateway."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_PATHS_WITH_OPTIONS: Final = ("/chat/completions", "/responses")


class Vercel(Gateway):
    """Vercel AI Gateway. User and tags are sent in ``providerOptions.gateway`` of the body."""

    name: ClassVar[str] = "vercel"
    hosts: ClassVar[tuple[str, ...]] = ("ai-gateway.vercel.sh",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("user_id", "body", "providerOptions.gateway.user"),
        Field("tags", "body", "providerOptions.gateway.tags", "tags"),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Add user and tags, unless the app has set ``providerOptions.gateway``."""
        attribution = request.attribution
        options: dict[str, Any] = {}
        if attribution.user_id:
            options["user"] = attribution.user_id
        if attribution.tags:
            options["tags"] = list(attribution.tags)
        if options and request.path.endswith(_PATHS_WITH_OPTIONS):
            request.add_to_object("providerOptions", {"gateway": options})

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract generation id, provider, attempts and cost."""
        body = response.body or {}
        metadata = values.mapping(body.get("providerMetadata") or body.get("provider_metadata"))
        gateway = values.mapping(metadata.get("gateway"))
        generation_id = values.text(body.get("generationId")) or values.text(gateway.get("generationId"))
        result.request_id = generation_id or result.request_id
        routing = values.mapping(gateway.get("routing"))
        result.gateway_provider = values.text(routing.get("finalProvider") or routing.get("resolvedProvider"))
        attempts = routing.get("attempts")
        if isinstance(attempts, list) and attempts:
            result.attempts = len(attempts)
            result.fallbacks = len(attempts) - 1
        usage = values.mapping(body.get("usage"))
        for cost in (values.cost(usage.get("cost")), values.cost(gateway.get("cost"))):
            if cost is not None:
                result.cost, result.cost_source = cost, "gateway"
                break
