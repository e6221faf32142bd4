"""The trace view: a request's spans as a gateway would export them, trace → step → generation.

The app's own traces follow W3C trace context. The caller's ``trace.trace_id`` names the trace in the trace view, so
that all requests with one such id become one trace.
"""

from __future__ import annotations

import hashlib
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal

from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext

from byline.attribution import Attribution, to_span_id, to_trace_id
from byline.export.span_copy import SpanCopy, make_span_context
from byline.genai import attributes as names
from byline.genai.classify import OWN_SCOPE
from byline.genai.span_state import SpanState
from byline.request_spans import RequestSpans
from byline.settings import SettingError

Traces = Literal["request", "call"]
CallerSpans = Literal["auto", "here", "elsewhere"]
Root = bool | Literal["auto"]

_MAX_STEPS: Final = 10_000
_MAX_FIRST_REQUESTS: Final = 10_000
_MAX_HELD: Final = 2048
#: Seconds that a step waits for the end of its request after the last span of the step.
_TIMEOUT: Final = 300.0
#: The same if the server span has ended, but is not exported to this destination.
_TIMEOUT_AFTER_END: Final = 10.0
#: Seconds that the only top-level span of a request waits for another one.
_TIMEOUT_ALONE: Final = 60.0
#: The names of roots of requests without a route, and of jobs.
_ROOT_NAME: Final = "request"
_JOB_NAME: Final = "job"
_SCOPE: Final = InstrumentationScope(OWN_SCOPE)


def validate_traces(traces: Traces, spans: object) -> Traces:
    """Return the setting. Raises `SettingError` ``byline.E056`` if it cannot be used."""
    if traces not in ("request", "call"):
        raise SettingError("byline.E056", f"traces={traces!r}", 'pass "request" or "call"')
    if traces == "call" and spans == "all":
        raise SettingError("byline.E056", 'traces="call" leaves the app\'s spans out', 'pass spans="llm" with it')
    return traces


def validate_caller_spans(caller_spans: CallerSpans) -> CallerSpans:
    """Return the setting. Raises `SettingError` ``byline.E100`` if it cannot be used."""
    if caller_spans not in ("auto", "here", "elsewhere"):
        problem = f"caller_spans={caller_spans!r}"
        raise SettingError("byline.E100", problem, 'pass "auto", "here" or "elsewhere" to the destination')
    return caller_spans


def validate_root(root: Any) -> Root:
    """Return the setting. Raises `SettingError` ``byline.E150`` if it cannot be used."""
    if root == "auto":
        return "auto"
    if isinstance(root, bool):
        return root
    raise SettingError("byline.E150", f"root is another {type(root).__name__}", 'pass "auto", True or False')


class _Step:
    __slots__ = ("last_used", "root", "span_copy")

    def __init__(self, span_copy: SpanCopy, root: RequestSpans | None) -> None:
        self.span_copy = span_copy
        self.root = root
        self.last_used = time.monotonic()

    def is_overdue(self, now: float) -> bool:
        if self.root is not None and self.root.context_released():
            return True
        ended = self.root is None or self.root.server_span_ended()
        return now - self.last_used > (_TIMEOUT_AFTER_END if ended else _TIMEOUT)


class _Top:
    """The top-level spans of one request in one trace.

    Attributes:
        request: The spans of the request; ``None`` once it is known whether there is a root.
        alone: The first of them, which waits for another one.
        root: The root above them, once there is one.
        root_context: Its context, which is known longer.
    """

    __slots__ = ("alone", "last_used", "request", "root", "root_context")

    def __init__(self, request: RequestSpans) -> None:
        self.request: RequestSpans | None = request
        self.alone: SpanCopy | None = None
        self.root: SpanCopy | None = None
        self.root_context: SpanContext | None = None
        self.last_used = time.monotonic()

    def is_overdue(self, now: float) -> bool:
        waited = now - self.last_used
        if self.request is not None:
            ended = waited > _TIMEOUT_AFTER_END and self.request.server_span_ended()
            if ended or self.request.context_released():
                return True
        return waited > (_TIMEOUT_ALONE if self.root is None else _TIMEOUT)


