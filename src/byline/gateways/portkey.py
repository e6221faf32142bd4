"""Portkey: https://portkey.ai/docs/api-reference/inference-api/headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

_MAX_VALUE: Final = 128
_INDEX: Final = re.compile(r"(\d{1,4})\D*\Z")


class Portkey(Gateway):
    """Portkey, hosted or your own at ``base_url``.

    Sends the LLM span's ``traceparent``, by which Portkey's span hangs below it, and user,
    environment, session and metadata as ``x-portkey-metadata``.
    """

    name: ClassVar[str] = "portkey"
    hosts: ClassVar[tuple[str, ...]] = ("api.portkey.ai",)
    joins: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (
        Field("trace_id", "header", "x-portkey-trace-id"),
        Field("parent_span_id", "header", "x-portkey-parent-span-id"),
        Field("span_name", "header", "x-portkey-span-name"),
        Field("metadata", "header", "x-portkey-metadata", "controls"),
    )
    notes = (
        ("sends", "`traceparent`", "documentation"),
        (
            "sends",
            (
                "`x-portkey-metadata`: `_user`, `_environment`, `_organisation`, `session_id` and metadata, all as "
                "texts; what has more than 128 characters is left out"
            ),
            "documentation",
        ),
        (
            "reads",
            "`x-portkey-trace-id`, `-retry-attempt-count`, `-cache-status`, `-last-used-option-index`",
            "documentation",
        ),
        ("joins", "its span is a child of the LLM span", "documentation"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply names its trace."""
        return "x-portkey-trace-id" in headers

    def write(self, call: GatewayRequest) -> None:
        """Write the trace context and the metadata, whose values are short texts."""
        super().write(call)
        known = call.attribution
        ids = {
            "_user": known.user_id,
            "_environment": known.environment,
            "_organisation": known.organization_id,
            "session_id": known.session_id,
        }
        metadata: dict[str, str] = {}
        for key, value in self.gather(call, ids, reserved=("_prompt",)).items():
            text = values.as_text(value)
            if len(text) > _MAX_VALUE:
                self.leave_out(f"x-portkey-metadata {key}", "too long")
            else:
                metadata[key] = text
        self.put(call, "x-portkey-metadata", metadata)

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read trace, retries, cache and the option that was used."""
        headers = reply.headers
        facts.request_id = values.text(headers.get("x-portkey-trace-id")) or facts.request_id
        retries = values.count(headers.get("x-portkey-retry-attempt-count"))
        if retries is not None:
            facts.attempts = retries + 1
        status = headers.get("x-portkey-cache-status", "").upper()
        if status in ("HIT", "SEMANTIC HIT", "MISS", "SEMANTIC MISS", "REFRESH"):
            facts.cache_hit = status.endswith("HIT")
        # Such as config.targets[1].
        index = _INDEX.search(headers.get("x-portkey-last-used-option-index", "")[:200])
        if index is not None:
            facts.fallbacks = int(index[1])
