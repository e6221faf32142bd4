"""Re-entrancy guard: a request that is seen in one client is not counted again in the client below."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Span


class InFlight:
    """A request that a hooked client is sending.

    Attributes:
        is_sending: False once the response headers have arrived.
    """

    __slots__ = ("host", "is_sending", "path")

    def __init__(self, host: str, path: str) -> None:
        self.host = host
        self.path = path
        self.is_sending = True


_current: Final[ContextVar[InFlight | None]] = ContextVar("byline_in_flight", default=None)


def is_in_flight(host: str, path: str) -> bool:
    """Return whether a hooked client around this one is sending a request to the same host and path."""
    current = _current.get()
    return current is not None and current.is_sending and current.host == host and current.path == path


@contextmanager
def in_flight(host: str, path: str, span: Span | None) -> Iterator[None]:
    """Mark a request as in flight, and make the span current if there is one."""
    request = InFlight(host, path)
    request_token = _current.set(request)
    span_token = None if span is None else otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        # Tasks that were started meanwhile have a copy of the context, and keep the request.
        request.is_sending = False
        # ValueError: a coroutine was closed in another context than the context of the start, which is gone.
        with suppress(ValueError):
            if span_token is not None:
                _detach_silently(span_token)
            _current.reset(request_token)


def _detach_silently(token: Any) -> None:
    # otel_context.detach() logs a traceback if the context is another one.
    runtime_context = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    if runtime_context is None:
        otel_context.detach(token)
    else:
        runtime_context.detach(token)