class _FirstRequest:
    """The request that was first exported to a trace, and whether it states a release and a version."""

    __slots__ = ("root", "states_release", "states_version")

    def __init__(self, root: RequestSpans) -> None:
        self.root = weakref.ref(root)
        self.states_release = False
        self.states_version = False


class TraceView:
    """Places the spans of one destination in their trace.

    Args:
        will_export: Whether a span is, or will be, exported to this destination.
        destination_id: The destination, see `byline.export.decisions.ExportDecisions`.
        traces: ``"request"`` uses the caller's trace, else the app's; ``"call"`` makes a trace of each call
            without an exported LLM span above it, if the caller names no trace.
        whole: Whether the app's own spans are exported, so that remote parents stay parents.
        caller_spans: Whether remote parents are exported to the same place.
        is_langfuse: Whether spans go to Langfuse, where the root of a trace gives the trace its name, input and output.
        root: Whether a root is made above the top-level LLM spans of a request, if neither the server span nor a step
            is the root: ``"auto"`` if there are several such spans, ``True`` also above a single one.
    """

    def __init__(
        self,
        will_export: Callable[[SpanState], bool],
        destination_id: int,
        *,
        traces: Traces = "request",
        whole: bool = False,
        caller_spans: CallerSpans = "auto",
        is_langfuse: bool = False,
        root: Root = "auto",
    ) -> None:
        self._destination_id = destination_id
        self._will_export = will_export
        self._traces = traces
        self._whole = whole
        self._caller_spans = caller_spans
        self._is_langfuse = is_langfuse
        self._root = root
        self._tops: OrderedDict[_Top, None] = OrderedDict()
        self._first_requests: OrderedDict[int, _FirstRequest] = OrderedDict()
        self._open_steps: OrderedDict[int, _Step] = OrderedDict()
        self._finished_steps: OrderedDict[int, None] = OrderedDict()

    def place(self, span_copy: SpanCopy) -> list[SpanCopy]:
        """Give a span its exported trace id, and a parent that is exported to the same trace.

        Returns:
            The span, or none if the span waits here, or the span and another one that waited.
        """
        attribution, state = span_copy.attribution, span_copy.state
        app_trace_id = span_copy.context.trace_id
        caller_trace_id = attribution.trace_id
        trace_id = self._target_trace_id(state, caller_trace_id, app_trace_id, span_copy.context.span_id)
        if state is not None:
            # Children that end later are placed in the same trace.
            state.place(self._destination_id, trace_id)
        if trace_id != app_trace_id:
            span_copy.attributes.setdefault(names.APP_TRACE_ID, f"{app_trace_id:032x}")
            span_copy.links = [_move_link(link, app_trace_id, trace_id) for link in span_copy.links]
        if attribution.generation_name and span_copy.is_model_call:
            span_copy.name = attribution.generation_name
        ancestor = self._nearest_exported(state, trace_id)
        request_spans = None if state is None else state.request_spans
        root = None if request_spans is None else request_spans.root
        is_named = bool(caller_trace_id) and to_trace_id(caller_trace_id or "") == trace_id
        first = self._first_request(trace_id, root, attribution) if is_named and root is not None else None
        if self._is_langfuse and root is not None:
            span_copy.is_guest = self._is_guest(attribution, root, trace_id, first)
        if ancestor is None:
            parent = self._outer_parent(span_copy, root, trace_id, first, is_named=is_named)
        else:
            parent = make_span_context(trace_id, ancestor.span_id)
        if attribution.span_name and _belongs_to_step(span_copy, ancestor):
            parent = self._step(span_copy, trace_id, parent)
            span_copy.starts_trace = False
        span_copy.context = make_span_context(trace_id, span_copy.context.span_id, like=span_copy.context)
        span_copy.parent = parent
        if root is None or not _contains_llm_span(span_copy):
            return [span_copy]
        is_server_span = span_copy.is_server_span
        span_copy.is_root = parent is None or span_copy.starts_trace or is_server_span
        if parent is not None or is_server_span or not self._may_get_root(span_copy, root):
            return [span_copy]
        return self._place_top(span_copy, root)

    def _may_get_root(self, span_copy: SpanCopy, root: RequestSpans) -> bool:
        """Return whether a root may be made above a top-level span of a request."""
        if self._root is False or (self._traces == "call" and not span_copy.attribution.trace_id):
            return False
        parent = root.remote_parent or _remote_parent_of_job(span_copy, root)
        if parent is not None and parent.trace_id == span_copy.context.trace_id:
            # The trace has a root in another process.
            return False
        # A part of a job may work for another user than the next part.
        return _owner(span_copy.attribution) == _owner(root.attribution)

    @property
    def holds_spans(self) -> bool:
        """Whether a span, a step or a root waits for the end of its request."""
        return bool(self._open_steps or self._tops)

    def finish_request(self, root: RequestSpans, start: int | None, end: int | None) -> list[SpanCopy]:
        """Return the steps and the root of a request whose server span has ended, and the span that waited alone."""
        finished = self._finish_steps(root, start, end)
        if self._tops:
            tops = [trace.tops.get(self._destination_id) for trace in [*root.traces.values()]]
            finished += [self._finish_top(top, start, end) for top in tops if top is not None and top in self._tops]
        return finished

    def _finish_steps(self, root: RequestSpans, start: int | None, end: int | None) -> list[SpanCopy]:
        ended = [(step_id, step.span_copy.name) for step_id, step in self._open_steps.items() if step.root is root]
        # The step of a `byline.bound` part lasts from its first span to its last, the request's own for all of it.
        whole, part = (start, end), (None, None)
        request_step = root.attribution.span_name
        return [self._finish_step(step_id, *(whole if name == request_step else part)) for step_id, name in ended]

    def finish_overdue(self, *, everything: bool = False, flushing: bool = False) -> list[SpanCopy]:
        """Return the steps and roots whose request has sent no span for long, and spans that waited alone for long.

        Args:
            everything: Return all of them.
            flushing: Return all spans that wait alone, because somebody waits for the export.
        """
        if not self.holds_spans:
            return []
        now = time.monotonic()
        excess = len(self._tops) - _MAX_HELD
        overdue_tops = [
            top
            for number, top in enumerate(self._tops)
            if everything or number < excess or (flushing and top.root is None) or top.is_overdue(now)
        ]
        finished = [self._finish_top(top, None, None) for top in overdue_tops]
        return [*self._overdue_steps(now, everything=everything), *finished]

    def _overdue_steps(self, now: float, *, everything: bool) -> list[SpanCopy]:
        excess = len(self._open_steps) - _MAX_STEPS
        overdue = [
            step_id
            for number, (step_id, step) in enumerate(self._open_steps.items())
            if everything or number < excess or step.is_overdue(now)
        ]
        return [self._finish_step(step_id, None, None) for step_id in overdue]

    def _target_trace_id(
        self, state: SpanState | None, caller_trace_id: str | None, app_trace_id: int, span_id: int
    ) -> int:
        if state is not None and self._destination_id in state.exported_trace_ids:
            # The span, or one of its children, was already exported into this trace.
            return state.exported_trace_ids[self._destination_id]
        if caller_trace_id:
            return to_trace_id(caller_trace_id)
        refused_by = _request_that_refuses(state, app_trace_id)
        if refused_by is not None:
            # A stranger has chosen the app's trace id, and may have chosen that of another request.
            first = refused_by.first_span
            return to_trace_id(refused_by.trace_key if first is not None else f"{app_trace_id:032x}{span_id:016x}")
        if self._traces == "call":
            top = span_id if state is None else self._outermost_exported(state).span_id
            return to_trace_id(f"{app_trace_id:032x}{top:016x}")
        return app_trace_id

    def _outermost_exported(self, state: SpanState) -> SpanState:
        outermost = state
        ancestor = state.parent
        while ancestor is not None:
            if ancestor.trace_id == state.trace_id and self._will_export(ancestor):
                outermost = ancestor
            ancestor = ancestor.parent
        return outermost

    def _nearest_exported(self, state: SpanState | None, trace_id: int) -> SpanState | None:
        ancestor = None if state is None else state.parent
        while ancestor is not None:
            if self._will_export(ancestor):
                request_spans = ancestor.request_spans
                caller_trace_id = None if request_spans is None else request_spans.attribution.trace_id
                target = self._target_trace_id(ancestor, caller_trace_id, ancestor.trace_id, ancestor.span_id)
                if target != trace_id:
                    return None
                ancestor.place(self._destination_id, trace_id)
                return ancestor
            ancestor = ancestor.parent
        return None

    def _outer_parent(
        self,
        span_copy: SpanCopy,
        root: RequestSpans | None,
        trace_id: int,
        first: _FirstRequest | None,
        *,
        is_named: bool,
    ) -> SpanContext | None:
        """Return the parent of a span that is no child of an exported span of this process."""
        attribution = span_copy.attribution
        parent_id = attribution.parent_span_id
        if parent_id and (is_named or (not attribution.trace_id and trace_id == span_copy.context.trace_id)):
            # In a trace that nobody else writes to, the span is the outermost one all the same.
            span_copy.starts_trace = not is_named and (root is None or root.remote_parent is None)
            return make_span_context(trace_id, to_span_id(parent_id))
        if root is not None and self._is_below_caller(root, trace_id):
            return root.remote_parent
        if is_named:
            # In Langfuse each root of a trace replaces name, input and output of the trace. A span whose parent is
            # missing replaces nothing, and is shown beside the roots.
            is_later = first is not None and first.root() is not root and not attribution.trace_name
            return make_span_context(trace_id, to_span_id(f"byline {trace_id:032x}")) if is_later else None
        parent = span_copy.parent
        if not self._whole or parent is None:
            return None
        if trace_id != parent.trace_id and _request_that_refuses(span_copy.state, parent.trace_id) is not None:
            if parent.is_remote:
                span_copy.links = [*span_copy.links, Link(parent)]
            return None
        if parent.is_remote:
            # The caller exports its own span, unless the caller's sampler has dropped it.
            return parent if parent.trace_flags.sampled and self._caller_spans != "elsewhere" else None
        # A local parent without a state was dropped by the sampler.
        return parent if span_copy.state is None else None

    def _is_below_caller(self, root: RequestSpans, trace_id: int) -> bool:
        """Return whether the caller of a request exports its span to the same trace of the same backend."""
        parent = root.remote_parent
        if parent is None or parent.trace_id != trace_id or not parent.trace_flags.sampled:
            return False
        if self._caller_spans == "auto":
            return self._is_langfuse and root.is_below_langfuse
        return self._caller_spans == "here"

    def _first_request(self, trace_id: int, root: RequestSpans, attribution: Attribution) -> _FirstRequest | None:
        """Return the first request that was exported to a trace which callers name.

        Only what it has stated is known, and no value of it: the trace id is chosen by callers, so that a request
        may name another caller's trace.
        """
        if not self._is_langfuse:
            return None
        first = self._first_requests.get(trace_id)
        if first is None:
            first = self._first_requests[trace_id] = _FirstRequest(root)
            while len(self._first_requests) > _MAX_FIRST_REQUESTS:
                self._first_requests.popitem(last=False)
        else:
            self._first_requests.move_to_end(trace_id)
        if first.root() is root:
            first.states_release |= attribution.release is not None
            first.states_version |= attribution.version is not None
        return first

    def _is_guest(
        self, attribution: Attribution, root: RequestSpans, trace_id: int, first: _FirstRequest | None
    ) -> bool:
        """Return whether release and version of the trace are somebody else's: the caller's, or an earlier request's.

        Values that all spans of this process state, such as the default release, are equal in each request.
        """
        if self._is_below_caller(root, trace_id):
            return True
        if first is None:
            parent = root.remote_parent
            return bool(attribution.parent_span_id) and parent is not None and parent.trace_id == trace_id
        if first.root() is root:
            return False
        return (first.states_release and attribution.release is None) or (
            first.states_version and attribution.version is None
        )

    def _place_top(self, span_copy: SpanCopy, request: RequestSpans) -> list[SpanCopy]:
        """Place a span without an exported parent below the root of its request, if that has or gets one."""
        trace_id = span_copy.context.trace_id
        tops = request.in_trace(trace_id).tops
        top: _Top | None = tops.get(self._destination_id)
        if top is not None and top.request is None:
            # The request is over, or its first span could not wait.
            if top.root_context is not None:
                _place_below(span_copy, top.root_context)
            return [span_copy]
        if request.has_steps:
            # The step is the root.
            return [span_copy] if top is None else [span_copy, self._finish_top(top, None, None)]
        if top is None:
            top = tops[self._destination_id] = _Top(request)
            self._tops[top] = None
            if self._root == "auto":
                top.alone = span_copy
                return []
        top.last_used = time.monotonic()
        self._tops.move_to_end(top)
        waited, top.alone = top.alone, None
        placed = [span_copy] if waited is None else [waited, span_copy]
        if top.root is None:
            top.root_context = make_span_context(trace_id, _made_span_id(request.trace_key, trace_id, ""))
            top.root = _make_root(placed[0], top.root_context, request)
        for each in placed:
            _extend(top.root, each.start_time, each.end_time)
            _place_below(each, top.root.context)
        return placed

    def _finish_top(self, top: _Top, start: int | None, end: int | None) -> SpanCopy:
        """Return the root of a request, or its only top-level span, which needs no root."""
        del self._tops[top]
        request, alone, root = top.request, top.alone, top.root
        # Later spans need the context of the root alone.
        top.request = top.alone = top.root = None
        if root is None or request is None:
            assert alone is not None  # noqa: S101
            return alone
        _extend(root, start, end)
        # The body that the app has read late may name the trace.
        root.attribution = request.attribution
        fallback = _ROOT_NAME if request.has_server_span else _JOB_NAME
        root.name = root.attribution.trace_name or request.route or fallback
        return root

    def _step(self, span_copy: SpanCopy, trace_id: int, parent: SpanContext | None) -> SpanContext:
        name = span_copy.attribution.span_name or ""
        request_spans = None if span_copy.state is None else span_copy.state.request_spans
        root = None if request_spans is None else request_spans.root
        if request_spans is None:
            key = f"{span_copy.context.trace_id:032x}"
        else:
            # Not changed by users that the part gets to know later: they are no other users.
            part = request_spans.in_trace(trace_id)
            key = part.step_key = part.step_key or _step_key(request_spans, span_copy.attribution)
        step_id = _made_span_id(key, trace_id, name)
        context = make_span_context(trace_id, step_id)
        if step_id in self._finished_steps:
            return context
        step = self._open_steps.get(step_id)
        if step is None:
            step_copy = SpanCopy(
                name,
                context,
                parent=parent,
                attributes={names.STEP_NAME: name},
                start_time=span_copy.start_time,
                end_time=span_copy.end_time,
                resource=span_copy.resource,
                scope=_SCOPE,
                state=span_copy.state,
                attribution=span_copy.attribution,
            )
            step_copy.is_guest, step_copy.starts_trace = span_copy.is_guest, span_copy.starts_trace
            step_copy.is_root = parent is None or step_copy.starts_trace
            if names.APP_TRACE_ID in span_copy.attributes:
                step_copy.attributes[names.APP_TRACE_ID] = span_copy.attributes[names.APP_TRACE_ID]
            step = self._open_steps[step_id] = _Step(step_copy, root)
        _extend(step.span_copy, span_copy.start_time, span_copy.end_time)
        step.span_copy.attribution = span_copy.attribution
        step.last_used = time.monotonic()
        self._open_steps.move_to_end(step_id)
        return context

    def _finish_step(self, step_id: int, start: int | None, end: int | None) -> SpanCopy:
        step = self._open_steps.pop(step_id)
        self._finished_steps[step_id] = None
        while len(self._finished_steps) > _MAX_STEPS:
            self._finished_steps.popitem(last=False)
        _extend(step.span_copy, start, end)
        return step.span_copy


