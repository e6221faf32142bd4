"""The tracer provider whose spans are signed, and what hangs on it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from byline.genai import provider_processors, server_span
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.settings import SettingError

_PROCESSOR: Final = "_byline_processor"


def find_tracer_provider(given: TracerProvider | None) -> TracerProvider:
    """Return the provider: the given one, else the global one, which is made and set where there is none.

    Raises:
        SettingError: ``byline.E022`` where it takes no span processors.
    """
    if given is None:
        if not server_span.has_tracer_provider():
            trace.set_tracer_provider(TracerProvider())
        given = cast("TracerProvider", trace.get_tracer_provider())
    # Others than the SDK's class take processors too, e.g. providers that wrap it.
    if not callable(getattr(given, "add_span_processor", None)):
        raise SettingError(
            "byline.E022",
            f"the tracer provider {type(given).__name__} takes no span processors",
            "set an opentelemetry.sdk.trace.TracerProvider first, or pass tracer_provider",
        )
    return given


def get_or_add_attribution_processor(provider: Any, new: AttributionSpanProcessor) -> AttributionSpanProcessor:
    """Return the processor that signs this provider's spans: the one that it has, else the new one, which is added."""
    return provider_processors.get_or_add_processor(provider, _PROCESSOR, new)


def list_processors(provider: Any, without: Container[SpanProcessor]) -> list[SpanProcessor]:
    """Return a provider's span processors, without byline's own."""
    found = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return [processor for processor in found if processor not in without]
