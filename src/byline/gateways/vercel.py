"""Vercel AI Gateway: https://vercel.com/docs/ai-gateway."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_OPTIONS: Final = "providerOptions"
_WITH_OPTIONS: Final = ("/chat/completions", "/responses")


class Vercel(Gateway):
    """Vercel AI Gateway. User and tags go into ``providerOptions.gateway`` of the body."""

    name: ClassVar[str] = "vercel"
    hosts: ClassVar[tuple[str, ...]] = ("ai-gateway.vercel.sh",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("user_id", "body", "providerOptions.gateway.user"),
        Field("tags", "body", "providerOptions.gateway.tags", "tags"),
    )
    notes = (
        (
            "sends",
            "`providerOptions.gateway.user` and `.tags` in the body, unless the app has a `providerOptions.gateway`",
            "documentation",
        ),
        (
            "reads",
            (
                "`generationId` and `usage.cost` of the body; `generationId`, `cost` and `routing` of "
                "`provider_metadata.gateway`, which stands within a choice, or of `providerMetadata.gateway`"
            ),
            "documentation",
        ),
        ("joins", "by user and tags; it takes no session and no trace context", "documentation"),
    )

    def write(self, call: GatewayRequest) -> None:
        """Write user and tags, where the app has not said anything to the gateway itself."""
        known = call.attribution
        options: dict[str, Any] = {}
        if known.user_id:
            options["user"] = known.user_id
        if known.tags:
            options["tags"] = list(known.tags)
        if options and call.path.endswith(_WITH_OPTIONS):
            call.add_into(_OPTIONS, {"gateway": options})

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read generation, provider and cost."""
        body = reply.body or {}
        metadata = values.mapping(body.get("providerMetadata") or body.get("provider_metadata"))
        gateway = values.mapping(metadata.get("gateway"))
        stated = values.text(body.get("generationId")) or values.text(gateway.get("generationId"))
        facts.request_id = stated or facts.request_id
        routing = values.mapping(gateway.get("routing"))
        facts.gateway_provider = values.text(routing.get("finalProvider") or routing.get("resolvedProvider"))
        attempts = routing.get("attempts")
        if isinstance(attempts, list) and attempts:
            facts.attempts = len(attempts)
            facts.fallbacks = len(attempts) - 1
        usage = values.mapping(body.get("usage"))
        for cost in (values.amount(usage.get("cost")), values.amount(gateway.get("cost"))):
            if cost is not None:
                facts.cost, facts.cost_source = cost, "gateway"
                break
