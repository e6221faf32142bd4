"""The LLM span that byline makes for a call without one, and the mark against a second span from a client below."""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from operator import attrgetter
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import SpanKind, Status, StatusCode

from byline import errors
from byline.call_result import CallResult
from byline.genai import attributes as names
from byline.http.call_config import CallConfig

#: The context key by which OpenLLMetry and the GenAI utilities say that the call is traced already.
_SUPPRESSED: Final = "suppress_language_model_instrumentation"
_START_FIELDS: Final = ("operation", "provider", "request_model", "server_address", "server_port")
_START_NAMES: Final = tuple(names.CALL_RESULT[field] for field in _START_FIELDS)
_start_values: Final = attrgetter(*_START_FIELDS)


def wants_fallback_span(config: CallConfig, api: str) -> bool:
    """Return whether a call without an LLM span gets one from byline."""
    # `suppress_instrumentation` counts; OpenTelemetry's key against nested HTTP spans says nothing about LLM spans.
    if config.llm_spans is False or not is_instrumentation_enabled() or otel_context.get_value(_SUPPRESSED):
        return False
    return (
        config.llm_spans is True
        or config.records_unsampled()
        or instrumentation_creates_span_later(config, api) is None
    )


def start_fallback_span(config: CallConfig, result: CallResult) -> Span | None:
    """Start an LLM span for a call, ``None`` if no destination would record the span."""
    values = zip(_START_NAMES, _start_values(result), strict=True)
    attributes = {name: value for name, value in values if value is not None}
    name = " ".join(filter(None, (result.operation, result.request_model))) or "chat"
    span: Any = config.tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes)
    if span.is_recording():
        return span if isinstance(span, Span) else None
    return None if config.side_tracer is None else config.side_tracer.start_span(name, SpanKind.CLIENT, attributes)


def end_fallback_span(span: Span, result: CallResult) -> None:
    """End byline's own LLM span with the outcome of the call."""
    if result.error_type is not None:
        span.set_status(Status(StatusCode.ERROR, result.error_message or result.error_type))
    span.end()


def instrumentation_creates_span_later(config: CallConfig, api: str) -> tuple[str, str | None] | None:
    """Return scope and span name of an instrumentation that makes its LLM span after the request was sent.

    The name is ``None`` if the scope makes no other spans before. ``None`` if no such instrumentation is active.
    """
    if api == "openai.responses" and _is_instrumented("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"):
        return ("opentelemetry.instrumentation.openai.v1", "openai.response")
    return ("litellm", None) if _litellm_creates_span(config) else None


def langsmith_creates_spans() -> bool:
    """Return whether LangSmith makes spans of OpenTelemetry, which its own thread does when the calls are over."""
    return "langsmith._internal.otel._otel_exporter" in sys.modules


def _litellm_creates_span(config: CallConfig) -> bool:
    """Return whether LiteLLM's SDK makes a span of its own after the HTTP exchange.

    Its OpenTelemetry callback does so if no span is current, or if an environment variable says so; otherwise
    the callback writes onto the current span, which is the app's.
    """
    litellm = sys.modules.get("litellm")
    if litellm is None:
        return False
    callbacks = [*getattr(litellm, "callbacks", ()), *getattr(litellm, "success_callback", ())]
    found = [each for each in callbacks if "otel" in str(each) or "OpenTelemetry" in type(each).__name__]
    # The name of a callback stays in the lists beside the object that LiteLLM has made of it.
    found = [each for each in found if not isinstance(each, str)] or found
    otel_callbacks = [each for each in found if not _has_own_provider(each, config)]
    if len(otel_callbacks) < len(found):
        errors.warn_once(
            "litellm's provider",
            "byline.E126: LiteLLM's callback, such as langfuse_otel, exports spans of a tracer provider of its own. "
            "They get no attribution, and in a backend that gets byline's spans too, each call is there twice. Remove "
            "the callback: byline exports the calls",
        )
    if not otel_callbacks:
        return False
    if os.environ.get("USE_OTEL_LITELLM_REQUEST_SPAN", "").strip().lower() == "true":
        return True
    if any(getattr(getattr(each, "config", None), "ignore_context_propagation", False) for each in otel_callbacks):
        return True
    return not trace.get_current_span().get_span_context().is_valid


def _has_own_provider(callback: Any, config: CallConfig) -> bool:
    """Return whether a callback of LiteLLM has another provider than byline, such as langfuse_otel."""
    theirs = getattr(getattr(callback, "tracer", None), "span_processor", None)
    ours = getattr(config.tracer, "span_processor", None)
    return theirs is not None and ours is not None and theirs is not ours


def _is_instrumented(module: str, name: str) -> bool:
    instrumentor = getattr(sys.modules.get(module), name, None)
    return instrumentor is not None and bool(instrumentor().is_instrumented_by_opentelemetry)


class InFlight:
    """A request that a hooked client is sending, from its creation until `end`.

    Args:
        host: The host of the request.
        path: Its path.
        span: The span that is current meanwhile, ``None`` if that does not change.

    Attributes:
        is_sending: False once the response headers have arrived.
    """

    __slots__ = ("_request_token", "_span_token", "host", "is_sending", "path")

    def __init__(self, host: str, path: str, span: Span | None) -> None:
        self.host = host
        self.path = path
        self.is_sending = True
        self._request_token: Any = _current.set(self)
        self._span_token: Any = None if span is None else otel_context.attach(trace.set_span_in_context(span))

    def end(self) -> None:
        """Note that the response headers have arrived, or that the request has failed."""
        # Tasks that were started meanwhile have a copy of the context, and keep this object.
        self.is_sending = False
        request_token, span_token = self._request_token, self._span_token
        self._request_token = self._span_token = None
        try:
            if span_token is not None:
                _detach_silently(span_token)
            _current.reset(request_token)
        except ValueError:
            # A coroutine was closed in another context than the context of the start, which is gone.
            pass


_current: Final[ContextVar[InFlight | None]] = ContextVar("byline_in_flight", default=None)


def is_in_flight(host: str, path: str) -> bool:
    """Return whether a hooked client around this one is sending a request to the same host and path."""
    current = _current.get()
    return current is not None and current.is_sending and current.host == host and current.path == path


def _detach_silently(token: Any) -> None:
    # otel_context.detach() logs a traceback if the context is another one.
    runtime_context = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    if runtime_context is None:
        otel_context.detach(token)
    else:
        runtime_context.detach(token)
