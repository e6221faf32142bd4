"""The drain: files a request's spans as a gateway would have sent them, trace → step → generation.

The app's own traces belong to W3C trace context. What the caller names in ``trace.trace_id`` is the
trace in the drain, so that all requests with one such id become one trace.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext

from byline.attribution import to_span_id, to_trace_id
from byline.export.span_copy import SpanCopy, make_span_context
from byline.genai import attributes as names
from byline.genai.classify import OWN_SCOPE
from byline.genai.span_state import SpanState
from byline.request_spans import RequestSpans
from byline.settings import SettingError

Traces = Literal["request", "call"]

_MAX: Final = 10_000
#: How long a step waits for the end of its request, in seconds, after anything was heard of it.
_PATIENCE: Final = 300.0
#: How long where the app span has ended, but is nothing that this destination hears of.
_SHORT_PATIENCE: Final = 10.0
_SCOPE: Final = InstrumentationScope(OWN_SCOPE)


def validate_traces(traces: Traces, spans: object) -> Traces:
    """Return the setting when it can be used. Raises `SettingError` ``byline.E056`` otherwise."""
    if traces not in ("request", "call"):
        raise SettingError("byline.E056", f"traces={traces!r}", 'pass "request" or "call"')
    if traces == "call" and spans == "all":
        raise SettingError("byline.E056", 'traces="call" leaves the app\'s spans out', 'pass spans="llm" with it')
    return traces


class _Step:
    __slots__ = ("draft", "root", "touched")

    def __init__(self, draft: SpanCopy, root: RequestSpans | None) -> None:
        self.draft = draft
        self.root = root
        self.touched = time.monotonic()

    def is_overdue(self, silence: float) -> bool:
        if self.root is not None and self.root.context_released():
            return True
        over = self.root is None or self.root.server_span_ended()
        return silence > (_SHORT_PATIENCE if over else _PATIENCE)


class TraceView:
    """Regroups the spans of one destination.

    Args:
        exports: Whether a span that is kept track of is, or will be, exported to this destination.
        traces: ``"request"`` files spans under the caller's trace, else the app's; ``"call"`` gives
            each call that hangs below no other LLM span a trace of its own where the caller names none.
        whole: Whether the app's own spans are exported, so that its callers' spans stay parents.
    """

    def __init__(
        self, exports: Callable[[SpanState], bool], *, traces: Traces = "request", whole: bool = False
    ) -> None:
        self._exports = exports
        self._traces = traces
        self._whole = whole
        self._waiting: OrderedDict[int, _Step] = OrderedDict()
        self._done: OrderedDict[int, None] = OrderedDict()

    def regroup(self, draft: SpanCopy) -> None:
        """File a span under the trace that it belongs to, below a parent that is exported too."""
        attribution = draft.attribution
        app_trace = draft.context.trace_id
        named = attribution.trace_id
        filed = self._trace_of(draft.state, named, app_trace, draft.context.span_id)
        if draft.state is not None:
            # Whatever comes to hang below it looks for it there.
            draft.state.exported_trace_ids[id(self)] = filed
        if filed != app_trace:
            draft.attributes.setdefault(names.APP_TRACE_ID, f"{app_trace:032x}")
            draft.links = [_along(link, app_trace, filed) for link in draft.links]
        if attribution.generation_name and draft.is_leaf:
            draft.name = attribution.generation_name
        above = self._nearest(draft.state, filed)
        base = self._base(draft, filed, named) if above is None else make_span_context(filed, above.span_id)
        if attribution.span_name and _is_of_step(draft, above):
            base = self._step(draft, filed, base)
        draft.context = make_span_context(filed, draft.context.span_id, like=draft.context)
        draft.parent = base

    @property
    def waits(self) -> bool:
        """Whether any step waits for the end of its request."""
        return bool(self._waiting)

    def close(self, root: RequestSpans, start: int | None, end: int | None) -> list[SpanCopy]:
        """Return the steps of a request that is over."""
        found = [(step_id, step.draft.name) for step_id, step in self._waiting.items() if step.root is root]
        # The step of a part is as long as its own spans.
        whole, part = (start, end), (None, None)
        return [
            self._finish(step_id, *(whole if name == root.attribution.span_name else part)) for step_id, name in found
        ]

    def overdue(self, *, everything: bool = False) -> list[SpanCopy]:
        """Return the steps whose request has not been heard of for long; all of them at the end."""
        now = time.monotonic()
        found = [
            step_id
            for number, (step_id, step) in enumerate(self._waiting.items())
            if everything or number < len(self._waiting) - _MAX or step.is_overdue(now - step.touched)
        ]
        return [self._finish(step_id, None, None) for step_id in found]

    def _trace_of(self, state: SpanState | None, named: str | None, app_trace: int, span_id: int) -> int:
        if state is not None and id(self) in state.exported_trace_ids:
            # It is there already, or something that hangs below it is.
            return state.exported_trace_ids[id(self)]
        if named:
            return to_trace_id(named)
        if self._traces == "call":
            top = span_id if state is None else self._outermost(state).span_id
            return to_trace_id(f"{app_trace:032x}{top:016x}")
        return app_trace

    def _outermost(self, state: SpanState) -> SpanState:
        outermost = state
        above = state.parent
        while above is not None:
            if above.trace_id == state.trace_id and self._exports(above):
                outermost = above
            above = above.parent
        return outermost

    def _nearest(self, state: SpanState | None, filed: int) -> SpanState | None:
        above = None if state is None else state.parent
        while above is not None:
            if self._exports(above):
                named = None if above.request_spans is None else above.request_spans.attribution.trace_id
                if self._trace_of(above, named, above.trace_id, above.span_id) != filed:
                    return None
                above.exported_trace_ids[id(self)] = filed
                return above
            above = above.parent
        return None

    def _base(self, draft: SpanCopy, filed: int, named: str | None) -> SpanContext | None:
        if named and to_trace_id(named) == filed:
            parent = draft.attribution.parent_span_id
            return make_span_context(filed, to_span_id(parent)) if parent else None
        parent_context = draft.parent
        if not self._whole or parent_context is None:
            return None
        if parent_context.is_remote:
            # A caller's span is its own business to export, unless the caller's sampler has dropped it.
            return parent_context if parent_context.trace_flags.sampled else None
        # A span of this process that nobody keeps track of was dropped.
        return parent_context if draft.state is None else None

    def _step(self, draft: SpanCopy, filed: int, base: SpanContext | None) -> SpanContext:
        name = draft.attribution.span_name or ""
        request_spans = None if draft.state is None else draft.state.request_spans
        root = None if request_spans is None else request_spans.root
        number = f"{draft.context.trace_id:032x}" if root is None else root.trace_key
        step_id = int.from_bytes(hashlib.sha256(f"{number}:{filed:032x}:{name}".encode()).digest()[:8], "big") or 1
        context = make_span_context(filed, step_id)
        if step_id in self._done:
            return context
        step = self._waiting.get(step_id)
        if step is None:
            made = SpanCopy(
                name,
                context,
                parent=base,
                attributes={names.STEP_NAME: name},
                start_time=draft.start_time,
                end_time=draft.end_time,
                resource=draft.resource,
                scope=_SCOPE,
                state=draft.state,
                attribution=draft.attribution,
            )
            if names.APP_TRACE_ID in draft.attributes:
                made.attributes[names.APP_TRACE_ID] = draft.attributes[names.APP_TRACE_ID]
            step = self._waiting[step_id] = _Step(made, root)
        _widen(step.draft, draft.start_time, draft.end_time)
        step.draft.attribution = draft.attribution
        step.touched = time.monotonic()
        self._waiting.move_to_end(step_id)
        return context

    def _finish(self, step_id: int, start: int | None, end: int | None) -> SpanCopy:
        step = self._waiting.pop(step_id)
        self._done[step_id] = None
        while len(self._done) > _MAX:
            self._done.popitem(last=False)
        _widen(step.draft, start, end)
        return step.draft


def _is_of_step(draft: SpanCopy, above: SpanState | None) -> bool:
    """Whether a span hangs right below the step: what carries LLM spans, and nothing above it but the app span."""
    request_spans = None if draft.state is None else draft.state.request_spans
    app_span_id = 0 if request_spans is None else request_spans.root.server_span_id
    carries = draft.is_llm or (draft.state is not None and draft.state.has_llm_descendant)
    return carries and draft.context.span_id != app_span_id and (above is None or above.span_id == app_span_id)


def _along(link: Link, app_trace: int, filed: int) -> Link:
    """Return a link that leads to where the other spans of its trace are filed as well."""
    if link.context.trace_id != app_trace:
        return link
    return Link(make_span_context(filed, link.context.span_id, like=link.context), link.attributes)


def _widen(draft: SpanCopy, start: int | None, end: int | None) -> None:
    if start is not None:
        draft.start_time = min(start, draft.start_time or start)
    if end is not None:
        draft.end_time = max(end, draft.end_time or end)
