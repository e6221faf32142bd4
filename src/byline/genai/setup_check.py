"""Warnings about a setup in which LLM spans get no attribution: each once, with the likely reason."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from byline import errors, internal_metrics, settings
from byline.genai.span_state import state_of
from byline.request_context import attached
from byline.settings import SettingError

_MAX_DEPTH: Final = 64


class InstrumentationCheck:
    """Which parts of the setup this process has done.

    Attributes:
        pending: Whether neither a request has arrived nor `byline.instrument` was called. Middlewares look at this with
            each request, and at nothing else.
        has_middleware: Whether a middleware was made.
    """

    pending = True
    has_middleware = False

    @classmethod
    def warn_if_not_instrumented(cls) -> None:
        """Log ``byline.E019`` once, unless byline is disabled."""
        cls.pending = False
        try:
            disabled = settings.find("disabled").value
        except SettingError:
            # `instrument` reports the wrong setting.
            disabled = False
        if not disabled:
            errors.warn_once(
                "absent",
                "byline.E019: a request arrived before byline.instrument() was called; its LLM spans get no "
                "attribution. Call byline.instrument() when the process starts",
            )

    @classmethod
    def report_call_without_request(cls) -> None:
        """Count an LLM call that found no request, and log ``byline.E102`` once for each reason."""
        context = attached()
        if context is not None and context.is_unbound:
            return
        internal_metrics.increment("calls.without_request")
        kind, reason, advice = cls._find_reason(is_expired=context is not None)
        errors.warn_once(
            f"without request: {kind}",
            "byline.E102: an LLM call found no request to be attributed to, because %s. To fix this, %s",
            reason,
            advice,
        )

    @classmethod
    def _find_reason(cls, *, is_expired: bool) -> tuple[str, str, str]:
        if is_expired:
            reason = "the request in which its task or thread was started ended long before, or works for others by now"
            return "expired", reason, "use byline.bound() for each job of a worker, or raise after_response"
        if not cls.has_middleware:
            advice = "add byline.asgi.AttributionMiddleware, or that of byline.wsgi; in scripts, use byline.bound()"
            return "middleware", "the app has no AttributionMiddleware", advice
        if _is_below_server_span():
            reason = "the code that makes it runs around AttributionMiddleware, e.g. in another middleware"
            advice = "make AttributionMiddleware the outermost one; in Starlette and FastAPI that is the one added last"
            return "outside", reason, advice
        if _is_own_thread():
            reason = f"the thread {threading.current_thread().name!r} does not have the context of a request"
            advice = f"wrap its function in byline.carry(), or run: {settings.install_command('threads')}"
            return "thread", reason, advice
        reason = "no request is under way: it is made at startup, in a job, or in a middleware around byline's"
        return "none", reason, "use byline.bound() in jobs, and make AttributionMiddleware the outermost middleware"


def _is_below_server_span() -> bool:
    span: Any = trace.get_current_span()
    state = state_of(span)
    for _ in range(_MAX_DEPTH):
        if getattr(span, "kind", None) is SpanKind.SERVER:
            return True
        state = None if state is None else state.parent
        if state is None:
            return False
        span = state.span
    return False


def _is_own_thread() -> bool:
    """Return whether the app has started this thread: neither the main thread nor one that runs an event loop."""
    if threading.current_thread() is threading.main_thread():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False
