"""Databricks' AI Gateway and MLflow's: https://docs.databricks.com/ai-gateway."""

from __future__ import annotations

from typing import ClassVar

from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest


class Databricks(Gateway):
    """Databricks' AI Gateway. Ids go out as request tags, which its usage tables have."""

    name: ClassVar[str] = "databricks"
    hosts: ClassVar[tuple[str, ...]] = (".cloud.databricks.com", ".azuredatabricks.net", ".gcp.databricks.com")
    fields: ClassVar[tuple[Field, ...]] = (
        Field("metadata", "header", "databricks-ai-gateway-request-tags", "controls"),
    )
    notes = (
        (
            "sends",
            (
                "`Databricks-Ai-Gateway-Request-Tags`: `session_id`, `user_id`, `trace_name`, `environment` and "
                "metadata as texts"
            ),
            "documentation",
        ),
        ("reads", "nothing of its own", "documentation"),
        ("joins", "by request tags", "documentation"),
    )

    def write(self, call: GatewayRequest) -> None:
        """Write the tags, all of them texts."""
        known = call.attribution
        ids = {
            "session_id": known.session_id,
            "user_id": known.user_id,
            "trace_name": known.trace_name,
            "environment": known.environment,
        }
        tags = {key: values.as_text(value) for key, value in self.gather(call, ids).items()}
        self.put(call, "databricks-ai-gateway-request-tags", tags)


class MLflow(Gateway):
    """MLflow's AI gateway at ``base_url``."""

    name: ClassVar[str] = "mlflow"
    joins: ClassVar[bool] = True
    notes = (
        ("sends", "`traceparent`", "documentation"),
        ("reads", "nothing of its own", "documentation"),
        ("joins", "its span is linked below the LLM span", "documentation"),
    )
