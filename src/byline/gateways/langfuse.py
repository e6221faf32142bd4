"""Langfuse's AI Gateway: https://langfuse.com/docs/gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from byline.facts import Facts
from byline.gateways import values
from byline.gateways.gateway import Field, Gateway, Reply


class LangfuseGateway(Gateway):
    """Langfuse's AI Gateway at ``base_url``.

    It records every call in Langfuse by itself: say ``broadcasts=True`` where byline exports to the
    same project, so that only one of the two carries usage and cost.
    """

    name: ClassVar[str] = "langfuse"
    joins: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (
        Field("session_id", "header", "langfuse-session-id", sent=True),
        Field("user_id", "header", "langfuse-user-id", sent=True),
        Field("trace_name", "header", "langfuse-trace-name", sent=True),
        Field("tags", "header", "langfuse-tags", "tags", sent=True),
        Field("metadata", "header", "langfuse-metadata", "metadata", sent=True),
    )
    notes = (
        ("sends", "`traceparent`, `langfuse-session-id`, `-user-id`, `-trace-name`, `-tags`, `-metadata`", "source"),
        ("reads", "`langfuse-request-id`", "documentation"),
        ("joins", "its generation is a child of the LLM span", "source"),
    )

    def answered(self, headers: Mapping[str, str]) -> bool:
        """Every reply names its request."""
        return "langfuse-request-id" in headers

    def read(self, reply: Reply, facts: Facts) -> None:
        """Read the request's id."""
        facts.request_id = values.text(reply.headers.get("langfuse-request-id")) or facts.request_id
