"""The spans that byline makes in the trace of a destination: the steps that callers name, and roots of requests.

A step is the parent of the LLM spans of a request, or of a part of it, whose caller has named one. A root is made above
several top-level spans of a request, if neither the server span nor a step is the root. Both have the same id for all
spans of a request, last from the first span below to the last one, and are exported after the end of the request.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Final

from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from byline.attribution import Attribution
from byline.export.span_copy import SpanCopy, make_span_context
from byline.genai import attributes as names
from byline.genai.classify import OWN_SCOPE
from byline.internal_metrics import increment
from byline.request_spans import RequestSpans

MAX_STEPS: Final = 10_000
_MAX_ROOTS: Final = 2048
#: Seconds that a step or a root waits for the end of its request after the last span below.
_TIMEOUT: Final = 300.0
#: The same if the server span has ended, but is not exported to this destination.
_TIMEOUT_AFTER_END: Final = 10.0
#: Seconds that the only top-level span of a request waits for another one.
_TIMEOUT_SINGLE: Final = 60.0
#: The names of roots of requests without a route, and of jobs.
_ROOT_NAME: Final = "request"
_JOB_NAME: Final = "job"
_SCOPE: Final = InstrumentationScope(OWN_SCOPE)


class _Step:
    __slots__ = ("last_used", "request", "span_copy")

    def __init__(self, span_copy: SpanCopy, request: RequestSpans | None) -> None:
        self.span_copy = span_copy
        self.request = request
        self.last_used = time.monotonic()

    def is_overdue(self, now: float) -> bool:
        request = self.request
        if request is not None and request.context_released():
            return True
        ended = request is None or request.server_span_ended()
        return now - self.last_used > (_TIMEOUT_AFTER_END if ended else _TIMEOUT)


class Steps:
    """The steps in the traces of one destination; true if one waits for the end of its request."""

    def __init__(self) -> None:
        self._open: OrderedDict[int, _Step] = OrderedDict()
        self._finished: OrderedDict[int, None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._open)

    def place(self, span_copy: SpanCopy, trace_id: int, parent: SpanContext | None) -> SpanContext:
        """Return the context of the step that a span belongs to; the step is made unless there is one."""
        name = span_copy.attribution.span_name or ""
        part = span_copy.request_spans
        if part is None:
            key = f"{span_copy.context.trace_id:032x}"
        else:
            # Not changed by users that the part gets to know later: they are no other users.
            values = part.in_trace(trace_id)
            key = values.step_key = values.step_key or _step_key(part, span_copy.attribution)
        step_id = _made_span_id(key, trace_id, name)
        context = make_span_context(trace_id, step_id)
        if step_id in self._finished:
            return context
        step = self._open.get(step_id)
        if step is None:
            step_copy = _make_span(name, context, span_copy, span_copy.attribution)
            step_copy.parent = parent
            step_copy.attributes[names.STEP_NAME] = name
            step_copy.starts_trace = span_copy.starts_trace
            step_copy.is_root = parent is None or step_copy.starts_trace
            step = self._open[step_id] = _Step(step_copy, None if part is None else part.root)
        step.span_copy.extend(span_copy.start_time, span_copy.end_time)
        step.span_copy.attribution = span_copy.attribution
        step.last_used = time.monotonic()
        self._open.move_to_end(step_id)
        return context

    def finish_request(self, request: RequestSpans, start: int | None, end: int | None) -> list[SpanCopy]:
        """Return the steps of a request whose server span has ended."""
        ended = [(step_id, step.span_copy.name) for step_id, step in self._open.items() if step.request is request]
        # The step of a `byline.bound` part lasts from its first span to its last, the request's own for all of it.
        whole, part = (start, end), (None, None)
        request_step = request.attribution.span_name
        return [self._finish(step_id, *(whole if name == request_step else part)) for step_id, name in ended]

    def finish_overdue(self, now: float, *, everything: bool) -> list[SpanCopy]:
        """Return the steps whose request has sent no span for long, or all of them."""
        excess = 0 if everything else len(self._open) - MAX_STEPS
        if excess > 0:
            increment("steps.over_budget", excess)
        overdue = [
            step_id
            for number, (step_id, step) in enumerate(self._open.items())
            if everything or number < excess or step.is_overdue(now)
        ]
        return [self._finish(step_id, None, None) for step_id in overdue]

    def _finish(self, step_id: int, start: int | None, end: int | None) -> SpanCopy:
        span_copy = self._open.pop(step_id).span_copy
        self._finished[step_id] = None
        while len(self._finished) > MAX_STEPS:
            self._finished.popitem(last=False)
        span_copy.extend(start, end)
        return span_copy


class _TopLevelSpans:
    """The top-level spans of one request in one trace.

    Attributes:
        held: The first of them, which waits for another one; then the root above them.
        has_root: Whether it is the root.
    """

    __slots__ = ("has_root", "held", "last_used")

    def __init__(self, first: SpanCopy) -> None:
        self.held = first
        self.has_root = False
        self.last_used = time.monotonic()

    def is_overdue(self, request: RequestSpans, now: float) -> bool:
        waited = now - self.last_used
        if request.context_released() or (waited > _TIMEOUT_AFTER_END and request.server_span_ended()):
            return True
        return waited > (_TIMEOUT if self.has_root else _TIMEOUT_SINGLE)


class MadeRoots:
    """The roots that are made in the traces of one destination; true if a root or a single top-level span waits.

    Args:
        destination_id: The destination, see `byline.export.decisions.ExportDecisions`.
        above_single: Whether a root is made above a single top-level span as well.
    """

    def __init__(self, destination_id: int, *, above_single: bool) -> None:
        self._destination_id = destination_id
        self._above_single = above_single
        #: By request and trace.
        self._open: OrderedDict[tuple[RequestSpans, int], _TopLevelSpans] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._open)

    def place(self, span_copy: SpanCopy, request: RequestSpans) -> list[SpanCopy]:
        """Place a span without an exported parent below the root of its request, if that has or gets one.

        Returns:
            The span, or none if the span waits here, or the span and another one that waited.
        """
        trace_id = span_copy.context.trace_id
        key = (request, trace_id)
        roots = request.in_trace(trace_id).roots
        top_level = self._open.get(key)
        if top_level is None and self._destination_id in roots:
            # The request is over, or its first span could not wait.
            root_context = roots[self._destination_id]
            if root_context is not None:
                _place_below(span_copy, root_context)
            return [span_copy]
        if request.has_steps:
            # The step is the root.
            return [span_copy] if top_level is None else [span_copy, self._finish(key, None, None)]
        placed = [span_copy]
        if top_level is None:
            top_level = self._open[key] = _TopLevelSpans(span_copy)
            roots[self._destination_id] = None
            if not self._above_single:
                return []
        elif not top_level.has_root:
            placed = [top_level.held, span_copy]
        if not top_level.has_root:
            context = make_span_context(trace_id, _made_span_id(request.trace_key, trace_id, ""))
            roots[self._destination_id] = context
            top_level.held, top_level.has_root = _make_span(_ROOT_NAME, context, placed[0], request.attribution), True
            top_level.held.is_root = True
        top_level.last_used = time.monotonic()
        self._open.move_to_end(key)
        for each in placed:
            top_level.held.extend(each.start_time, each.end_time)
            _place_below(each, top_level.held.context)
        return placed

    def waiting(self) -> list[SpanCopy]:
        """Return the top-level spans that wait for another one."""
        return [top_level.held for top_level in self._open.values() if not top_level.has_root]

    def finish_request(self, request: RequestSpans, start: int | None, end: int | None) -> list[SpanCopy]:
        """Return the root of a request whose server span has ended, or its only top-level span, in each trace."""
        if not self._open:
            return []
        keys = [(request, trace_id) for trace_id in [*request.traces]]
        return [self._finish(key, start, end) for key in keys if key in self._open]

    def finish_overdue(self, now: float, *, everything: bool, flushing: bool) -> list[SpanCopy]:
        """Return the roots whose request has sent no span for long, and top-level spans that waited for long.

        Args:
            now: The time, of `time.monotonic`.
            everything: Return all of them.
            flushing: Return all spans that wait for another one.
        """
        excess = len(self._open) - _MAX_ROOTS
        overdue = [
            key
            for number, (key, top_level) in enumerate(self._open.items())
            if everything
            or number < excess
            or (flushing and not top_level.has_root)
            or top_level.is_overdue(key[0], now)
        ]
        return [self._finish(key, None, None) for key in overdue]

    def _finish(self, key: tuple[RequestSpans, int], start: int | None, end: int | None) -> SpanCopy:
        """Return the root of a request, or its only top-level span, which needs no root."""
        request, top_level = key[0], self._open.pop(key)
        held = top_level.held
        if not top_level.has_root:
            return held
        held.extend(start, end)
        # The body that the app has read late may name the trace.
        held.attribution = request.attribution
        fallback = _ROOT_NAME if request.has_server_span else _JOB_NAME
        held.name = held.attribution.trace_name or request.route or fallback
        return held


def owner_of(attribution: Attribution) -> tuple[str | None, ...]:
    """Return the organization, user and session that a request, or a part of it, works for."""
    return attribution.organization_id, attribution.user_id, attribution.session_id


def _step_key(part: RequestSpans, attribution: Attribution) -> str:
    """Return a key for the steps of a part of a request.

    The parts of a job may work for several users under one name; each step shows the conversation of its own user.
    """
    root, owner = part.root, owner_of(attribution)
    is_for_another = part is not root and owner != owner_of(root.attribution)
    return f"{root.trace_key}:{owner!r}" if is_for_another else root.trace_key


def _made_span_id(key: str, trace_id: int, name: str) -> int:
    """Return the id of a step, or of the root for an empty name: the same for all spans of a request."""
    digest = hashlib.sha256(f"{key}:{trace_id:032x}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def _make_span(name: str, context: SpanContext, first: SpanCopy, attribution: Attribution) -> SpanCopy:
    """Return a new span around the first of the spans below."""
    made = SpanCopy(
        name,
        context,
        start_time=first.start_time,
        end_time=first.end_time,
        resource=first.resource,
        scope=_SCOPE,
        state=first.state,
        attribution=attribution,
    )
    made.joins_trace = first.joins_trace
    if names.APP_TRACE_ID in first.attributes:
        made.attributes[names.APP_TRACE_ID] = first.attributes[names.APP_TRACE_ID]
    return made


def _place_below(span_copy: SpanCopy, root: SpanContext) -> None:
    span_copy.parent = root
    span_copy.is_root = False
