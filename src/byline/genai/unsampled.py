"""LLM spans of requests that the app's sampler dropped, for destinations that want every LLM call.

A gateway sees every call, sampled or not. These side spans come from a provider of byline's own, which
samples nothing away and has no processors but byline's. All other spans of such a request stay dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind

from byline.genai.attributes import AttributeValue
from byline.genai.classify import OWN_SCOPE
from byline.genai.span_state import start_state


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
