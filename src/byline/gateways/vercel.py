"""Vercel AI Gateway: https://vercel.com/docs/ai-gateway."""

from __future__ import annotations

from typing import Any, ClassVar, Final

from byline.facts import Facts
from byline.gateways import values
from byline.gateways.gateway import Field, Gateway, Outgoing, Reply
from byline.gateways.splice import members_of, splice, splice_into

_OPTIONS: Final = "providerOptions"


class Vercel(Gateway):
    """Vercel AI Gateway. User and tags go into ``providerOptions.gateway`` of the body."""

    name: ClassVar[str] = "vercel"
    hosts: ClassVar[tuple[str, ...]] = ("ai-gateway.vercel.sh",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("user_id", "body", "providerOptions.gateway.user"),
        Field("tags", "body", "providerOptions.gateway.tags", "tags"),
    )
    notes = (
        ("sends", "`providerOptions.gateway.user` and `.tags` in the body", "documentation"),
        ("reads", "`providerMetadata.gateway.generationId`, `.routing`, `.cost`", "documentation"),
        ("joins", "by user and tags; no session and no trace context is documented", "documentation"),
    )

    def write(self, call: Outgoing) -> None:
        """Write user and tags, where the app has not said anything to the gateway itself."""
        known = call.attribution
        options: dict[str, Any] = {}
        if known.user_id:
            options["user"] = known.user_id
        if known.tags:
            options["tags"] = list(known.tags)
        if call.body is None or not options:
            return
        present = members_of(call.body)
        if present is None:
            return
        if _OPTIONS in present:
            call.body = splice_into(call.body, _OPTIONS, {"gateway": options})
        else:
            call.body = splice(call.body, {_OPTIONS: {"gateway": options}}, present)

    def read(self, reply: Reply, facts: Facts) -> None:
        """Read generation, provider and cost."""
        body = reply.body or {}
        metadata = values.mapping(body.get("providerMetadata") or body.get("provider_metadata"))
        gateway = values.mapping(metadata.get("gateway"))
        facts.request_id = values.text(gateway.get("generationId")) or facts.request_id
        routing = values.mapping(gateway.get("routing"))
        facts.gateway_provider = values.text(routing.get("finalProvider") or routing.get("resolvedProvider"))
        attempts = routing.get("attempts")
        if isinstance(attempts, list) and attempts:
            facts.attempts = len(attempts)
            facts.fallbacks = len(attempts) - 1
        cost = values.amount(gateway.get("cost"))
        if cost is not None:
            facts.cost, facts.cost_source = cost, "gateway"
