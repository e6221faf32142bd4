"""byline's own LLM spans, for calls that no instrumentation covers."""

from __future__ import annotations

import os
import sys
from typing import Any, Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from byline.call_result import CallResult
from byline.genai import attributes as names
from byline.genai import unsampled
from byline.genai.attributes import AttributeValue

LLMSpans = Literal["auto"] | bool

#: OpenLLMetry's and the GenAI utilities' own way to say that a call is traced already.
_SUPPRESSED: Final = ("suppress_language_model_instrumentation",)


def wants_fallback_span(llm_spans: LLMSpans, wire: str) -> bool:
    """Whether a call without an LLM span gets one."""
    # OpenTelemetry's key that keeps HTTP spans from nesting says nothing of LLM spans.
    if llm_spans is False or not is_instrumentation_enabled():
        return False
    if any(otel_context.get_value(key) for key in _SUPPRESSED):
        return False
    return llm_spans is True or unsampled.parent_is_unsampled() or instrumentation_creates_span_later(wire) is None


def start_fallback_span(tracer: Tracer, facts: CallResult) -> Span | None:
    """Start a span for a call; ``None`` where it is recorded nowhere."""
    attributes: dict[str, AttributeValue] = {}
    for field in ("operation", "provider", "request_model", "server_address", "server_port"):
        value = getattr(facts, field)
        if value is not None:
            attributes[names.CALL_RESULT[field]] = value
    name = " ".join(part for part in (facts.operation, facts.request_model) if part) or "chat"
    span: Any = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    return span if span.is_recording() else unsampled.start_span(name, SpanKind.CLIENT, attributes)


def end_fallback_span(span: Span, facts: CallResult) -> None:
    """End a span of ours with the call's outcome."""
    if facts.error_type is not None:
        span.set_status(Status(StatusCode.ERROR, facts.error_message or facts.error_type))
    span.end()


def instrumentation_creates_span_later(wire: str) -> tuple[str, str | None] | None:
    """Return the scope of an instrumentation that makes its LLM span only after the request was sent.

    With the span's name, where the same scope makes spans of other calls in time.
    """
    if wire == "openai.responses" and _is_instrumented("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"):
        return ("opentelemetry.instrumentation.openai.v1", "openai.response")
    return ("litellm", None) if _litellm_creates_span() else None


def _litellm_creates_span() -> bool:
    """Whether LiteLLM's SDK makes a span of its own once the exchange is over.

    Its OpenTelemetry callback does so only where no span is current, or where a variable says so;
    else it writes what it knows onto the current span, which is the app's.
    """
    litellm = sys.modules.get("litellm")
    callbacks = [*getattr(litellm, "callbacks", ()), *getattr(litellm, "success_callback", ())]
    found = [each for each in callbacks if "otel" in str(each) or "OpenTelemetry" in type(each).__name__]
    if not found:
        return False
    if os.environ.get("USE_OTEL_LITELLM_REQUEST_SPAN", "").strip().lower() == "true":
        return True
    if any(getattr(getattr(each, "config", None), "ignore_context_propagation", False) for each in found):
        return True
    return not trace.get_current_span().get_span_context().is_valid


def _is_instrumented(module: str, name: str) -> bool:
    instrumentor = getattr(sys.modules.get(module), name, None)
    return instrumentor is not None and bool(instrumentor().is_instrumented_by_opentelemetry)
