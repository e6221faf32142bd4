"""Databricks' AI Gateway and MLflow's: https://docs.databricks.com/ai-gateway."""

from __future__ import annotations

from typing import ClassVar

from byline.gateways import values
from byline.gateways.base import Field, Gateway, GatewayRequest


class Databricks(Gateway):
    """Databricks' AI Gateway. Ids are sent as request tags, which appear in the usage tables."""

    name: ClassVar[str] = "databricks"
    hosts: ClassVar[tuple[str, ...]] = (".cloud.databricks.com", ".azuredatabricks.net", ".gcp.databricks.com")
    fields: ClassVar[tuple[Field, ...]] = (
        Field("metadata", "header", "databricks-ai-gateway-request-tags", "controls"),
    )

    def inject(self, request: GatewayRequest) -> None:
        """Set the request tags, whose values have to be texts."""
        attribution = request.attribution
        ids = {
            "session_id": attribution.session_id,
            "user_id": attribution.user_id,
            "trace_name": attribution.trace_name,
            "environment": attribution.environment,
        }
        tags = {key: values.as_text(value) for key, value in self.metadata_for(request, ids).items()}
        self.set_header(request, "databricks-ai-gateway-request-tags", tags)


class MLflow(Gateway):
    """MLflow's AI gateway at ``base_url``."""

    name: ClassVar[str] = "mlflow"
    sends_traceparent: ClassVar[bool] = True
