"""OpenRouter: https://openrouter.ai/docs/guides/features/broadcast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse
from byline.gateways.header_values import is_sendable
from byline.gateways.json_splice import top_level_members
from byline.gateways.key_status import KeyStatus
from byline.gateways.keys import bearer_token

_MAX_USER: Final = 128
#: What the trace object itself has a meaning for; no metadata goes by these names.
_TRACE: Final = ("trace_id", "trace_name", "span_name", "generation_name", "parent_span_id", "environment", "release")

_IDS: Final = frozenset({"trace_id", "parent_span_id"})
#: Endpoints whose bodies take ``user``, ``session_id`` and ``trace``.
_WITH_TRACE: Final = ("/chat/completions", "/responses", "/messages", "/completions")


class OpenRouter(Gateway):
    """OpenRouter, or whatever answers like it at ``base_url``.

    Sends ``x-session-id``, and in the body ``user`` and ``trace`` with the ids of the LLM span, so
    that OpenRouter's own spans hang below it. The body is left alone where OpenRouter's response
    cache is asked for, whose key is the body.

    Args:
        base_url: Where it is reached, if not at its own host.
        broadcasts: As for every gateway.
        key_aliases: As for every gateway.
        key_status: Whether to ask OpenRouter now and then, in the background, what the key in use has
            spent and may spend: its replies do not say. The key is sent to OpenRouter alone.

    Example:
        >>> OpenRouter(key_status=True).name
        'openrouter'
    """

    name: ClassVar[str] = "openrouter"
    hosts: ClassVar[tuple[str, ...]] = ("openrouter.ai",)
    longest: ClassVar[int] = 256
    fields: ClassVar[tuple[Field, ...]] = ()
    notes = (
        ("sends", "`x-session-id`, and `user` in the body", "documentation"),
        (
            "sends",
            (
                "`trace` in the body: `trace_id` and `parent_span_id` of the LLM span, `trace_name`, `span_name`, "
                "`generation_name`, `environment`, `release` and metadata"
            ),
            "documentation",
        ),
        ("reads", "`X-Generation-Id`, `provider`, `usage.cost`, `usage.cost_details`", "documentation"),
        ("reads", "`X-OpenRouter-Cache-Status`, `-Cache-Source-Id`, `openrouter_metadata.attempt`", "documentation"),
        (
            "reads",
            "spend, budget and its reset of the key, from `GET /api/v1/key`, with `key_status=True`",
            "documentation",
        ),
        ("joins", "its generation is a child of the LLM span", "documentation"),
    )

    remarks = (
        (
            "A `trace` of the app's own gets what it has not: names, metadata, and the ids unless it has a `trace_id` "
            "or a `parent_span_id`."
        ),
        "Metadata under names that `trace` has a meaning for is left out, so is a user of more than 128 characters.",
        "A session that no header can carry, of another script, goes into the body as `session_id`.",
        (
            "With `X-OpenRouter-Cache: true` the body is left alone: it is the key of the cache, and ids in it would "
            "make each call a miss."
        ),
        "A session is also OpenRouter's key for routing: calls of one session go to one provider as long as it is up.",
    )

    def __init__(
        self,
        base_url: str | None = None,
        *,
        broadcasts: bool = False,
        key_aliases: Mapping[str, str] | None = None,
        key_status: bool = False,
    ) -> None:
        super().__init__(base_url, broadcasts=broadcasts, key_aliases=key_aliases)
        self.key_status = KeyStatus(self.name, _status_url(base_url)) if key_status else None

    def answered(self, headers: Mapping[str, str]) -> bool:
        """OpenRouter names each generation in a header."""
        return "x-generation-id" in headers

    def write(self, call: GatewayRequest) -> None:
        """Write the session header, and user and trace into the body."""
        if self.key_status is not None:
            token = bearer_token(call.headers)
            if token is not None:
                self.key_status.refresh(token)
        known = call.attribution
        self.put(call, "x-session-id", known.session_id)
        if not call.path.endswith(_WITH_TRACE):
            return
        if call.headers.get("x-openrouter-cache", "").lower() == "true":
            self.leave_out("trace", "the body is the key of the response cache")
            return
        members: dict[str, Any] = {}
        if known.session_id and not is_sendable(known.session_id):
            # The body can say what the header cannot.
            members["session_id"] = known.session_id
        if known.user_id and len(known.user_id) > _MAX_USER:
            self.leave_out("user", "too long")
        elif known.user_id:
            members["user"] = known.user_id
        self._add_trace(call)
        call.add(members)

    def _add_trace(self, call: GatewayRequest) -> None:
        trace = self._trace(call)
        present = (call.look() or {}).get("trace")
        own = {} if present is None else top_level_members(bytes(present)) or {}
        if not own.keys().isdisjoint(_IDS):
            # Half of an app's own ids with half of ours would lead nowhere.
            trace = {key: value for key, value in trace.items() if key not in _IDS}
        call.add_into("trace", trace)

    def _trace(self, call: GatewayRequest) -> dict[str, Any]:
        known = call.attribution
        names = {name: getattr(known, name) for name in _TRACE if name not in ("trace_id", "parent_span_id")}
        trace: dict[str, Any] = self.gather(call, names, reserved=_TRACE)
        trace_id = self.trace_of(call)
        if trace_id:
            trace["trace_id"] = trace_id
            trace["parent_span_id"] = call.span_id
        return trace

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read generation id, provider, cost and its parts, response cache and routing."""
        headers, body = reply.headers, reply.body or {}
        facts.request_id = values.text(headers.get("x-generation-id")) or facts.request_id
        routing = values.mapping(body.get("openrouter_metadata"))
        facts.gateway_provider = values.text(body.get("provider")) or self._selected(routing)
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
        if self.key_status is not None:
            facts.key_spend, facts.key_budget, facts.key_budget_reset = self.key_status.of(facts.key_hash)
        status = headers.get("x-openrouter-cache-status", "").upper()
        if status in ("HIT", "MISS"):
            facts.cache_hit = status == "HIT"
            facts.cache_key = values.text(headers.get("x-openrouter-cache-source-id"))
        attempt = values.count(routing.get("attempt"))
        if attempt:
            facts.attempts = attempt
            facts.fallbacks = attempt - 1

    def _selected(self, routing: Mapping[str, Any]) -> str | None:
        available = values.mapping(routing.get("endpoints")).get("available")
        for endpoint in available if isinstance(available, list) else ():
            if values.mapping(endpoint).get("selected") is True:
                return values.text(endpoint.get("provider"))
        return None


def _status_url(base_url: str | None) -> str:
    base = (base_url or "https://openrouter.ai").rstrip("/")
    return f"{base}/key" if base.endswith("/v1") else f"{base}/api/v1/key"
