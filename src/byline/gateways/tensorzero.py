"""TensorZero's gateway: https://www.tensorzero.com/docs/gateway/api-reference/inference-openai-compatible."""

from __future__ import annotations

import json
from typing import ClassVar

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse


class TensorZero(Gateway):
    """TensorZero at ``base_url``. Ids go out as tags of the inference and as attributes of its spans."""

    name: ClassVar[str] = "tensorzero"
    joins: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (Field("metadata", "body", "tensorzero::tags", "controls"),)
    notes = (
        ("sends", "`traceparent`", "documentation"),
        (
            "sends",
            (
                "`tensorzero::tags` in the body of chat completions: `session_id`, `user_id`, `trace_name` and "
                "metadata as texts, beside the tags of the app"
            ),
            "documentation",
        ),
        (
            "sends",
            "`tensorzero-otlp-traces-extra-attribute-*` for `session.id` and `user.id`, whose values are JSON",
            "documentation",
        ),
        (
            "reads",
            "the inference's `id`, `usage.tensorzero_cost`, `usage.tensorzero_provider_cache_write_input_tokens`",
            "documentation",
        ),
        ("joins", "its span is a child of the LLM span", "documentation"),
    )

    def write(self, call: GatewayRequest) -> None:
        """Write trace context, span attributes (whose values are JSON) and tags (which are texts)."""
        super().write(call)
        known = call.attribution
        for name, value in (("session.id", known.session_id), ("user.id", known.user_id)):
            if value:
                self.put(call, f"tensorzero-otlp-traces-extra-attribute-{name}", json.dumps(value))
        if call.path.endswith("/chat/completions"):
            ids = {"session_id": known.session_id, "user_id": known.user_id, "trace_name": known.trace_name}
            tags = {key: values.as_text(value) for key, value in self.gather(call, ids).items()}
            call.add_into("tensorzero::tags", tags)

    def read(self, reply: GatewayResponse, facts: CallResult) -> None:
        """Read the inference, and the cost where one is configured."""
        body = reply.body or {}
        facts.request_id = values.text(body.get("id")) or facts.request_id
        usage = values.mapping(body.get("usage"))
        written = values.count(usage.get("tensorzero_provider_cache_write_input_tokens"))
        facts.cache_write_tokens = facts.cache_write_tokens if written is None else written
        cost = values.amount(usage.get("tensorzero_cost"))
        if cost is not None:
            facts.cost, facts.cost_source = cost, "gateway"
