"""The tracer provider whose spans are signed, and what hangs on it."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from byline.settings import SettingError
from byline.spans import kept, server
from byline.spans.processor import BylineSpanProcessor

_PROCESSOR: Final = "_byline_processor"


def find(given: TracerProvider | None) -> TracerProvider:
    """Return the provider: the given one, else the global one, which is made and set where there is none.

    Raises:
        SettingError: ``byline.E022`` where it takes no span processors.
    """
    if given is None:
        if not server.is_configured():
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


def keep(provider: Any, new: BylineSpanProcessor) -> BylineSpanProcessor:
    """Return the processor that signs this provider's spans: the one that it has, else the new one, which is added."""
    return kept.keep(provider, _PROCESSOR, new)


def processors_of(provider: Any, without: Container[SpanProcessor]) -> list[SpanProcessor]:
    """Return a provider's span processors, without byline's own."""
    found = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    return [processor for processor in found if processor not in without]
