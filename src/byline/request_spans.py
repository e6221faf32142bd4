"""The values that the spans of one request share, kept while its spans wait for export."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from byline.attribution import EMPTY, Attribution
from byline.fork import fork_safe_lock
from byline.inbound.request import langfuse_trace_id

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext

    from byline.request_context import RequestContext, UsageTotals

#: A job may never end, with one trace for each of its items.
_MAX_TRACES: Final = 500
_lock: Final = fork_safe_lock()


class RequestSpans:
    """All spans of one request, or of one part of the request that `byline.bound` made.

    The request context is held weakly: spans that wait for export keep neither the body nor the scope of
    their request in memory. `refresh` copies the attribution while the context lives.

    Attributes:
        attribution: The attribution when the latest span ended.
        previous_attributions: Up to five earlier attributions, the latest last.
        is_complete: Whether the whole request, body included, had been read by then.
        parent: The spans of the request that this part belongs to.
        expires_at: When work that starts is no longer work of the request, see `RequestContext.expires_at`.
        remote_parent: The caller's span, if the server span is a child of one.
        is_below_langfuse: Whether the caller says that this is a span of Langfuse's SDK.
        has_steps: Whether the request, or a part of it, names a step of its trace.
        first_span: The context of the server span; without a server span, that of the first span.
        has_llm_spans: Whether an LLM span of the request has ended; counted on `root`.
        route: Method and route of the request, such as ``POST /chat``; ``None`` before the first LLM span has ended.
        usage: The usage totals of the request, ``None`` without calls.
        call_spans: The spans of model calls of this part, see `byline.genai.call_spans`.
        traces: The values that the spans share in each of their traces, the latest 500 traces.
        version: A number that grows with each change of a shared value; counted on `root`.
        exported_attributes: An attribution, and the attributes that are made of it for export.
        is_identified: Whether the middleware has an identity function or is in its public mode.
        vouched: The part of the attribution that the app states, see `RequestContext.vouched`.
        refused_trace_id: The trace of the caller that the request must not be filed under, 0 if there is none.
    """

    # Set when they change: most requests have a few spans.
    attribution: Attribution = EMPTY
    vouched: Attribution = EMPTY
    previous_attributions: tuple[Attribution, ...] = ()
    is_complete = False
    remote_parent: SpanContext | None = None
    is_below_langfuse = False
    has_steps = False
    first_span: SpanContext | None = None
    has_llm_spans = False
    route: str | None = None
    usage: UsageTotals | None = None
    call_spans: Any = None
    version = 1
    exported_attributes: tuple[Attribution, dict[str, Any]] = (EMPTY, {})
    _server_span: weakref.ref[Any] | None = None
    refused_trace_id = 0

    def __init__(self, context: RequestContext) -> None:
        self._context = weakref.ref(context)
        self._request_key = context.key
        self.is_identified = context.is_identified
        self.parent: RequestSpans | None = None if context.parent is None else context.parent.spans()
        #: Not the object itself, which would wait for the garbage collector then.
        self._root: RequestSpans | None = None if self.parent is None else self.parent.root
        self.expires_at = context.expires_at
        self.traces: dict[int, TraceValues] = {}
        if context.server_span is not None:
            self.set_server_span(context.server_span, context)

    def refresh_policy(self, context: RequestContext) -> None:
        """Note that another middleware, with a policy of its own, has taken over the request."""
        self.is_identified = context.is_identified
        if context.is_isolated and context.server_span is not None:
            self.refused_trace_id = _refused_trace_id(context.server_span)

    def set_server_span(self, server_span: Span, context: RequestContext) -> None:
        """Note the server span of the request, which may start after other spans."""
        if context.is_isolated:
            self.refused_trace_id = _refused_trace_id(server_span)
        if self.parent is not None or not server_span.is_recording():
            return
        self.first_span = server_span.get_span_context()
        self._server_span = weakref.ref(server_span)
        # byline creates spans of the SDK only, and other spans do not record.
        remote_parent: SpanContext | None = getattr(server_span, "parent", None)
        if remote_parent is not None and remote_parent.is_remote:
            request = context.request()
            self.remote_parent = remote_parent
            self.is_below_langfuse = request is not None and langfuse_trace_id(request) == remote_parent.trace_id

    @property
    def root(self) -> RequestSpans:
        """The spans of the whole request."""
        return self._root or self

    @property
    def has_server_span(self) -> bool:
        """Whether the request has a server span that records."""
        return self._server_span is not None

    def is_server_span(self, context: SpanContext) -> bool:
        """Return whether this is the context of the server span. Span ids alone may repeat in other traces."""
        first = self.first_span
        if self._server_span is None or first is None:
            return False
        return (context.span_id, context.trace_id) == (first.span_id, first.trace_id)

    @property
    def trace_key(self) -> str:
        """A text that no other request has; ids of steps are made from it.

        The ids of the first span tell processes apart. The request key tells requests apart whose caller sent the same
        trace id, if an id generator of the app repeats span ids.
        """
        span = self.first_span
        ids = "" if span is None else f"{span.trace_id:032x}{span.span_id:016x}"
        return f"{ids}{self._request_key:x}"

    def server_span_ended(self) -> bool:
        """Return whether the server span has ended, also if the request has none."""
        server_span = None if self._server_span is None else self._server_span()
        return server_span is None or not server_span.is_recording()

    def body_pending(self) -> bool:
        """Return whether the app may still read the body, which may name the trace, session and step."""
        if self.is_complete or self._context() is None:
            return False
        return self._server_span is None or not self.server_span_ended()

    def context_released(self) -> bool:
        """Return whether a job without a server span is over: its context is released with the job."""
        return self._server_span is None and self._context() is None

    def in_trace(self, trace_id: int) -> TraceValues:
        """Return the values that the spans share in a trace."""
        trace = self.traces.get(trace_id)
        if trace is None:
            with _lock:
                while len(self.traces) >= _MAX_TRACES:
                    del self.traces[next(iter(self.traces))]
                trace = self.traces.setdefault(trace_id, TraceValues())
        return trace

    def note_llm_span(self) -> None:
        """Note that an LLM span of the request has ended; by then the framework has found the route."""
        self.has_llm_spans = True
        context = self._context()
        self.route = "" if context is None else context.route_name()

    def note_change(self) -> None:
        """Increase the version of the root, because a shared value has changed."""
        with _lock:
            self.version += 1

    def is_expired(self) -> bool:
        """Return whether work that starts now is no longer work of the request."""
        return self.root.expires_at is not None and time.monotonic() > self.root.expires_at

    def refresh(self) -> None:
        """Copy the current attribution from the request context, unless that is gone."""
        if self.parent is not None:
            self.parent.refresh()
        context = self._context()
        if context is None:
            return
        current = context.attribution()
        if self.usage is None and context.has_calls:
            self.usage = context.totals
        if not self.is_complete:
            self.is_complete = context.is_complete()
        if current is not self.attribution:
            if self.attribution and current != self.attribution:
                self.previous_attributions = (*self.previous_attributions[-4:], self.attribution)
                self.root.note_change()
            self.attribution = current
            self.vouched = context.vouched()
            if current.span_name:
                self.root.has_steps = True


def _refused_trace_id(server_span: Any) -> int:
    """Return the trace that a server span has joined, 0 if the span is the root of a trace."""
    if server_span is None or (server_span.is_recording() and getattr(server_span, "parent", None) is None):
        return 0
    return int(server_span.get_span_context().trace_id)


class TraceValues:
    """The values that the spans of one request, or of a part of it, share in one trace.

    One request may belong to several traces, and one job may work for many users: a value that was stated
    for one trace must not be written onto another.

    Attributes:
        stated: Trace attributes that the part's own spans state.
        shared: Trace attributes that the spans of the whole request state; used on the root only.
        propagated: The version of the request, the trace attributes of a span, and those that it got from others.
        sampling_key: The key by which the first span was sampled.
        roots: The context of the root that a destination gets, ``None`` if it gets a single top-level span, by
            destination; see `byline.export.made_spans`.
        summaries: The first question, the last answer and the last error, see `byline.export.request_root`.
        step_key: The key of the steps of the part: another one for each user; ``None`` before the first step.
    """

    __slots__ = ("propagated", "roots", "sampling_key", "shared", "stated", "step_key", "summaries")

    def __init__(self) -> None:
        self.stated: dict[str, Any] = {}
        self.shared: dict[str, TraceValue] = {}
        self.propagated: tuple[int, list[Any], dict[str, Any]] | None = None
        self.sampling_key: str | None = None
        self.step_key: str | None = None
        self.summaries: dict[tuple[int, int], Any] = {}
        self.roots: dict[int, SpanContext | None] = {}

    def decide_sampling(self, key: str) -> str:
        """Return the key of the destination that decided first; it counts for all of them."""
        with _lock:
            self.sampling_key = self.sampling_key or key
        return self.sampling_key


class TraceValue:
    """A value and the part of the request that stated it; ``None`` once two parts state different values."""

    __slots__ = ("_stated_by", "value")

    def __init__(self, value: Any, stated_by: RequestSpans) -> None:
        self.value = value
        self._stated_by = weakref.ref(stated_by)

    @property
    def stated_by(self) -> RequestSpans | None:
        """The part of the request that stated the value, ``None`` once it is gone."""
        return self._stated_by()

    def mark_conflicting(self) -> None:
        """Stop using the value: two parts of the request disagree."""
        self.value = None
