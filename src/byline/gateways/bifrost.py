"""Bifrost: https://docs.getbifrost.ai/providers/request-options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DIMENSIONS: Final = ("session_id", "user_id", "trace_name", "environment")


class Bifrost(Gateway):
    """Bifrost at ``base_url``. Ids go out as dimensions of its spans.

    Its ``x-bf-session-id`` is read and never sent: it pins a conversation to one key, which is the
    app's to decide.
    """

    name: ClassVar[str] = "bifrost"
    joins: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "x-bf-session-id"),
        Field("session_id", "header", "x-bf-dim-session_id", sent=True),
        Field("user_id", "header", "x-bf-dim-user_id", sent=True),
        Field("trace_name", "header", "x-bf-dim-trace_name", sent=True),
        Field("environment", "header", "x-bf-dim-environment", sent=True),
    )
    notes = (
        (
            "sends",
            "`traceparent`, `x-bf-dim-*` for `session_id`, `user_id`, `trace_name`, `environment` and metadata",
            "documentation",
        ),
        (
            "reads",
            (
                "`x-bifrost-request-id`, `x-bifrost-routing-info-provider`, `-model`, `-is-fallback`, "
                "`x-bifrost-fallback-index`, and the older `x-bifrost-provider`, `-original-model`, `-resolved-model`"
            ),
            "source",
        ),
        ("reads", "`extra_fields.cache_debug` of the body", "documentation"),
        ("joins", "its span is a child of the LLM span", "documentation"),
    )

    remarks = (
        "Its `x-bf-session-id` is not sent: it pins a conversation to one key, which is the app's to decide.",
        "Metadata under names that are no header names is left out.",
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply names its request."""
        return "x-bifrost-request-id" in headers

    def write(self, call: GatewayRequest) -> None:
        """Write trace context and dimensions."""
        super().write(call)
        for key, value in self.gather(call, {}, reserved=_DIMENSIONS).items():
            if _NAME.match(key):
                self.put(call, f"x-bf-dim-{key.lower()}", value)
            else:
                self.leave_out(f"x-bf-dim {key}", "no header name")

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read request, provider and model, and what the body adds."""
        headers = reply.headers
        extra: Mapping[str, Any] = values.mapping((reply.body or {}).get("extra_fields"))
        facts.request_id = values.text(headers.get("x-bifrost-request-id")) or facts.request_id
        provider = headers.get("x-bifrost-routing-info-provider") or headers.get("x-bifrost-provider")
        facts.gateway_provider = values.text(provider or extra.get("provider"))
        model = headers.get("x-bifrost-routing-info-model") or headers.get("x-bifrost-resolved-model")
        facts.model_id = values.text(model or extra.get("resolved_model_used"))
        facts.model_group = values.text(
            headers.get("x-bifrost-original-model") or extra.get("original_model_requested")
        )
        index = values.count(headers.get("x-bifrost-fallback-index"))
        if index is not None or facts.gateway_provider is not None:
            # It says only which fallback it was, and nothing where none was taken.
            facts.fallbacks = index or int(headers.get("x-bifrost-routing-info-is-fallback", "") == "true")
        cache = values.mapping(extra.get("cache_debug"))
        if isinstance(cache.get("cache_hit"), bool):
            facts.cache_hit = cache["cache_hit"]
            facts.cache_key = values.text(cache.get("cache_id"))