def _request_that_refuses(state: SpanState | None, trace_id: int) -> RequestSpans | None:
    """Return the request of a span if the request must not be filed under this trace."""
    request_spans = None if state is None else state.request_spans
    root = None if request_spans is None else request_spans.root
    return root if root is not None and root.refused_trace_id == trace_id else None


def _belongs_to_step(span_copy: SpanCopy, ancestor: SpanState | None) -> bool:
    """Return whether a span is a direct child of the step: it is or contains an LLM span, and is not the server span.

    Only the server span may be above it.
    """
    state = span_copy.state
    request_spans = None if state is None else state.request_spans
    is_top = ancestor is None or (
        request_spans is not None and request_spans.root.is_server_span(ancestor.span_context)
    )
    return is_top and not span_copy.is_server_span and _contains_llm_span(span_copy)


def _contains_llm_span(span_copy: SpanCopy) -> bool:
    state = span_copy.state
    if span_copy.is_llm or (state is not None and state.has_llm_descendant):
        return True
    # LLM spans in threads without a current span are not below the server span.
    request_spans = None if state is None else state.ends_request
    return request_spans is not None and request_spans.has_llm_spans


def _remote_parent_of_job(span_copy: SpanCopy, root: RequestSpans) -> SpanContext | None:
    """Return the remote parent of the outermost span of a job, which has no server span."""
    outermost = span_copy.state
    while outermost is not None and outermost.parent is not None:
        outermost = outermost.parent
    if root.has_server_span or outermost is None or outermost.span is None:
        return None
    parent = outermost.span.parent
    return parent if parent is not None and parent.is_remote else None


