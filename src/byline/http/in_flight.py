"""The call that a client is at work on, so that one that rests on another is seen once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Span


class InFlight:
    """A client on its way to a place.

    Attributes:
        under_way: Until the reply's headers are there.
    """

    __slots__ = ("host", "path", "under_way")

    def __init__(self, host: str, path: str) -> None:
        self.host = host
        self.path = path
        self.under_way = True


_in_flight: Final[ContextVar[InFlight | None]] = ContextVar("byline_sending", default=None)


def is_in_flight(host: str, path: str) -> bool:
    """Whether a client that is hooked is on its way to this place; another place is another call."""
    found = _in_flight.get()
    return found is not None and found.under_way and found.host == host and found.path == path


@contextmanager
def in_flight(host: str, path: str, span: Span | None) -> Iterator[None]:
    """Say that a client is at work from here on, below this span where one is given."""
    on_the_way = InFlight(host, path)
    token = _in_flight.set(on_the_way)
    within = None if span is None else otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        # A task that has copied the context still sees it.
        on_the_way.under_way = False
        # A coroutine may be closed in another context than it began in; both values die with that one.
        with suppress(ValueError):
            if within is not None:
                _detach(within)
            _in_flight.reset(token)


def _detach(token: Any) -> None:
    # OpenTelemetry's own function logs a traceback where the context is another one.
    runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    if runtime is None:
        otel_context.detach(token)
    else:
        runtime.detach(token)
