"""LLM spans of requests that the app's sampler has dropped: a gateway sees every call, and so may byline.

They are made by a provider of byline's own, which samples nothing away and feeds byline's destinations
alone. Everything else of such a request stays dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Tracer

from byline.genai.attributes import AttributeValue
from byline.genai.classify import OWN_SCOPE

_MARK: Final = "_byline_unsampled"

_tracer: Tracer | None = None


def enable(beside: Any, processors: Sequence[SpanProcessor]) -> None:
    """Record such spans from now on.

    Args:
        beside: The app's provider, whose resource and ids the spans share.
        processors: What signs the spans and what takes them; none turns it off.
    """
    global _tracer
    _tracer = None
    if not processors:
        return
    resource = getattr(beside, "resource", None)
    provider = TracerProvider(
        sampler=ALWAYS_ON,
        resource=resource if isinstance(resource, Resource) else None,
        id_generator=getattr(beside, "id_generator", None),
        shutdown_on_exit=False,
    )
    for processor in processors:
        provider.add_span_processor(processor)
    _tracer = provider.get_tracer(OWN_SCOPE)


def parent_is_unsampled() -> bool:
    """Whether calls are recorded here that are made now, for the sampler has dropped what is around them."""
    if _tracer is None:
        return False
    span = trace.get_current_span()
    context = span.get_span_context()
    return context.is_valid and not span.is_recording() and not context.trace_flags.sampled


def start_span(name: str, kind: SpanKind, attributes: Mapping[str, AttributeValue]) -> Span | None:
    """Start a span for a call that the app's sampler has dropped; ``None`` where none is wanted.

    It keeps the trace id of the dropped spans around it, by which logs may know the request.
    """
    if _tracer is None:
        return None
    span: Any = _tracer.start_span(name, kind=kind, attributes=attributes)
    span.__dict__[_MARK] = True
    return span if isinstance(span, Span) else None


def is_side_span(span: Span) -> bool:
    """Whether a span is of this kind. It must never be current: what hangs below would be sampled too."""
    return _MARK in span.__dict__
