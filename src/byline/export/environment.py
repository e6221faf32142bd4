"""The destinations that the environment names, without those to which the app's own exporters send already."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from byline import errors, settings
from byline.export.delivery.messages import debug_print
from byline.export.destination import Destination
from byline.export.langfuse import Langfuse
from byline.export.otlp import OTLP
from byline.export.processor import DestinationSpanProcessor
from byline.genai.span_state import SpanStateProcessor
from byline.genai.tracer_provider import list_processors
from byline.settings import SettingError

_GRPC: Final = "the OTLP endpoint of the environment speaks gRPC, but byline only HTTP: it gets no spans"
#: Argument of a destination → its setting.
_OPTIONS: Final = {
    "spans": "spans",
    "conventions": "conventions",
    "organizations": "organizations",
    "environments": "environments",
    "models": "models",
    "keys": "api_keys",
}
_HTTP: Final = "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf with an HTTP endpoint, or pass destinations"


def destinations_from_environment(provider: Any = None, *, leave_out: bool = False) -> list[Destination]:
    """Return the destinations that the environment names.

    Args:
        provider: The tracer provider of the app. A span processor with an exporter sends to the endpoint of
            ``OTEL_EXPORTER_OTLP_*`` already, and that of Langfuse's SDK to Langfuse, also if the SDK adds its processor
            later; a second export would count each call twice.
        leave_out: Whether a destination with a wrong setting is reported and left out, instead of an error.

    Raises:
        SettingError: ``byline.E041`` if only one of the two Langfuse keys is set.
    """
    processors = [each for each in list_processors(provider) if not isinstance(each, SpanStateProcessor)]
    destinations: list[Destination] = []

    def add(label: str, kind: Callable[..., Destination], source: str) -> Destination | None:
        try:
            # The file may ask for privacy.
            settings.config_file.check()
            options = _options()
            if kind is Langfuse:
                # Langfuse's own names have all that is in the further ones, which it would show as metadata.
                options.pop("conventions", None)
            destination = kind(**options)
            destinations.append(destination)
            _print_source(label, source)
            return destination
        except SettingError as error:
            if not leave_out:
                raise
            errors.error_once(f"destination {label}", "%s Until then %s gets no spans; all else works", error, label)
            return None

    if _names_langfuse() and settings.find("langfuse_enabled").value:
        # A later processor of the SDK is noticed by the destination.
        project = settings.find("langfuse_public_key").value
        is_sent_by_sdk = functools.partial(_is_sent_by_langfuse_sdk, provider, project)
        if not is_sent_by_sdk():
            langfuse = add("langfuse", Langfuse, "langfuse_base_url")
            if langfuse is not None and provider is not None:
                langfuse.sent_by_app = is_sent_by_sdk
    if any(_exports(processor) for processor in processors):
        debug_print("otlp: an exporter of the app sends there already")
    elif _wants_otlp():
        add("otlp", OTLP, "otlp_endpoint")
    for reason, _ in unused_settings():
        debug_print(reason)
    if not destinations:
        debug_print("the environment names no destination")
    return destinations


def _options() -> dict[str, Any]:
    """Return the settings for each destination of the environment."""
    options: dict[str, Any] = {}
    for name, setting in _OPTIONS.items():
        value, variable = settings.find(setting)
        if variable is not None:
            options[name] = value
    return options


def _print_source(label: str, setting: str) -> None:
    _, variable = settings.find(setting)
    debug_print(f"{label}: its endpoint is from {variable or 'the default'}")


def unused_settings() -> list[tuple[str, str]]:
    """Return the reasons for which a destination of the environment gets no spans, each with advice."""
    reasons: list[tuple[str, str]] = []
    if _names_langfuse() and not settings.find("langfuse_enabled").value:
        reasons.append(("LANGFUSE_TRACING_ENABLED turns Langfuse off", "unset LANGFUSE_TRACING_ENABLED"))
    if settings.find("otlp_endpoint").value:
        exporters = settings.find("otel_exporter").value
        if "otlp" not in exporters:
            reason = f"OTEL_TRACES_EXPORTER={exporters} leaves the OTLP endpoint out"
            reasons.append((reason, "add otlp to OTEL_TRACES_EXPORTER, or unset it"))
        elif settings.find("otlp_protocol").value == "grpc":
            reasons.append((f"byline.E028: {_GRPC}", _HTTP))
    return reasons


def set_variables() -> list[str]:
    """Return the variables that name a destination, as far as they are set."""
    found = [settings.find(name).variable for name in ("langfuse_public_key", "langfuse_secret_key", "otlp_endpoint")]
    return [variable for variable in found if variable is not None]


def _names_langfuse() -> bool:
    return bool(settings.find("langfuse_public_key").value or settings.find("langfuse_secret_key").value)


def _wants_otlp() -> bool:
    if not settings.find("otlp_endpoint").value or "otlp" not in settings.find("otel_exporter").value:
        return False
    if settings.find("otlp_protocol").value == "grpc":
        errors.warn_once("otlp.grpc", "byline.E028: %s. To fix it, %s", _GRPC, _HTTP)
        return False
    return True


def _is_sent_by_langfuse_sdk(provider: Any, project: str) -> bool:
    """Return whether Langfuse's SDK sends the spans of a provider to the project with this public key; say so once."""
    if not any(_is_of_langfuse_sdk(each) and _is_for(each, project) for each in list_processors(provider)):
        return False
    errors.warn_once(
        "langfuse.twice",
        "byline.E027: Langfuse's SDK sends this provider's spans to Langfuse already; byline only adds its "
        "attributes to them. To send byline's own view of the spans as well, pass destinations=[Langfuse()]",
    )
    return True


def _is_for(processor: Any, project: str) -> bool:
    # Not by the host: one Langfuse may have several names, such as that within a cluster. A public key is unique.
    public_key = getattr(processor, "public_key", None)
    return not project or not isinstance(public_key, str) or public_key == project


def _is_of_langfuse_sdk(processor: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "langfuse" for kind in type(processor).__mro__)


def _exports(processor: SpanProcessor) -> bool:
    if _is_of_langfuse_sdk(processor):
        return False
    known = SimpleSpanProcessor | BatchSpanProcessor | DestinationSpanProcessor
    return isinstance(processor, known) or hasattr(processor, "span_exporter")
