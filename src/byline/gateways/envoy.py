"""Envoy AI Gateway: https://aigateway.envoyproxy.io/docs/capabilities/observability/tracing."""

from __future__ import annotations

from typing import ClassVar

from byline.gateways.base import Field, Gateway


class Envoy(Gateway):
    """Envoy AI Gateway at ``base_url``. It has no reply headers of its own."""

    name: ClassVar[str] = "envoy"
    joins: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (Field("session_id", "header", "agent-session-id", sent=True),)
    notes = (
        ("sends", "`traceparent`, `agent-session-id`", "source"),
        ("reads", "nothing of its own", "documentation"),
        ("joins", "its span is a child of the LLM span", "source"),
    )
