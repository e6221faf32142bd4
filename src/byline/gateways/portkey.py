"""Portkey: https://portkey.ai/docs/api-reference/inference-api/headers."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_MAX_VALUE: Final = 128
_INDEX: Final = re.compile(r"(\d{1,4})\D*\Z")


class Portkey(Gateway):
    """Portkey, hosted or your own at ``base_url``.

    Sends the LLM span's ``traceparent``, so that Portkey's span becomes a child, and user,
    environment, session and metadata in ``x-portkey-metadata``.
    """

    name: ClassVar[str] = "portkey"
    #: Portkey's trace id, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"x-portkey-trace-id"})
    routes_on: ClassVar[frozenset[str]] = frozenset({"metadata"})
    hosts: ClassVar[tuple[str, ...]] = ("api.portkey.ai",)
    sends_traceparent: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (
        Field("trace_id", "header", "x-portkey-trace-id"),
        Field("parent_span_id", "header", "x-portkey-parent-span-id"),
        Field("span_name", "header", "x-portkey-span-name"),
        Field("metadata", "header", "x-portkey-metadata", "controls"),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Set the trace context and the metadata, whose values have to be texts of at most 128 characters."""
        super().inject(request)
        attribution = request.attribution
        ids = {
            "_user": attribution.user_id,
            "_environment": attribution.environment,
            "_organisation": attribution.organization_id,
            "session_id": attribution.session_id,
        }
        metadata: dict[str, str] = {}
        for key, value in self.metadata_for(request, ids, reserved=("_prompt",)).items():
            text = values.as_text(value)
            if len(text) > _MAX_VALUE:
                self.log_omitted(f"x-portkey-metadata {key}", "too long")
            else:
                metadata[key] = text
        self.set_header(request, "x-portkey-metadata", metadata)

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract trace id, provider, attempts, cache and the index of the target used."""
        headers = response.headers
        result.gateway_provider = values.text(headers.get("x-portkey-provider"))
        result.request_id = values.text(headers.get("x-portkey-trace-id")) or result.request_id
        retries = values.count(headers.get("x-portkey-retry-attempt-count"))
        if retries is not None:
            result.attempts = retries + 1
        status = headers.get("x-portkey-cache-status", "").upper()
        if status in ("HIT", "SEMANTIC HIT", "MISS", "SEMANTIC MISS", "REFRESH"):
            result.cache_hit = status.endswith("HIT")
        # For example config.targets[1].
        target_index = _INDEX.search(headers.get("x-portkey-last-used-option-index", "")[:200])
        if target_index is not None:
            result.fallbacks = int(target_index[1])
