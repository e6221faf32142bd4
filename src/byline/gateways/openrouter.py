"""OpenRouter: https://openrouter.ai/docs/guides/features/broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from byline.facts import Facts
from byline.gateways import values
from byline.gateways.gateway import Field, Gateway, Outgoing, Reply
from byline.gateways.splice import members_of, splice

_MAX_USER = 128

#: Endpoints whose bodies take ``user``, ``session_id`` and ``trace``.
_WITH_TRACE = ("/chat/completions", "/responses", "/messages", "/completions")


class OpenRouter(Gateway):
    """OpenRouter, or whatever answers like it at ``base_url``.

    Sends ``x-session-id``, and in the body ``user`` and ``trace`` with the ids of the LLM span, so
    that OpenRouter's own spans hang below it. The body is left alone where OpenRouter's response
    cache is asked for, whose key is the body.
    """

    name: ClassVar[str] = "openrouter"
    hosts: ClassVar[tuple[str, ...]] = ("openrouter.ai",)
    longest: ClassVar[int] = 256
    fields: ClassVar[tuple[Field, ...]] = ()
    notes = (
        ("sends", "`x-session-id`; in the body `user` and `trace` with trace id and parent span id", "documentation"),
        ("reads", "`X-Generation-Id`, `provider`, `usage.cost`, `usage.cost_details`", "documentation"),
        ("reads", "`X-OpenRouter-Cache-Status`, `-Cache-Source-Id`, `openrouter_metadata.attempt`", "documentation"),
        ("joins", "its generation is a child of the LLM span", "documentation"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """OpenRouter names each generation in a header."""
        return "x-generation-id" in headers

    def write(self, call: Outgoing) -> None:
        """Write the session header, and user and trace into the body."""
        known = call.attribution
        self.put(call, "x-session-id", known.session_id)
        if call.body is None or not call.path.endswith(_WITH_TRACE):
            return
        if call.headers.get("x-openrouter-cache", "").lower() == "true":
            return
        present = members_of(call.body)
        if present is None:
            return
        members: dict[str, Any] = {}
        if known.user_id and len(known.user_id) <= _MAX_USER:
            members["user"] = known.user_id
        trace = self._trace(call)
        if trace:
            members["trace"] = trace
        call.body = splice(call.body, members, present)

    def _trace(self, call: Outgoing) -> dict[str, Any]:
        known = call.attribution
        trace: dict[str, Any] = dict(known.metadata)
        for key in ("trace_name", "span_name", "generation_name", "environment", "release"):
            value = getattr(known, key)
            if value:
                trace[key] = value
        if call.sampled and call.trace_id and call.span_id:
            trace["trace_id"] = call.trace_id
            trace["parent_span_id"] = call.span_id
        return trace

    def read(self, reply: Reply, facts: Facts) -> None:
        """Read generation id, provider, cost and its parts, response cache and routing."""
        headers, body = reply.headers, reply.body or {}
        facts.request_id = values.text(headers.get("x-generation-id")) or facts.request_id
        facts.gateway_provider = values.text(body.get("provider")) or facts.gateway_provider
        usage = values.mapping(body.get("usage"))
        cost = values.amount(usage.get("cost"))
        if cost is not None:
            facts.cost, facts.cost_source = cost, "gateway"
        details = values.mapping(usage.get("cost_details"))
        for part, names in (
            ("input", ("upstream_inference_prompt_cost", "upstream_inference_input_cost")),
            ("output", ("upstream_inference_completions_cost", "upstream_inference_output_cost")),
            ("upstream", ("upstream_inference_cost",)),
        ):
            for name in names:
                amount = values.amount(details.get(name))
                if amount is not None:
                    facts.cost_details[part] = amount
        status = headers.get("x-openrouter-cache-status", "").upper()
        if status in ("HIT", "MISS"):
            facts.cache_hit = status == "HIT"
            facts.cache_key = values.text(headers.get("x-openrouter-cache-source-id"))
        routing = values.mapping(body.get("openrouter_metadata"))
        attempt = values.count(routing.get("attempt"))
        if attempt:
            facts.attempts = attempt
            facts.fallbacks = attempt - 1
