"""byline's own LLM spans, for calls that no instrumentation covers."""

from __future__ import annotations

import sys
from typing import Any, Final, Literal

from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled, is_instrumentation_enabled
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from byline.facts import Facts
from byline.spans import attributes as names
from byline.spans.attributes import AttributeValue

LLMSpans = Literal["auto"] | bool

#: OpenLLMetry's and the GenAI utilities' own way to say that a call is traced already.
_SUPPRESSED: Final = ("suppress_language_model_instrumentation",)


def is_wanted(llm_spans: LLMSpans, wire: str) -> bool:
    """Whether a call without an LLM span gets one."""
    if llm_spans is False or not is_instrumentation_enabled() or not is_http_instrumentation_enabled():
        return False
    if any(otel_context.get_value(key) for key in _SUPPRESSED):
        return False
    return llm_spans is True or not _comes_late(wire)


def start(tracer: Tracer, facts: Facts) -> Span | None:
    """Start a span for a call; ``None`` where it is not recorded."""
    attributes: dict[str, AttributeValue] = {}
    for field in ("operation", "provider", "request_model", "server_address", "server_port"):
        value = getattr(facts, field)
        if value is not None:
            attributes[names.FACTS[field]] = value
    name = " ".join(part for part in (facts.operation, facts.request_model) if part) or "chat"
    span: Any = tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    return span if span.is_recording() else None


def end(span: Span, facts: Facts) -> None:
    """End a span of ours with the call's outcome."""
    if facts.error_type is not None:
        span.set_status(Status(StatusCode.ERROR, facts.error_message or facts.error_type))
    span.end()


def _comes_late(wire: str) -> bool:
    """Whether an instrumentation is at work that makes its LLM span after the exchange."""
    if wire == "openai.responses" and _is_instrumented("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"):
        return True
    litellm = sys.modules.get("litellm")
    if litellm is None:
        return False
    callbacks = [*getattr(litellm, "callbacks", ()), *getattr(litellm, "success_callback", ())]
    return any("otel" in str(callback) or "OpenTelemetry" in type(callback).__name__ for callback in callbacks)


def _is_instrumented(module: str, name: str) -> bool:
    instrumentor = getattr(sys.modules.get(module), name, None)
    return instrumentor is not None and bool(instrumentor().is_instrumented_by_opentelemetry)
