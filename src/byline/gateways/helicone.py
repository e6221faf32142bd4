"""Helicone: https://docs.helicone.ai/helicone-headers/header-directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final

from byline.call_result import CallResult, RateLimit
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class Helicone(Gateway):
    """Helicone's proxies and its AI gateway. Metadata and tags go out as its properties."""

    name: ClassVar[str] = "helicone"
    hosts: ClassVar[tuple[str, ...]] = (".helicone.ai",)
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "helicone-session-id", sent=True),
        Field("user_id", "header", "helicone-user-id", sent=True),
        Field("trace_name", "header", "helicone-session-name", sent=True),
    )
    notes = (
        (
            "sends",
            (
                "`Helicone-Session-Id`, `Helicone-Session-Name` (trace name), `Helicone-Session-Path` (step and "
                "generation name), `Helicone-User-Id`"
            ),
            "documentation",
        ),
        ("sends", "`Helicone-Property-*` for environment, tags and metadata", "documentation"),
        (
            "reads",
            "`Helicone-Id`, `Helicone-Cache`, `Helicone-Fallback-Index`, `Helicone-RateLimit-Limit`, `-Remaining`",
            "documentation",
        ),
        ("joins", "by session and path; it takes no trace context", "documentation"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply names its request."""
        return "helicone-id" in headers

    def write(self, call: GatewayRequest) -> None:
        """Write the session with its path, the user, and properties."""
        super().write(call)
        known = call.attribution
        steps = [step.replace("/", " ") for step in (known.span_name, known.generation_name) if step]
        if known.session_id and steps:
            self.put(call, "helicone-session-path", "/" + "/".join(steps))
        self.put(call, "helicone-property-environment", known.environment)
        self.put(call, "helicone-property-tags", known.tags)
        for key, value in self.gather(call, {}, reserved=("environment", "tags")).items():
            if _NAME.match(key):
                self.put(call, f"helicone-property-{key.lower()}", value)
            else:
                self.leave_out(f"helicone-property {key}", "no header name")

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read request id, cache, fallback and limits."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("helicone-id")) or facts.request_id
        cache = headers.get("helicone-cache", "").upper()
        if cache in ("HIT", "MISS"):
            facts.cache_hit = cache == "HIT"
        facts.fallbacks = values.count(headers.get("helicone-fallback-index"))
        limit = RateLimit(
            values.count(headers.get("helicone-ratelimit-limit")),
            values.count(headers.get("helicone-ratelimit-remaining")),
        )
        if limit != RateLimit():
            facts.requests = limit
