"""What the spans of one request share, and what remains of the request while its spans wait for export."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from byline.attribution import EMPTY, Attribution
from byline.fork import fork_safe_lock

if TYPE_CHECKING:
    from byline.request_context import RequestContext

T = TypeVar("T")

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
        root: The spans of the whole request.
        server_span_id: The span id of the server span, 0 if the request has none.
        has_steps: Whether the request, or a part of it, names a step of its trace.
        trace_key: A text that is unique to this request within its trace; ids of steps are made from it.
        stated: Trace attributes that this part's own spans state, by trace.
        shared: Trace attributes that the spans of the whole request state, by trace; used on `root` only.
        sampled_by: The sampling key that the first span of a trace was decided by.
        first_and_last: What was asked first and answered last in a trace, with their times.
        call_spans: The spans of model calls of this part, see `byline.genai.call_spans`.
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_server_span",
        "attribution",
        "call_spans",
        "first_and_last",
        "has_steps",
        "is_complete",
        "parent",
        "previous_attributions",
        "root",
        "sampled_by",
        "server_span_id",
        "shared",
        "stated",
        "trace_key",
    )

    def __init__(self, context: RequestContext) -> None:
        self._context = weakref.ref(context)
        self.attribution: Attribution = EMPTY
        self.previous_attributions: tuple[Attribution, ...] = ()
        self.is_complete = False
        self.parent: RequestSpans | None = None if context.parent is None else context.parent.spans()
        self.root: RequestSpans = self if self.parent is None else self.parent.root
        self.server_span_id = 0
        self.has_steps = False
        self.trace_key = ""
        self.stated: PerTrace[Any] = PerTrace()
        self.shared: PerTrace[TraceValue] = PerTrace()
        self.sampled_by: PerTrace[str] = PerTrace()
        self.first_and_last: PerTrace[tuple[int, Any]] = PerTrace()
        self.call_spans: Any = None
        self._server_span: weakref.ref[Any] | None = None
        server_span = context.server_span
        if self.parent is None and server_span is not None and server_span.is_recording():
            span_context = server_span.get_span_context()
            self.server_span_id = span_context.span_id
            self.trace_key = f"{span_context.trace_id:032x}{span_context.span_id:016x}"
            self._server_span = weakref.ref(server_span)

    def server_span_ended(self) -> bool:
        """Return whether the server span has ended, also if the request has none."""
        server_span = None if self._server_span is None else self._server_span()
        return server_span is None or not server_span.is_recording()

    def body_pending(self) -> bool:
        """Return whether the app may still read the body, which may name the trace, session and step."""
        return not self.is_complete and not self.server_span_ended() and self._context() is not None

    def context_released(self) -> bool:
        """Return whether a job without a server span is over: its context is released with the job."""
        return not self.server_span_id and self._context() is None

    def refresh(self) -> None:
        """Copy the current attribution from the request context, unless that is gone."""
        if self.parent is not None:
            self.parent.refresh()
        context = self._context()
        if context is None:
            return
        current = context.attribution()
        if not self.is_complete:
            self.is_complete = context.is_complete()
        if current is not self.attribution:
            if self.attribution and current != self.attribution:
                self.previous_attributions = (*self.previous_attributions[-4:], self.attribution)
            self.attribution = current
            if current.span_name:
                self.root.has_steps = True


class PerTrace(Generic[T]):
    """Values by name for each trace that a request has had spans in, the latest 500 traces.

    One request may belong to several traces, and one job may work for many users: a value that was stated
    for one trace must not be written onto another.
    """

    __slots__ = ("_traces",)

    def __init__(self) -> None:
        self._traces: dict[int, dict[str, T]] = {}

    def values_of(self, trace_id: int) -> dict[str, T]:
        """Return the mutable values of a trace."""
        values = self._traces.get(trace_id)
        if values is None:
            with _lock:
                while len(self._traces) >= _MAX_TRACES:
                    del self._traces[next(iter(self._traces))]
                values = self._traces.setdefault(trace_id, {})
        return values

    def lookup(self, trace_id: int, name: str) -> T | None:
        """Return one value of a trace, ``None`` if there is none."""
        values = self._traces.get(trace_id)
        return None if values is None else values.get(name)

    def __len__(self) -> int:
        return len(self._traces)


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
