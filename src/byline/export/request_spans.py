"""The requests that spans belong to: what is known of each, and of each part that was bound anew."""

from __future__ import annotations

import weakref
from typing import Any, Final

from byline.attribution import EMPTY, Attribution
from byline.export.per_trace import PerTrace, TraceValue
from byline.fork import fork_safe_lock
from byline.request_context import RequestContext

#: By the id of the app span with which a request is over.
by_server_span_id: Final[dict[int, weakref.KeyedRef[int, RequestSpans]]] = {}

_lock: Final = fork_safe_lock()


class RequestSpans:
    """All spans of one record, i.e. of one request, or of a part of it that was bound anew.

    Attributes:
        attribution: What was known of it when its latest span ended.
        past: What was known before that.
        settled: Whether the whole of the request had come in by then.
        above: The family of what it is a part of.
        root: The family of the whole request.
        app_span_id: The id of the request's app span, 0 where it has none.
        steps: Whether it, or a part of it, is a step of its trace.
        number: A number of its own within the request's trace, the same for all its spans.
        said: What its own spans say of their traces beyond that, by attribute.
        shared: What all spans of the request say of them, where they agree; of the whole request alone.
        sampled_by: What its first span of a trace was sampled by, for a session may be bound later.
        exchanges: What was asked first and answered last in a trace, and when.
    """

    __slots__ = (
        "__weakref__",
        "_app_span",
        "_owner",
        "above",
        "app_span_id",
        "attribution",
        "exchanges",
        "number",
        "past",
        "root",
        "said",
        "sampled_by",
        "settled",
        "shared",
        "steps",
    )

    def __init__(self, owner: RequestContext) -> None:
        self._owner = weakref.ref(owner)
        self.attribution: Attribution = EMPTY
        self.past: tuple[Attribution, ...] = ()
        self.settled = False
        around = owner.parent
        self.above: RequestSpans | None = None if around is None else spans_of_request(around)
        self.root: RequestSpans = self if self.above is None else self.above.root
        self.app_span_id = 0
        self.steps = False
        self.number = ""
        self.said: PerTrace[Any] = PerTrace()
        self.shared: PerTrace[TraceValue] = PerTrace()
        self.sampled_by: PerTrace[str] = PerTrace()
        self.exchanges: PerTrace[tuple[int, Any]] = PerTrace()
        app_span = owner.app_span
        self._app_span: weakref.ref[Any] | None = None
        if self.root is self and app_span is not None and app_span.is_recording():
            context = app_span.get_span_context()
            self.app_span_id = context.span_id
            self.number = f"{context.trace_id:032x}{context.span_id:016x}"
            self._app_span = weakref.ref(app_span)

    def is_over(self) -> bool:
        """Whether the request's app span has ended, wherever that is exported."""
        app_span = None if self._app_span is None else self._app_span()
        return app_span is None or not app_span.is_recording()

    def is_early(self) -> bool:
        """Whether the app is still to read what its request says."""
        return not self.settled and not self.is_over() and self._owner() is not None

    def is_gone(self) -> bool:
        """Whether it is over and has no app span with which it ends: a job's record is let go with the job."""
        return not self.app_span_id and self._owner() is None

    def learn(self) -> None:
        """Take note of what is known of the request by now."""
        if self.above is not None:
            self.above.learn()
        owner = self._owner()
        if owner is None:
            return
        known = owner.attribution()
        if not self.settled:
            self.settled = owner.has_come()
        if known is not self.attribution:
            if self.attribution and known != self.attribution:
                self.past = (*self.past[-4:], self.attribution)
            self.attribution = known
            if known.span_name:
                self.root.steps = True


def spans_of_request(owner: RequestContext) -> RequestSpans:
    """Return the family of a record."""
    family: RequestSpans | None = owner.family
    if family is not None:
        return family
    made = RequestSpans(owner)
    with _lock:
        # Another thread of the request may have been faster.
        family = owner.family
        if family is None:
            family = owner.family = made
            if made.app_span_id:
                by_server_span_id[made.app_span_id] = weakref.KeyedRef(made, _forget, made.app_span_id)
    return family


def _forget(
    reference: weakref.KeyedRef[int, RequestSpans],
    kept: dict[int, weakref.KeyedRef[int, RequestSpans]] = by_server_span_id,
) -> None:
    # By an argument of its own, for when the interpreter ends the names of modules go first.
    kept.pop(reference.key, None)
