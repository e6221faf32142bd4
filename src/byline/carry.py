"""Attribution across threads, processes, queues and services: `inject`, `extract`, `carried` and `carry`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from byline import carrier as carrier_form
from byline import request_context
from byline.attribution import EMPTY, Attribution, merge
from byline.bound import NO_SPAN, Block, Contexts, run_part
from byline.carrier import HEADER, Carried, Signing, find_signing
from byline.inbound.claim_set import ClaimSet
from byline.request_context import RequestContext

F = TypeVar("F", bound=Callable[..., Any])
Headers = Mapping[Any, Any] | Iterable[tuple[Any, Any]]

_propagator: Final = TraceContextTextMapPropagator()
_TRACEPARENT: Final = "traceparent"
_TRACESTATE: Final = "tracestate"
_READ: Final = frozenset({HEADER, _TRACEPARENT, _TRACESTATE})


def inject(carrier: MutableMapping[str, str] | list[tuple[str, bytes]]) -> None:
    """Write the attribution of the current request into the headers of a message, for `extract` and `carried`.

    Sets the header ``x-byline``, signed if ``BYLINE_SIGNING_KEY`` is set, and ``traceparent`` and ``tracestate`` (W3C
    Trace Context) unless the message has a ``traceparent``. The signature covers the current trace id. Without an
    attribution, and without a trace to sign, the ``x-byline`` of an earlier message is removed.

    Only for messages to your own services and workers: the header contains the ids of the user and the session. For
    HTTP requests, ``instrument(propagate_to=…)`` does the same by itself and for named hosts only.

    Args:
        carrier: The headers, as a mapping of text or, as Kafka's clients have them, a list of ``(text, bytes)``.

    Example:
        >>> import byline
        >>> message = {}
        >>> with byline.bound(session_id="s-1"):
        ...     byline.inject(message)
        >>> byline.extract(message).session_id
        's-1'
    """
    inject_for("", carrier)


def inject_for(purpose: str, carrier: MutableMapping[str, str] | list[tuple[str, bytes]]) -> None:
    """`inject` for receivers of a purpose, see `find_signing`."""
    present = _read_headers(carrier)
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    # Of the current span, never of the message, which somebody else may have written before.
    traceparent = headers.get(_TRACEPARENT, "")
    if _TRACEPARENT in present:
        headers = {}
    signing = find_signing(purpose)
    context = request_context.current_context()
    value = None
    if signing is not None:
        attribution, vouched, public = EMPTY, EMPTY, False
        if context is not None:
            attribution, vouched, public = context.attribution(), context.vouched(), context.has_public_origin
        value = carrier_form.encode(attribution, signing, vouched, public=public, traceparent=traceparent)
    if value is not None:
        headers[HEADER] = value
    replaced = {HEADER, *headers}
    if isinstance(carrier, list):
        carrier[:] = [(name, item) for name, item in carrier if _text(name).lower() not in replaced]
        carrier.extend((name, text.encode()) for name, text in headers.items())
        return
    # The metadata of a job may have keys of any type.
    names: list[Any] = list(carrier)
    for name in names:
        if isinstance(name, str | bytes) and _text(name).lower() in replaced:
            del carrier[name]  # type: ignore[arg-type]
    carrier.update(headers)


def extract(carrier: Headers, *, max_age: float | None = None) -> Attribution:
    """Return the attribution that `inject` wrote into the headers of a message; an empty one if there is none.

    With ``BYLINE_SIGNING_KEY``, a value that is unsigned, forged, too old, or signed for another ``BYLINE_AUDIENCE`` is
    dropped and counted in `byline.stats` as ``carry.dropped.<why>``. Without a key the value is believed: then nobody
    else must be able to write to the queue.

    Args:
        carrier: The headers, with names in any case, as a mapping or a list of pairs, as text or bytes.
        max_age: Seconds after which a signed value is too old, by default the setting ``queue_max_age`` (seven days).

    Example:
        >>> import byline
        >>> message = {"x-byline": "1.eyJzIjoicy0xIn0"}
        >>> with byline.bound(**byline.extract(message)):
        ...     byline.current().session_id
        's-1'
    """
    headers = _read_headers(carrier)
    return _checked(_read_carried(headers, find_signing() if headers else None, max_age).fields)


def _read_carried(headers: Mapping[str, str], signing: Signing | None, max_age: float | None) -> Carried:
    value = headers.get(HEADER)
    if value is None or signing is None:
        return Carried(None)
    return carrier_form.decode(value, signing, signing.queue_max_age if max_age is None else max_age)


def _checked(fields: Mapping[str, Any] | None) -> Attribution:
    """Return fields within byline's limits."""
    if not fields:
        return EMPTY
    claims = ClaimSet([])
    claims.add_app_fields(fields)
    return merge([claims])


