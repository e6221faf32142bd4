"""The tracer provider whose spans are attributed, and its span processors."""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import ProxyTracerProvider

from byline.settings import SettingError

P = TypeVar("P", bound=SpanProcessor)


def has_tracer_provider() -> bool:
    """Return whether a tracer provider is set, without which there are no spans at all."""
    # `trace.get_tracer_provider()` returns these no-op classes until somebody sets a provider.
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | trace.NoOpTracerProvider)


def find_tracer_provider(tracer_provider: TracerProvider | None) -> TracerProvider:
    """Return the given provider, else the global one, which is made and set if there is none.

    Raises:
        SettingError: ``byline.E022`` if the provider takes no span processors.
    """
    if tracer_provider is None:
        if not has_tracer_provider():
            trace.set_tracer_provider(TracerProvider())
        tracer_provider = cast("TracerProvider", trace.get_tracer_provider())
    # Not only the SDK's class takes processors: some vendors wrap the SDK's provider in a class of their own.
    if not callable(getattr(tracer_provider, "add_span_processor", None)):
        raise SettingError(
            "byline.E022",
            f"the tracer provider {type(tracer_provider).__name__} takes no span processors",
            "set an opentelemetry.sdk.trace.TracerProvider first, or pass tracer_provider",
        )
    return tracer_provider


def get_or_add_processor(provider: Any, name: str, new: P) -> P:
    """Return the processor of this class that a provider already has, else add the new one and return that.

    The SDK cannot remove a processor, so that one which stays has to be switched on and off. The provider
    remembers the processor under an attribute of this name: some providers cannot be hashed.
    """
    present = getattr(provider, name, None)
    if isinstance(present, type(new)):
        return present
    with contextlib.suppress(AttributeError, TypeError):
        setattr(provider, name, new)
    provider.add_span_processor(new)
    return new


def list_processors(provider: Any) -> list[SpanProcessor]:
    """Return a provider's span processors."""
    return list(getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ()))
