"""Finds or creates the server span of a request, and sets the attributes that byline adds to that span."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, MutableMapping
from contextvars import Token
from typing import Any, Final, Literal

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from byline import errors, request_context, settings
from byline.genai import attributes as names
from byline.genai.attributes import context_attributes, usage_attributes
from byline.genai.fast_attributes import peek_attributes, set_attributes
from byline.genai.span_state import state_of
from byline.request_context import RequestContext
from byline.settings import SettingError

ServerSpanSetting = bool | Literal["auto"]

#: Attributes under which middlewares and frameworks keep the app that they wrap.
_WRAPPED_APP: Final = ("app", "application", "wsgi_app", "wsgi", "asgi_app", "__wrapped__", "__self__")
_MAX_DEPTH: Final = 50
#: The scope of OpenTelemetry's ASGI middleware, whose module is not imported in WSGI apps and in jobs.
_OTEL_MIDDLEWARE: Final = "opentelemetry.instrumentation.asgi"
_ALL_TYPES: Final = frozenset({"http", "websocket"})


def resolve_app_span(app_span: ServerSpanSetting | None) -> ServerSpanSetting:
    """Return the argument, the setting for ``None``. Raises `SettingError` ``byline.E016`` for any other value."""
    resolved: ServerSpanSetting = settings.resolve("app_span", app_span)
    if resolved in (True, False, "auto"):
        return resolved
    raise SettingError("byline.E016", f"app_span={app_span!r}", 'pass "auto", True or False')


def current_server_span(span: Span) -> Span | None:
    """Return the current span if it is the server span of this request, recording or not sampled.

    A local span that was not sampled counts, because another server span would undo the decision of the sampler.
    If an app calls another app in its own process, the current span belongs to the outer request.
    """
    if span is INVALID_SPAN:
        return None
    if span.is_recording():
        if getattr(span, "kind", None) is not SpanKind.SERVER:
            return None
        outer = request_context.current_context()
        return None if outer is not None and outer.root().server_span is span else span
    context = span.get_span_context()
    return span if context.is_valid and not context.is_remote and not context.trace_flags.sampled else None


def detach_ended_span() -> Token[Context] | None:
    """Detach a current span that has ended, so that the next server span joins the trace of its caller.

    Servers handle a request in the context of earlier code: of their own start, or of the request that was
    pipelined before.
    """
    span = trace.get_current_span()
    context = span.get_span_context()
    if not context.is_valid or context.is_remote or span.is_recording() or not context.trace_flags.sampled:
        return None
    return otel_context.attach(trace.set_span_in_context(INVALID_SPAN))


def detach_quietly(token: Token[Context]) -> None:
    """Detach an OpenTelemetry context, unless a driver has changed the ``contextvars`` context since the attachment.

    Such a driver drops the value with its context, and `opentelemetry.context.detach` would log an error.
    """
    with contextlib.suppress(ValueError):
        token.var.reset(token)


def created_by_otel_middleware(span: Span) -> Span | None:
    """Return the current span if OpenTelemetry's ASGI middleware has just created it."""
    scope = getattr(span, "instrumentation_scope", None)
    return span if getattr(scope, "name", None) == _OTEL_MIDDLEWARE else None


class ServerSpanDetector:
    """Finds the requests for which the app inside the middleware makes a server span itself.

    FastAPI does since 0.165, also if another app mounts it; OpenTelemetry's and Starlette's own middlewares
    may be anywhere inside; Flask and Django are instrumented from outside.
    """

    def __init__(self, app: Any) -> None:
        self._types: frozenset[str] = frozenset()
        self._mounts: list[Any] = []
        try:
            self._inspect(app)
        except Exception:
            errors.report_internal_error("server span")

    def will_create(self, scope: MutableMapping[str, Any]) -> bool:
        """Return whether the app inside makes the server span of this request."""
        if scope.get("type", "http") in self._types:
            return True
        for mount in self._mounts:
            try:
                # `matches` returns Starlette's Match: 0 no match, 1 partial, 2 full.
                if mount.matches(scope)[0].value:
                    return True
            except Exception:
                errors.report_internal_error("server span")
        return False

    def _inspect(self, app: Any) -> None:
        for inner in walk_apps(app):
            self._types |= _types_traced_by(inner)
            for route in _safe_getattr(inner, "routes") or ():
                if callable(_safe_getattr(route, "matches")) and _types_traced_by(_safe_getattr(route, "app")):
                    self._mounts.append(route)