def _step_key(part: RequestSpans, attribution: Attribution) -> str:
    """Return a key for the steps of a part of a request.

    The parts of a job may work for several users under one name; each step shows the conversation of its own user.
    """
    root, owner = part.root, _owner(attribution)
    is_for_another = part is not root and owner != _owner(root.attribution)
    return f"{root.trace_key}:{owner!r}" if is_for_another else root.trace_key


def _owner(attribution: Attribution) -> tuple[str | None, ...]:
    """Return for whom a part of a request works."""
    return attribution.organization_id, attribution.user_id, attribution.session_id


def _made_span_id(key: str, trace_id: int, name: str) -> int:
    """Return the id of a step, or of the root for an empty name: the same for all spans of a request."""
    digest = hashlib.sha256(f"{key}:{trace_id:032x}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") or 1


def _make_root(first: SpanCopy, context: SpanContext, request: RequestSpans) -> SpanCopy:
    root = SpanCopy(
        _ROOT_NAME,
        context,
        start_time=first.start_time,
        end_time=first.end_time,
        resource=first.resource,
        scope=_SCOPE,
        state=first.state,
        attribution=request.attribution,
    )
    root.is_root, root.is_guest = True, first.is_guest
    if names.APP_TRACE_ID in first.attributes:
        root.attributes[names.APP_TRACE_ID] = first.attributes[names.APP_TRACE_ID]
    return root


def _place_below(span_copy: SpanCopy, root: SpanContext) -> None:
    span_copy.parent = root
    span_copy.is_root = False


def _move_link(link: Link, app_trace_id: int, trace_id: int) -> Link:
    """Return a link within the app's trace so that it leads to the exported trace."""
    if link.context.trace_id != app_trace_id:
        return link
    return Link(make_span_context(trace_id, link.context.span_id, like=link.context), link.attributes)


def _extend(span_copy: SpanCopy, start: int | None, end: int | None) -> None:
    if start is not None:
        span_copy.start_time = min(start, span_copy.start_time or start)
    if end is not None:
        span_copy.end_time = max(end, span_copy.end_time or end)
