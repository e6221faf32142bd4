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
    """Bifrost at ``base_url``. Ids are sent as dimensions of Bifrost's spans.

    ``x-bf-session-id`` is read from requests but never sent, because that header pins a conversation
    to one API key, and the app decides that.
    """

    name: ClassVar[str] = "bifrost"
    #: Bifrost's request id, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"x-bifrost-request-id"})
    sends_traceparent: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "x-bf-session-id"),
        Field("session_id", "header", "x-bf-dim-session_id", sent=True),
        Field("user_id", "header", "x-bf-dim-user_id", sent=True),
        Field("trace_name", "header", "x-bf-dim-trace_name", sent=True),
        Field("environment", "header", "x-bf-dim-environment", sent=True),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Set trace context and dimensions."""
        super().inject(request)
        for key, value in self.metadata_for(request, {}, reserved=_DIMENSIONS).items():
            if _NAME.match(key):
                self.set_header(request, f"x-bf-dim-{key.lower()}", value)
            else:
                self.log_omitted(f"x-bf-dim {key}", "not a header name")

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract request id, provider, model, fallbacks and cache."""
        headers = response.headers
        extra: Mapping[str, Any] = values.mapping((response.body or {}).get("extra_fields"))
        result.request_id = values.text(headers.get("x-bifrost-request-id")) or result.request_id
        provider = headers.get("x-bifrost-routing-info-provider") or headers.get("x-bifrost-provider")
        result.gateway_provider = values.text(provider or extra.get("provider"))
        model = headers.get("x-bifrost-routing-info-model") or headers.get("x-bifrost-resolved-model")
        result.model_id = values.text(model or extra.get("resolved_model_used"))
        result.model_group = values.text(
            headers.get("x-bifrost-original-model") or extra.get("original_model_requested")
        )
        index = values.count(headers.get("x-bifrost-fallback-index"))
        if index is not None or result.gateway_provider is not None:
            # The header has the number of the fallback, and is missing if there was none.
            result.fallbacks = index or int(headers.get("x-bifrost-routing-info-is-fallback", "") == "true")
        cache = values.mapping(extra.get("cache_debug"))
        if isinstance(cache.get("cache_hit"), bool):
            result.cache_hit = cache["cache_hit"]
            result.cache_key = values.text(cache.get("cache_id"))