def walk_apps(app: Any) -> Iterator[Any]:
    """Yield an app and the apps and middlewares that it wraps, as far as they can be seen."""
    seen: set[int] = set()
    pending = [app]
    while pending and len(seen) < _MAX_DEPTH:
        inner = pending.pop()
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        yield inner
        pending.extend(_safe_getattr(inner, name) for name in _WRAPPED_APP)
        # FlaskInstrumentor keeps the app in a closure.
        pending.extend(_safe_getattr(cell, "cell_contents") for cell in _safe_getattr(inner, "__closure__") or ())


def _safe_getattr(app: Any, name: str) -> Any:
    # Apps may be proxies that work within a request only, and closure cells may be empty.
    try:
        return getattr(app, name, None)
    except Exception:
        return None


def _types_traced_by(app: Any) -> frozenset[str]:
    kind = type(app)
    if kind.__name__ == "OpenTelemetryMiddleware":
        return _types_of_middleware(kind)
    if _safe_getattr(app, "_is_instrumented_by_opentelemetry") is True:
        return _ALL_TYPES
    native = _safe_getattr(app, "_native_telemetry")
    config = _safe_getattr(native, "config")
    if isinstance(config, dict) and config.get("tracing"):
        return _ALL_TYPES
    types: frozenset[str] = frozenset()
    for middleware in _safe_getattr(app, "user_middleware") or ():
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
    # Starlette's middleware makes no span for websockets.
    return frozenset({"http"}) if cls.__module__.startswith("starlette.") else _ALL_TYPES


def _is_exported_by_langfuse_sdk(span: Any) -> bool:
    """Return whether a span's provider has a span processor of Langfuse's SDK."""
    processors = getattr(getattr(span, "_span_processor", None), "_span_processors", ())
    return _has_langfuse_type(tuple(map(type, processors)))


@functools.lru_cache(maxsize=16)
def _has_langfuse_type(types: tuple[type, ...]) -> bool:
    return any(each.__module__.startswith("langfuse.") for each in types)


def add_late_totals(context: RequestContext) -> None:
    """Let destinations export the usage totals of now with the server span, which may have ended."""
    state = None if context.server_span is None else state_of(context.server_span)
    if state is not None:
        state.late_totals = usage_attributes(context.totals)


def set_request_attributes(context: RequestContext) -> None:
    """Set the attribution and the usage totals of the request on its server span, while that records."""
    span = context.server_span
    if span is None or not span.is_recording():
        return
    try:
        attribution = context.attribution()
        if attribution is context.server_span_attribution and not context.has_calls:
            # Nothing has changed since the last time.
            return
        attributes = context_attributes(context, attribution)
        if names.CONVERSATION_ID in attributes and _is_exported_by_langfuse_sdk(span):
            # The SDK would take the span for an LLM span, and send it as a root without input and output.
            attributes = {key: value for key, value in attributes.items() if key != names.CONVERSATION_ID}
        rejected = context.rejected
        if rejected:
            attributes = {**attributes, names.REJECTED: tuple(rejected)}
        if context.has_calls:
            attributes = {**attributes, **usage_attributes(context.totals)}
        if attributes:
            present, earlier = peek_attributes(span), context.server_span_attributes
            if not present.keys().isdisjoint(attributes):
                # A value that the app has set stays; a value that byline has set may be replaced.
                attributes = {
                    key: value
                    for key, value in attributes.items()
                    if key not in present or (key in earlier and earlier[key] == present[key])
                }
            set_attributes(span, attributes)
            context.server_span_attributes = {**earlier, **attributes} if earlier else attributes
        context.server_span_attribution = attribution
    except Exception:
        errors.report_internal_error("server span")
