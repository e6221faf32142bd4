"""The app span: the server span of a request, whoever made it, and what byline adds to it."""

from __future__ import annotations

import sys
from typing import Any, Final, Literal

from opentelemetry import trace
from opentelemetry.trace import ProxyTracerProvider, Span, SpanKind

from byline import guard
from byline.record import Record
from byline.settings import SettingError
from byline.spans import attributes as names
from byline.spans.attributes import AttributeValue, of_attribution

AppSpan = bool | Literal["auto"]

_INNER: Final = ("app", "application", "wsgi_app", "wsgi", "asgi_app", "__wrapped__", "__self__")
_MAX_DEPTH: Final = 50


def check(app_span: AppSpan) -> AppSpan:
    """Return the setting when it can be used. Raises `SettingError` ``byline.E016`` otherwise."""
    if app_span in (True, False, "auto"):
        return app_span
    raise SettingError("byline.E016", f"app_span={app_span!r}", 'pass "auto", True or False')


def is_traced(span: Span) -> bool:
    """Whether the request already has a server span around it, recorded or sampled away.

    A span that is valid, local and not recording is one that the sampler dropped; making another
    one would undo the sampler's decision.
    """
    if span.is_recording():
        return getattr(span, "kind", None) is SpanKind.SERVER
    context = span.get_span_context()
    return context.is_valid and not context.is_remote


def is_configured() -> bool:
    """Whether anybody has set a tracer provider, without which there are no spans at all."""
    # The API's no-op default; asking for the provider itself would fix it for good.
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | trace.NoOpTracerProvider)


def traces_itself(app: Any) -> bool:
    """Whether an app that stands inside the middleware makes its own server span.

    FastAPI does from 0.165 on; OpenTelemetry's and Starlette's own middlewares may stand anywhere
    inside; Flask and Django are instrumented from outside.
    """
    seen: set[int] = set()
    waiting = [app]
    while waiting and len(seen) < _MAX_DEPTH:
        inner = waiting.pop()
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        if _is_tracer(inner):
            return True
        waiting.extend(getattr(inner, name, None) for name in _INNER)
    return False


def _is_tracer(app: Any) -> bool:
    kind = type(app)
    if kind.__name__ == "OpenTelemetryMiddleware":
        return True
    if getattr(app, "_is_instrumented_by_opentelemetry", False) is True:
        return True
    native = getattr(app, "_native_telemetry", None)
    if native is not None and getattr(native, "config", {}).get("tracing", False):
        return True
    for middleware in getattr(app, "user_middleware", None) or ():
        if getattr(getattr(middleware, "cls", None), "__name__", "") == "OpenTelemetryMiddleware":
            return True
    if kind.__module__.startswith("django."):
        module = sys.modules.get("opentelemetry.instrumentation.django")
        instrumentor = getattr(module, "DjangoInstrumentor", None)
        return bool(instrumentor is not None and instrumentor().is_instrumented_by_opentelemetry)
    return False


def enrich(owner: Record) -> None:
    """Put the request's attribution and its LLM totals onto the app span, while that still records."""
    span = owner.app_span
    if span is None or not span.is_recording():
        return
    try:
        attributes: dict[str, AttributeValue] = of_attribution(owner.attribution())
        rejected = owner.rejected
        if rejected:
            attributes[names.REJECTED] = tuple(rejected)
        if owner.has_calls:
            attributes.update(_of_totals(owner))
        if attributes:
            present = getattr(span, "attributes", None)
            if present and not attributes.keys().isdisjoint(present):
                attributes = {key: value for key, value in attributes.items() if key not in present or key in _OURS}
            span.set_attributes(attributes)
    except Exception:
        guard.report("app span")


#: What nobody but byline sets, so that a later, fuller value may replace an earlier one.
_OURS: Final = frozenset(
    {
        names.REJECTED,
        names.LLM_CALLS,
        names.LLM_INPUT_TOKENS,
        names.LLM_OUTPUT_TOKENS,
        names.LLM_COST,
        names.LLM_ERRORS,
    }
)


def _of_totals(owner: Record) -> dict[str, AttributeValue]:
    totals = owner.totals
    attributes: dict[str, AttributeValue] = {
        names.LLM_CALLS: totals.calls,
        names.LLM_INPUT_TOKENS: totals.input_tokens,
        names.LLM_OUTPUT_TOKENS: totals.output_tokens,
        names.LLM_ERRORS: totals.errors,
    }
    if totals.cost is not None:
        attributes[names.LLM_COST] = totals.cost
    return attributes
