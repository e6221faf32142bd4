"""The tracer provider whose spans are attributed, its span processors, and a side provider.

A gateway sees every LLM call, sampled or not. For destinations that want every call, the LLM spans of requests
that the app's sampler dropped come from a side provider, which samples nothing away and has no processors but
byline's. All other spans of such a request stay dropped.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final, TypeVar, cast

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ConcurrentMultiSpanProcessor, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import ProxyTracerProvider, SpanKind

from byline import errors
from byline.genai.attributes import AttributeValue
from byline.genai.classify import OWN_SCOPE
from byline.genai.span_state import start_state
from byline.settings import SettingError

P = TypeVar("P", bound=SpanProcessor)

#: Wrappers that contain each other would never end.
_MAX_PROCESSORS: Final = 100


def has_tracer_provider() -> bool:
    """Return whether a tracer provider is set, without which there are no spans at all."""
    # `trace.get_tracer_provider()` returns these no-op classes until a provider is set.
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | trace.NoOpTracerProvider)


def find_tracer_provider(tracer_provider: TracerProvider | None) -> TracerProvider:
    """Return the given provider, else the global one, which is made and set if there is none.

    If the global provider is a vendor's that takes no span processors (ddtrace), a provider is returned that is not
    the global one, and ``byline.E105`` is logged: the app starts, and byline creates the LLM spans itself.

    Raises:
        SettingError: ``byline.E022`` if the given provider takes no span processors.
    """
    if tracer_provider is None:
        if not has_tracer_provider():
            if os.environ.get("OTEL_CONFIG_FILE"):
                errors.warn_once(
                    "config file",
                    "byline.E116: OTEL_CONFIG_FILE is set, but OpenTelemetry was not configured from the file, so "
                    "byline makes a tracer provider from the other variables. Install opentelemetry-configuration, and "
                    "start the app by byline run or opentelemetry-instrument",
                )
            trace.set_tracer_provider(TracerProvider())
            LateProviderFilter.add()
        present: Any = trace.get_tracer_provider()
        if _takes_processors(present):
            return cast("TracerProvider", present)
        errors.warn_once(
            "provider",
            "byline.E105: the global tracer provider, %s.%s, takes no span processors, so its spans get no "
            "attribution; byline creates an LLM span for each call, and sends it to its own destinations only. To have "
            "the spans of other instrumentations as well, set an opentelemetry.sdk.trace.TracerProvider",
            type(present).__module__,
            type(present).__name__,
        )
        return TracerProvider()
    if not _takes_processors(tracer_provider):
        raise SettingError(
            "byline.E022",
            f"the tracer provider {type(tracer_provider).__name__} takes no span processors",
            "set an opentelemetry.sdk.trace.TracerProvider first, or pass tracer_provider",
        )
    return tracer_provider


def _takes_processors(provider: Any) -> bool:
    # Not only the SDK's class takes processors: some vendors wrap the SDK's provider in a class of their own.
    return callable(getattr(provider, "add_span_processor", None))


class LateProviderFilter(logging.Filter):
    """Reports a tracer provider that is set after byline has set one: OpenTelemetry logs this, and ignores it."""

    @classmethod
    def add(cls) -> None:
        """Watch OpenTelemetry's log."""
        logger = logging.getLogger(trace.__name__)
        if not any(isinstance(each, cls) for each in logger.filters):
            logger.addFilter(cls())

    def filter(self, record: logging.LogRecord) -> bool:
        """Log ``byline.E104`` once beside OpenTelemetry's message."""
        if isinstance(record.msg, str) and record.msg.startswith("Overriding of current TracerProvider"):
            errors.warn_once(
                "provider.late",
                "byline.E104: a tracer provider was set after byline.instrument() had set one, and OpenTelemetry "
                "ignores it: its exporters get no spans. Call byline.instrument() after it is set, e.g. after "
                "logfire.configure() or phoenix.otel.register()",
            )
        return True


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
    _add_beside_others(provider, _CallerContextProcessor(new) if is_concurrent else new)
    return new


def _add_beside_others(provider: Any, processor: SpanProcessor) -> None:
    """Add a span processor without any effect on those that a provider has.

    The provider of `phoenix.otel.register` (arize-phoenix-otel 0.17) shuts its default exporter down when the app adds
    a processor, unless told not to; versions without the parameter always do.
    """
    try:
        keeps_default = "replace_default_processor" in inspect.signature(provider.add_span_processor).parameters
    except (TypeError, ValueError):
        keeps_default = False
    if keeps_default:
        provider.add_span_processor(processor, replace_default_processor=False)
    elif isinstance(provider, TracerProvider) and hasattr(provider, "_default_processor"):
        TracerProvider.add_span_processor(provider, processor)
    else:
        provider.add_span_processor(processor)


def list_processors(provider: Any) -> list[SpanProcessor]:
    """Return a provider's span processors, also those within the wrappers of vendors."""
    # The provider of Logfire (5.4) is a proxy that hides the SDK's.
    inner = getattr(provider, "provider", None)
    active = getattr(provider, "_active_span_processor", None) or getattr(inner, "_active_span_processor", None)
    return unwrap_processors(active)


def unwrap_processors(active: Any) -> list[SpanProcessor]:
    """Return the span processors to which a provider's active processor hands each span."""
    found: list[SpanProcessor] = []
    pending = [*getattr(active, "_span_processors", ())]
    for _ in range(_MAX_PROCESSORS):
        if not pending:
            break
        processor = pending.pop(0)
        inner = getattr(processor, "_span_processors", None)
        wrapped = getattr(processor, "wrapped" if isinstance(processor, _CallerContextProcessor) else "processor", None)
        if isinstance(inner, tuple):
            pending = [*inner, *pending]
        elif isinstance(wrapped, SpanProcessor):
            pending.insert(0, wrapped)
        else:
            found.append(processor)
    return found


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
