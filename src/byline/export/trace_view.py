"""The trace view: a request's spans as a gateway would export them, trace → step → generation.

The app's own traces follow W3C trace context. The caller's ``trace.trace_id`` names the trace in the trace view, so
that all requests with one such id become one trace.
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal

from opentelemetry.trace import Link, SpanContext

from byline.attribution import Attribution, to_span_id, to_trace_id
from byline.export.made_spans import MadeRoots, Steps, owner_of
from byline.export.span_copy import SpanCopy, make_span_context
from byline.genai import attributes as names
from byline.genai.span_state import SpanState
from byline.request_spans import RequestSpans
from byline.settings import SettingError

Traces = Literal["request", "call"]
CallerSpans = Literal["auto", "here", "elsewhere"]
Root = bool | Literal["auto"]

_MAX_FIRST_REQUESTS: Final = 10_000


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
        self._makes_roots = root is not False
        self._first_requests: OrderedDict[int, _FirstRequest] = OrderedDict()
        self._steps = Steps()
        self._roots = MadeRoots(destination_id, above_single=root is True)

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
        request_spans = span_copy.request_spans
        root = None if request_spans is None else request_spans.root
        is_named = bool(caller_trace_id) and to_trace_id(caller_trace_id or "") == trace_id
        first = self._first_request(trace_id, root, attribution) if is_named and root is not None else None
        if self._is_langfuse and root is not None:
            span_copy.joins_trace = self._joins_trace(attribution, root, trace_id, first)
        if ancestor is None:
            parent = self._outer_parent(span_copy, root, trace_id, first, is_named=is_named)
        else:
            parent = make_span_context(trace_id, ancestor.span_id)
        if attribution.span_name and _belongs_to_step(span_copy, ancestor):
            parent = self._steps.place(span_copy, trace_id, parent)
            span_copy.starts_trace = False
        span_copy.context = make_span_context(trace_id, span_copy.context.span_id, like=span_copy.context)
        span_copy.parent = parent
        if root is None or not _contains_llm_span(span_copy):
            return [span_copy]
        is_server_span = span_copy.is_server_span
        span_copy.is_root = parent is None or span_copy.starts_trace or is_server_span
        if parent is not None or is_server_span or not self._may_get_root(span_copy, root):
            return [span_copy]
        return self._roots.place(span_copy, root)

    def _may_get_root(self, span_copy: SpanCopy, root: RequestSpans) -> bool:
        """Return whether a root may be made above a top-level span of a request."""
        if not self._makes_roots or (self._traces == "call" and not span_copy.attribution.trace_id):
            return False
        trace_id = span_copy.context.trace_id
        job_parent = None if root.remote_parent is not None else _remote_parent_of_job(span_copy, root)
        if self._is_below_caller(root, trace_id) or (job_parent is not None and job_parent.trace_id == trace_id):
            # The trace has a root in another process. Where the caller's spans go elsewhere, it has none here.
            return False
        # A part of a job may work for another user than the next part.
        return owner_of(span_copy.attribution) == owner_of(root.attribution)

    @property
    def holds_spans(self) -> bool:
        """Whether a span, a step or a root waits for the end of its request."""
        return bool(self._steps or self._roots)

    def waiting(self) -> list[SpanCopy]:
        """Return the top-level spans that wait for another one of their request."""
        return self._roots.waiting()

    def finish_request(self, root: RequestSpans, start: int | None, end: int | None) -> list[SpanCopy]:
        """Return the steps, the root and the span that waits of a request whose server span has ended."""
        return [
            *self._steps.finish_request(root, start, end),
            *self._roots.finish_request(root, start, end),
        ]

    def finish_overdue(self, *, everything: bool = False, flushing: bool = False) -> list[SpanCopy]:
        """Return the steps and roots whose request has sent no span for long, and single spans that waited for long.

        Args:
            everything: Return all of them.
            flushing: Return all spans that wait for a second one, because the app waits for the export.
        """
        if not self.holds_spans:
            return []
        now = time.monotonic()
        return [
            *self._steps.finish_overdue(now, everything=everything),
            *self._roots.finish_overdue(now, everything=everything, flushing=flushing),
        ]

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
        left = None if state is None or self._whole else _work_for_others(state)
        if left is not None:
            # The trace of the request that started the worker has the name of its user.
            return to_trace_id(f"{app_trace_id:032x}{left.span_id:016x}")
        if self._traces == "call":
            outermost = span_id if state is None else self._outermost_exported(state).span_id
            return to_trace_id(f"{app_trace_id:032x}{outermost:016x}")
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
            # If no other process writes to the trace, the span is the outermost one all the same.
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

    def _joins_trace(
        self, attribution: Attribution, root: RequestSpans, trace_id: int, first: _FirstRequest | None
    ) -> bool:
        """Return whether release and version of the trace are the caller's, or an earlier request's.

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


def _request_that_refuses(state: SpanState | None, trace_id: int) -> RequestSpans | None:
    """Return the request of a span if the request must not be filed under this trace."""
    request_spans = None if state is None else state.request_spans
    root = None if request_spans is None else request_spans.root
    return root if root is not None and root.refused_trace_id == trace_id else None


def _work_for_others(state: SpanState) -> SpanState | None:
    """Return the outermost span of work that is no longer part of the request, but in its trace."""
    outermost = None
    ancestor: SpanState | None = state
    while ancestor is not None and ancestor.is_outside_request:
        outermost, ancestor = ancestor, ancestor.parent
    return outermost if ancestor is not None and ancestor.request_key else None


def _belongs_to_step(span_copy: SpanCopy, ancestor: SpanState | None) -> bool:
    """Return whether a span is a direct child of the step: it is or contains an LLM span, and is not the server span.

    Only the server span may be above it.
    """
    request_spans = span_copy.request_spans
    is_outermost = ancestor is None or (
        request_spans is not None and request_spans.root.is_server_span(ancestor.span_context)
    )
    return is_outermost and not span_copy.is_server_span and _contains_llm_span(span_copy)


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


def _move_link(link: Link, app_trace_id: int, trace_id: int) -> Link:
    """Return a link within the app's trace so that it leads to the exported trace."""
    if link.context.trace_id != app_trace_id:
        return link
    return Link(make_span_context(trace_id, link.context.span_id, like=link.context), link.attributes)
