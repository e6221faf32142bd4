"""Databricks' AI Gateway and MLflow's: https://docs.databricks.com/ai-gateway."""

from __future__ import annotations

from typing import ClassVar

from byline.gateways.gateway import Field, Gateway, Outgoing


class Databricks(Gateway):
    """Databricks' AI Gateway. Ids go out as request tags, which its usage tables have."""

    name: ClassVar[str] = "databricks"
    hosts: ClassVar[tuple[str, ...]] = (".cloud.databricks.com", ".azuredatabricks.net", ".gcp.databricks.com")
    fields: ClassVar[tuple[Field, ...]] = (
        Field("metadata", "header", "databricks-ai-gateway-request-tags", "controls"),
    )
    notes = (
        ("sends", "`Databricks-Ai-Gateway-Request-Tags`", "documentation"),
        ("reads", "nothing of its own", "documentation"),
        ("joins", "by request tags", "documentation"),
    )

    def write(self, call: Outgoing) -> None:
        """Write the tags, all of them texts."""
        known = call.attribution
        tags = {
            "session_id": known.session_id,
            "user_id": known.user_id,
            "trace_name": known.trace_name,
            "environment": known.environment,
            **known.metadata,
        }
        present = {key: str(value) for key, value in tags.items() if value is not None}
        self.put(call, "databricks-ai-gateway-request-tags", present)


class MLflow(Gateway):
    """MLflow's AI gateway at ``base_url``."""

    name: ClassVar[str] = "mlflow"
    joins: ClassVar[bool] = True
    notes = (
        ("sends", "`traceparent`", "documentation"),
        ("reads", "nothing of its own", "documentation"),
        ("joins", "as a linked span below the LLM span", "documentation"),
    )
