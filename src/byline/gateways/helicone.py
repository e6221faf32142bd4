"""Helicone: https://docs.helicone.ai/helicone-headers/header-directory."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Helicone(Gateway):
    """Helicone's proxies and AI gateway. Metadata and tags are sent as Helicone properties."""

    name: ClassVar[str] = "helicone"
    #: Helicone's request id, which is in every response.
    response_headers: ClassVar[frozenset[str]] = frozenset({"helicone-id"})
    hosts: ClassVar[tuple[str, ...]] = (".helicone.ai",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "helicone-session-id", sent=True),
        Field("user_id", "header", "helicone-user-id", sent=True),
        Field("trace_name", "header", "helicone-session-name", sent=True),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Set session, session path, user and properties."""
        super().inject(request)
        attribution = request.attribution
        steps = [step.replace("/", " ") for step in (attribution.span_name, attribution.generation_name) if step]
        if attribution.session_id and steps:
            self.set_header(request, "helicone-session-path", "/" + "/".join(steps))
        self.set_header(request, "helicone-property-environment", attribution.environment)
        self.set_header(request, "helicone-property-tags", attribution.tags)
        for key, value in self.metadata_for(request, {}, reserved=("environment", "tags")).items():
            if _NAME.match(key):
                self.set_header(request, f"helicone-property-{key.lower()}", value)
            else:
                self.log_omitted(f"helicone-property {key}", "not a header name")

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract request id, cache, fallbacks and rate limits."""
        headers = response.headers
        result.request_id = values.text(headers.get("helicone-id")) or result.request_id
        cache = headers.get("helicone-cache", "").upper()
        if cache in ("HIT", "MISS"):
            result.cache_hit = cache == "HIT"
        result.fallbacks = values.count(headers.get("helicone-fallback-index"))
        limit = RateLimit(
            values.count(headers.get("helicone-ratelimit-limit")),
            values.count(headers.get("helicone-ratelimit-remaining")),
        )
        if limit != RateLimit():
            result.requests = limit
