"""TensorZero's gateway: https://www.tensorzero.com/docs/gateway/api-reference/inference-openai-compatible."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from byline.facts import Facts
from byline.gateways import values
from byline.gateways.gateway import Field, Gateway, Outgoing, Reply
from byline.gateways.splice import splice


class TensorZero(Gateway):
    """TensorZero at ``base_url``. Ids go out as tags of the inference and as attributes of its spans."""

    name: ClassVar[str] = "tensorzero"
    joins: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (Field("metadata", "body", "tensorzero::tags", "metadata"),)
    notes = (
        (
            "sends",
            "`traceparent`, `tensorzero::tags` in the body, `tensorzero-otlp-traces-extra-attribute-*`",
            "documentation",
        ),
        ("reads", "`episode_id`, `usage.tensorzero_cost`", "documentation"),
        ("joins", "as a child of the LLM span", "documentation"),
    )

    def write(self, call: Outgoing) -> None:
        """Write trace context, span attributes (whose values are JSON) and tags (which are texts)."""
        super().write(call)
        known = call.attribution
        ids: dict[str, Any] = {"session.id": known.session_id, "user.id": known.user_id}
        for name, value in ids.items():
            if value:
                self.put(call, f"tensorzero-otlp-traces-extra-attribute-{name}", json.dumps(value))
        tags = {
            "session_id": known.session_id,
            "user_id": known.user_id,
            "trace_name": known.trace_name,
            **known.metadata,
        }
        present = {key: str(value) for key, value in tags.items() if value is not None}
        if call.body is not None and present:
            call.body = splice(call.body, {"tensorzero::tags": present})

    def read(self, reply: Reply, facts: Facts) -> None:
        """Read the episode, and the cost where one is configured."""
        body = reply.body or {}
        facts.request_id = values.text(body.get("episode_id")) or facts.request_id
        cost = values.amount(values.mapping(body.get("usage")).get("tensorzero_cost"))
        if cost is not None:
            facts.cost, facts.cost_source = cost, "gateway"
