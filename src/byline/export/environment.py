"""The destinations that the environment names, as far as nobody else sends spans there already."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from byline import guard, settings
from byline.export.destination import Destination
from byline.export.langfuse import Langfuse
from byline.export.otlp import OTLP


def from_environment(processors: Collection[SpanProcessor] = ()) -> list[Destination]:
    """Return the destinations that the environment names.

    Args:
        processors: The span processors of the app's own provider. Where one of them exports, it sends
            to the endpoint of ``OTEL_EXPORTER_OTLP_*``; where one is of Langfuse's SDK, it sends to
            Langfuse. A second time would count each call twice.

    Raises:
        SettingError: ``byline.E041`` where only one of the two Langfuse keys is set.
    """
    found: list[Destination] = []
    if _wants_langfuse():
        if any(_is_langfuses(processor) for processor in processors):
            guard.warn_once(
                "langfuse.twice",
                "byline.E027: Langfuse's SDK sends this provider's spans to Langfuse already; byline signs them and "
                "sends them no second time. For byline's own view of them, pass destinations=[Langfuse()]",
            )
        else:
            found.append(Langfuse())
    if _wants_otlp() and not any(_exports(processor) for processor in processors):
        found.append(OTLP())
    return found


def _wants_langfuse() -> bool:
    named = settings.find("langfuse_public_key").value or settings.find("langfuse_secret_key").value
    return bool(named) and bool(settings.find("langfuse_enabled").value)


def _wants_otlp() -> bool:
    if not settings.find("otlp_endpoint").value or "otlp" not in settings.find("otel_exporter").value:
        return False
    protocol = settings.find("otlp_protocol").value
    if protocol == "grpc":
        guard.warn_once(
            "otlp.grpc",
            "byline.E028: the OTLP endpoint of the environment speaks gRPC, byline speaks HTTP: it gets nothing. Set "
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf with an HTTP endpoint, or pass destinations",
        )
    return bool(protocol != "grpc")


def _is_langfuses(processor: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "langfuse" for kind in type(processor).__mro__)


def _exports(processor: SpanProcessor) -> bool:
    # Those of the SDK that hand spans to an exporter, and whatever is built on them.
    if _is_langfuses(processor):
        return False
    return isinstance(processor, SimpleSpanProcessor | BatchSpanProcessor) or hasattr(processor, "span_exporter")