class carried(Block):  # noqa: N801 - used like a function
    """Run a job as the request that sent its message: with the attribution that `extract` finds, in its trace.

    Only the message counts: a worker's own context, or that of a job before, does not reach into the block. Without
    an attribution in the message, as in a scheduled job, nothing is attributed until the job calls `byline.bind`. The
    spans continue the trace of ``traceparent``, unless an instrumentation has done that already. With
    ``BYLINE_SIGNING_KEY`` only the trace that the message's signature covers is continued.

    Also a decorator of functions, coroutine functions and generators, for one message.

    Args:
        carrier: The headers of the message, as for `extract`.
        max_age: Seconds after which a signed value is too old, by default the setting ``queue_max_age`` (seven days).

    Example:
        >>> import byline
        >>> message = {}
        >>> with byline.bound(session_id="s-1"):
        ...     byline.inject(message)
        >>> with byline.carried(message):
        ...     byline.current().session_id
        's-1'
    """

    #: The purpose of the signature, see `find_signing`.
    _purpose = ""
    #: Whether the trace needs a signature, if this process has a key.
    _needs_signed_trace = True
    #: Whether an instrumentation of the queue continues the trace of the message by itself.
    _trace_is_continued = False

    def __init__(self, carrier: Headers, *, max_age: float | None = None) -> None:
        super().__init__()
        self._carrier = _read_headers(carrier)
        self._max_age = max_age

    def __enter__(self) -> carried:
        self._enter()
        return self

    def _new_contexts(self) -> Contexts:
        new = RequestContext()
        signing = find_signing(self._purpose) if self._carrier else None
        found = _read_carried(self._carrier, signing, self._max_age)
        if found.fields:
            # Claims stay claims: a caller of the sender has not become a user of the worker.
            new.accept(_checked(found.fields), public=found.public)
        if found.stated:
            new.bind(found.stated)
        sender = _propagator.extract(self._carrier, NO_SPAN)
        if self._needs_signed_trace and self._carrier and (signing is None or signing.keys):
            stated = trace.get_current_span(sender).get_span_context()
            sender = _in_signed_trace(stated, found.trace)
            if found.trace and sender is NO_SPAN and stated.is_valid:
                # An instrumentation may have continued the trace, or may do so next.
                new.refuse_trace(stated.trace_id)
        if self._trace_is_continued:
            sender = NO_SPAN
        return Contexts(new, _context_of_message(sender))


def _in_signed_trace(stated: trace.SpanContext, signed: str) -> otel_context.Context:
    """Return the context of a sender's span with the flags that are signed; without a span if its trace is not."""
    trace_id, _, flags = signed.partition("-")
    if not stated.is_valid or trace_id != f"{stated.trace_id:032x}":
        return NO_SPAN
    try:
        sampling = trace.TraceFlags(int(flags, 16) & 0xFF)
    except ValueError:
        return NO_SPAN
    sender = trace.SpanContext(stated.trace_id, stated.span_id, True, sampling, stated.trace_state)
    return trace.set_span_in_context(trace.NonRecordingSpan(sender), NO_SPAN)


def _context_of_message(sender: otel_context.Context) -> otel_context.Context | None:
    """Return the OpenTelemetry context of a message, ``None`` if the current context is already that of the message."""
    sender_span = trace.get_current_span(sender).get_span_context()
    current = trace.get_current_span()
    context = current.get_span_context()
    if not context.is_valid:
        return sender if sender_span.is_valid else None
    if context.trace_id == sender_span.trace_id:
        return None
    # A span that an instrumentation made for this job; in the context of a request it would be the request's.
    return None if current.is_recording() and request_context.attached() is None else sender


def carry(function: F) -> F:
    """Return a function that runs as this request, in whichever thread or process it is called.

    For threads, executors and process pools, which do not get the context of the request by themselves. In a thread
    the call is a part of the request and adds to its totals. A call in another process, or long after the end of the
    request, is a job of its own with the same attribution and trace. For a process pool the function must be
    picklable.

    Args:
        function: A function or a coroutine function.

    Example:
        >>> import byline
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with byline.bound(session_id="s-1"), ThreadPoolExecutor() as pool:
        ...     pool.submit(byline.carry(byline.current)).result().session_id
        's-1'
    """
    runner = _CarriedCoroutine if inspect.iscoroutinefunction(function) else _CarriedFunction
    return cast("F", runner(function))


class _CarriedFunction:
    """A function with the context of a request; pickled, with the headers of a message instead."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._process = os.getpid()
        self._context = request_context.attached()
        self._otel_context = otel_context.get_current()
        self._headers: dict[str, str] = {}
        inject(self._headers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_part_of_request():
            with run_part(self._contexts()):
                return self._function(*args, **kwargs)
        with carried(self._headers):
            return self._function(*args, **kwargs)

    def _is_part_of_request(self) -> bool:
        return self._process == os.getpid() and (self._context is None or not self._context.is_expired())

    def _contexts(self) -> Contexts:
        # Without a request, the context variable is set to `None`, which is its value outside requests.
        return Contexts(cast("RequestContext", self._context), self._otel_context)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self._function, self._headers)


class _CarriedCoroutine(_CarriedFunction):
    """The same for a coroutine function."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._is_part_of_request():
            with run_part(self._contexts()):
                return await self._function(*args, **kwargs)
        with carried(self._headers):
            return await self._function(*args, **kwargs)


def _unpickle(kind: type[_CarriedFunction], function: Callable[..., Any], headers: dict[str, str]) -> _CarriedFunction:
    new = kind.__new__(kind)
    functools.update_wrapper(new, function)
    new._function, new._headers = function, headers
    new._process = 0
    return new


def _read_headers(carrier: Headers) -> dict[str, str]:
    """Return the headers that `inject` writes, names in lower case."""
    pairs = carrier.items() if isinstance(carrier, Mapping) else carrier
    found: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(name, str | bytes) or not isinstance(value, str | bytes):
            continue
        key = _text(name).lower()
        if key in _READ:
            found[key] = _text(value)
    return found


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
