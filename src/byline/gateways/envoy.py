"""Envoy AI Gateway: https://aigateway.envoyproxy.io/docs/capabilities/observability/tracing."""

from __future__ import annotations

from typing import ClassVar

from byline.gateways.base import Field, Gateway


class Envoy(Gateway):
    """Envoy AI Gateway at ``base_url``. It adds no response headers."""

    name: ClassVar[str] = "envoy"
    sends_traceparent: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (Field("session_id", "header", "agent-session-id", sent=True),)
