"""The app span: the server span of a request, whoever made it, and what byline adds to it."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from contextvars import Token
from typing import Any, Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import INVALID_SPAN, ProxyTracerProvider, Span, SpanKind

from byline import errors, request_context
from byline.genai import attributes as names
from byline.genai import span_correlation
from byline.genai.attributes import AttributeValue, attribution_attributes
from byline.genai.fast_attributes import peek_attributes, set_attributes
from byline.request_context import RequestContext
from byline.settings import SettingError

ServerSpanSetting = bool | Literal["auto"]

_INNER: Final = ("app", "application", "wsgi_app", "wsgi", "asgi_app", "__wrapped__", "__self__")
_MAX_DEPTH: Final = 50


def validate_app_span(app_span: ServerSpanSetting) -> ServerSpanSetting:
    """Return the setting when it can be used. Raises `SettingError` ``byline.E016`` otherwise."""
    if app_span in (True, False, "auto"):
        return app_span
    raise SettingError("byline.E016", f"app_span={app_span!r}", 'pass "auto", True or False')


def current_server_span(span: Span) -> Span | None:
    """Return the current span where it is the server span of this request, recorded or sampled away.

    A local span that was sampled away is taken for it, since another one would undo the sampler's
    decision. Within another request, as when an app calls another app in its own process, the
    current span is that request's.
    """
    if span is INVALID_SPAN:
        return None
    if span.is_recording():
        if getattr(span, "kind", None) is not SpanKind.SERVER:
            return None
        around = request_context.current_context()
        return None if around is not None and around.root().app_span is span else span
    context = span.get_span_context()
    return span if context.is_valid and not context.is_remote and not context.trace_flags.sampled else None


def detach_ended_span() -> Token[Context] | None:
    """Leave a current span that has ended, so that the next one is a server span and joins its caller.

    Servers start a request in the context of whatever ran before: of their own start, or of the
    request that was pipelined before this one.
    """
    span = trace.get_current_span()
    context = span.get_span_context()
    if not context.is_valid or context.is_remote or span.is_recording() or not context.trace_flags.sampled:
        return None
    return otel_context.attach(trace.set_span_in_context(INVALID_SPAN))


def set_server_span(owner: RequestContext, span: Span | None) -> None:
    """Make a span the app span of a request, by which also raw threads find back to it."""
    owner.app_span = span
    if isinstance(span, SdkSpan) and span.is_recording():
        span_correlation.link_to_request(span, owner)


def belongs_to_request(owner: RequestContext, span: ReadableSpan) -> bool:
    """Take a server span that starts within a request, made by the app itself, for its app span.

    Returns:
        Whether it belongs to the request, as all other spans do; no second server span does: that is
        another request, which the server or the app has started in the context of this one.
    """
    if span.kind is not SpanKind.SERVER:
        return True
    if owner.app_span is not None:
        # By its id, for what ends is a copy.
        return owner.app_span.get_span_context() == span.get_span_context()
    if isinstance(span, SdkSpan):
        # Made further inside, it ends before the door can tell it all.
        owner.app_span = span
        owner.app_span_ends_first = True
    return True


def created_by_otel_middleware(span: Span) -> Span | None:
    """Return the current span where OpenTelemetry's ASGI middleware has just made it."""
    scope = getattr(span, "instrumentation_scope", None)
    return span if getattr(scope, "name", None) == OpenTelemetryMiddleware.__module__ else None


def has_tracer_provider() -> bool:
    """Whether anybody has set a tracer provider, without which there are no spans at all."""
    # The API's no-op default; asking for the provider itself would fix it for good.
    return not isinstance(trace.get_tracer_provider(), ProxyTracerProvider | trace.NoOpTracerProvider)


