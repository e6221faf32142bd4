"""TensorZero's gateway: https://www.tensorzero.com/docs/gateway/api-reference/inference-openai-compatible."""

from __future__ import annotations

import json
from typing import ClassVar, Final

from byline.call_result import CallResult
from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest, GatewayResponse

#: Tags of TensorZero's own.
_INTERNAL: Final = "tensorzero::"


class TensorZero(Gateway):
    """TensorZero at ``base_url``. Ids are sent as tags of the inference and as attributes of TensorZero's spans."""

    name: ClassVar[str] = "tensorzero"
    sends_traceparent: ClassVar[bool] = True
    fields: ClassVar[tuple[Field, ...]] = (Field("metadata", "body", "tensorzero::tags", "controls"),)

    def inject(self, request: GatewayRequest) -> None:
        """Set trace context, span attributes (JSON values) and tags (texts)."""
        super().inject(request)
        attribution = request.attribution
        for name, value in (("session.id", attribution.session_id), ("user.id", attribution.user_id)):
            if value:
                self.set_header(request, f"tensorzero-otlp-traces-extra-attribute-{name}", json.dumps(value))
        if request.path.endswith("/chat/completions"):
            ids = {
                "session_id": attribution.session_id,
                "user_id": attribution.user_id,
                "trace_name": attribution.trace_name,
            }
            tags: dict[str, str] = {}
            for key, tag in self.metadata_for(request, ids).items():
                if key.strip().lower().startswith(_INTERNAL):
                    self.log_omitted(f"tensorzero::tags {key}", "the name is reserved")
                else:
                    tags[key] = values.as_text(tag)
            request.add_to_object("tensorzero::tags", tags)

    def extract(self, response: GatewayResponse, result: CallResult) -> None:
        """Extract inference id, cache-write tokens and, if configured, the cost."""
        body = response.body or {}
        result.request_id = values.text(body.get("id")) or result.request_id
        usage = values.mapping(body.get("usage"))
        written = values.count(usage.get("tensorzero_provider_cache_write_input_tokens"))
        result.cache_write_tokens = result.cache_write_tokens if written is None else written
        cost = values.cost(usage.get("tensorzero_cost"))
        if cost is not None:
            result.cost, result.cost_source = cost, "gateway"
