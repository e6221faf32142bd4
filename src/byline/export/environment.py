"""The destinations that the environment names, as far as nobody else sends spans there already."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from byline import errors, settings
from byline.export.debug import debug_print
from byline.export.destination import Destination
from byline.export.langfuse import Langfuse
from byline.export.otlp import OTLP

_GRPC: Final = "the OTLP endpoint of the environment speaks gRPC, and byline speaks HTTP: it gets nothing"
_HTTP: Final = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf with an HTTP endpoint, or pass destinations"


def destinations_from_environment(processors: Collection[SpanProcessor] = ()) -> list[Destination]:
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
            errors.warn_once(
                "langfuse.twice",
                "byline.E027: Langfuse's SDK sends this provider's spans to Langfuse already; byline signs them and "
                "sends them no second time. For byline's own view of them, pass destinations=[Langfuse()]",
            )
        else:
            found.append(Langfuse())
            _tell("langfuse", "langfuse_base_url")
    if _wants_otlp():
        if any(_exports(processor) for processor in processors):
            debug_print("otlp: an exporter of the app's own sends there already")
        else:
            found.append(OTLP())
            _tell("otlp", "otlp_endpoint")
    for why, _ in unused_settings():
        debug_print(why)
    if not found:
        debug_print("the environment makes no destination")
    return found


def _tell(label: str, setting: str) -> None:
    _, variable = settings.find(setting)
    debug_print(f"{label}: its address is from {variable or 'the default'}")


def unused_settings() -> list[tuple[str, str]]:
    """Return why a destination that the environment names gets nothing, and what to do about it."""
    found: list[tuple[str, str]] = []
    if _names_langfuse() and not settings.find("langfuse_enabled").value:
        found.append(("LANGFUSE_TRACING_ENABLED turns Langfuse off", "unset LANGFUSE_TRACING_ENABLED"))
    if settings.find("otlp_endpoint").value:
        if not _exports_otlp():
            found.append(
                (
                    f"OTEL_TRACES_EXPORTER={settings.find('otel_exporter').value} leaves the OTLP endpoint out",
                    "add otlp to OTEL_TRACES_EXPORTER, or unset it",
                )
            )
        elif _speaks_grpc():
            found.append((f"byline.E028: {_GRPC}", _HTTP))
    return found


def _names_langfuse() -> bool:
    return bool(settings.find("langfuse_public_key").value or settings.find("langfuse_secret_key").value)


def _wants_langfuse() -> bool:
    return _names_langfuse() and bool(settings.find("langfuse_enabled").value)


def _exports_otlp() -> bool:
    return "otlp" in settings.find("otel_exporter").value


def _speaks_grpc() -> bool:
    return bool(settings.find("otlp_protocol").value == "grpc")


def _wants_otlp() -> bool:
    if not settings.find("otlp_endpoint").value or not _exports_otlp():
        return False
    if _speaks_grpc():
        errors.warn_once("otlp.grpc", "byline.E028: %s. To mend it, %s", _GRPC, _HTTP)
        return False
    return True


def _is_langfuses(processor: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "langfuse" for kind in type(processor).__mro__)


def _exports(processor: SpanProcessor) -> bool:
    # Those of the SDK that hand spans to an exporter, and whatever is built on them.
    if _is_langfuses(processor):
        return False
    return isinstance(processor, SimpleSpanProcessor | BatchSpanProcessor) or hasattr(processor, "span_exporter")