class ServerSpanDetector:
    """Which requests an app inside the middleware makes server spans for by itself.

    FastAPI does from 0.165 on, also where another app mounts it; OpenTelemetry's and Starlette's own
    middlewares may stand anywhere inside; Flask and Django are instrumented from outside.
    """

    def __init__(self, app: Any) -> None:
        self._types: frozenset[str] = frozenset()
        self._mounts: list[Any] = []
        try:
            self._look_into(app)
        except Exception:
            errors.report_internal_error("app span")

    def covers(self, scope: MutableMapping[str, Any]) -> bool:
        """Whether the app inside makes the server span of this request."""
        if scope.get("type", "http") in self._types:
            return True
        for mount in self._mounts:
            try:
                # Starlette's Match: 0 is none, 1 a part, 2 the whole.
                if mount.matches(scope)[0].value:
                    return True
            except Exception:
                errors.report_internal_error("app span")
        return False

    def _look_into(self, app: Any) -> None:
        seen: set[int] = set()
        waiting = [app]
        while waiting and len(seen) < _MAX_DEPTH:
            inner = waiting.pop()
            if inner is None or id(inner) in seen:
                continue
            seen.add(id(inner))
            self._types |= _types_traced_by(inner)
            for route in _get(inner, "routes") or ():
                if callable(_get(route, "matches")) and _types_traced_by(_get(route, "app")):
                    self._mounts.append(route)
            waiting.extend(_get(inner, name) for name in _INNER)
            # FlaskInstrumentor hides the app in a closure.
            waiting.extend(_get(cell, "cell_contents") for cell in _get(inner, "__closure__") or ())


def _get(app: Any, name: str) -> Any:
    # Apps may be proxies that answer only within a request, and cells may be empty.
    try:
        return getattr(app, name, None)
    except Exception:
        return None


_ALL_TYPES: Final = frozenset({"http", "websocket"})


def _types_traced_by(app: Any) -> frozenset[str]:
    kind = type(app)
    if kind.__name__ == "OpenTelemetryMiddleware":
        return _types_of_middleware(kind)
    if _get(app, "_is_instrumented_by_opentelemetry") is True:
        return _ALL_TYPES
    native = _get(app, "_native_telemetry")
    config = _get(native, "config")
    if isinstance(config, dict) and config.get("tracing"):
        return _ALL_TYPES
    types: frozenset[str] = frozenset()
    for middleware in _get(app, "user_middleware") or ():
        cls = getattr(middleware, "cls", None)
        if getattr(cls, "__name__", "") == "OpenTelemetryMiddleware":
            types |= _types_of_middleware(cls)
    if kind.__module__.startswith("django."):
        module = sys.modules.get("opentelemetry.instrumentation.django")
        instrumentor = getattr(module, "DjangoInstrumentor", None)
        if instrumentor is not None and instrumentor().is_instrumented_by_opentelemetry:
            return _ALL_TYPES
    return types


def _types_of_middleware(cls: Any) -> frozenset[str]:
    # Starlette's leaves websockets out.
    return frozenset({"http"}) if cls.__module__.startswith("starlette.") else _ALL_TYPES


def set_request_attributes(owner: RequestContext) -> None:
    """Put the request's attribution and its LLM totals onto the app span, while that still records."""
    span = owner.app_span
    if span is None or not span.is_recording():
        return
    try:
        attribution = owner.attribution()
        if attribution is owner.app_span_signed and not owner.has_calls:
            # Nothing has been learnt since the last time.
            return
        attributes: dict[str, AttributeValue] = attribution_attributes(attribution)
        rejected = owner.rejected
        if rejected:
            attributes[names.REJECTED] = tuple(rejected)
        if owner.has_calls:
            attributes.update(_usage_attributes(owner))
        if attributes:
            present, told = peek_attributes(span), owner.app_span_told
            if not attributes.keys().isdisjoint(present):
                # What the app itself has set stays; what was told earlier may have changed.
                attributes = {
                    key: value
                    for key, value in attributes.items()
                    if key not in present or (key in told and told[key] == present[key])
                }
            set_attributes(span, attributes)
            owner.app_span_told = {**told, **attributes}
        owner.app_span_signed = attribution
    except Exception:
        errors.report_internal_error("app span")


def _usage_attributes(owner: RequestContext) -> dict[str, AttributeValue]:
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
