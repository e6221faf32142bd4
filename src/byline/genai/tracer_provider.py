"""The tracer provider whose spans are attributed, its span processors, and a side provider.

A gateway sees every LLM call, sampled or not. For destinations that want every call, the LLM spans of requests
that the app's sampler dropped come from a side provider, which samples nothing away and has no processors but
byline's. All other spans of such a request stay dropped.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final, TypeVar, cast

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import ProxyTracerProvider, SpanKind

from byline.genai.attributes import AttributeValue
from byline.genai.classify import OWN_SCOPE
from byline.genai.span_state import start_state
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
    is_concurrent = isinstance(getattr(provider, "_active_span_processor", None), ConcurrentMultiSpanProcessor)
    provider.add_span_processor(_CallerContextProcessor(new) if is_concurrent else new)
    return new


def list_processors(provider: Any) -> list[SpanProcessor]:
    """Return a provider's span processors."""
    return unwrap_processors(getattr(provider, "_active_span_processor", None))


def unwrap_processors(active: Any) -> list[SpanProcessor]:
    """Return the span processors to which a provider's active processor hands each span."""
    processors = getattr(active, "_span_processors", ())
    return [each.wrapped if isinstance(each, _CallerContextProcessor) else each for each in processors]


class _CallerContextProcessor(SpanProcessor):
    """Runs a span processor in the context of the code that starts and ends the spans.

    `ConcurrentMultiSpanProcessor` calls its processors on threads of its own, which have neither the request context
    nor the current span. It looks the methods up on the thread of the app.
    """

    def __init__(self, wrapped: SpanProcessor) -> None:
        self.wrapped = wrapped

    def __getattribute__(self, name: str) -> Any:
        if name not in _CALLED_WITH_SPANS:
            return super().__getattribute__(name)
        return functools.partial(copy_context().run, getattr(self.wrapped, name))

    def shutdown(self) -> None:
        self.wrapped.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.wrapped.force_flush(timeout_millis)


_CALLED_WITH_SPANS: Final = frozenset({"on_start", "_on_ending", "on_end"})


class SideTracer:
    """Makes side spans for one tracer provider.

    Args:
        provider: The app's provider, whose resource and id generator the side spans share.
        processors: The processors that set attributes on the side spans and export them.
    """

    def __init__(self, provider: Any, processors: Sequence[SpanProcessor]) -> None:
        resource = getattr(provider, "resource", None)
        side_provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=resource if isinstance(resource, Resource) else None,
            id_generator=getattr(provider, "id_generator", None),
            shutdown_on_exit=False,
        )
        for processor in processors:
            side_provider.add_span_processor(processor)
        self._tracer = side_provider.get_tracer(OWN_SCOPE)

    def start_span(self, name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> Span | None:
        """Start a span for a call that the app's sampler dropped.

        The span keeps the trace id of the dropped spans around it, by which logs may know the request. It must
        never be made current: spans below it would be sampled too.
        """
        span: Any = self._tracer.start_span(name, kind=kind, attributes=attributes)
        if not isinstance(span, Span):
            return None
        start_state(span).is_side_span = True
        return span


def parent_is_unsampled() -> bool:
    """Return whether the app's sampler dropped the current span."""
    span = trace.get_current_span()
    context = span.get_span_context()
    return context.is_valid and not span.is_recording() and not context.trace_flags.sampled
