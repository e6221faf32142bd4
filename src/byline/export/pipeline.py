"""Prepares queued spans for one destination: hold, select, copy, decide, trace view, propagate, redact and map.

All stages run on the worker's thread. They change copies only, never the app's own spans.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from byline import errors, internal_metrics
from byline.attribution import EMPTY
from byline.export import propagate
from byline.export.decisions import ExportDecisions
from byline.export.span_copy import SpanCopy
from byline.export.trace_view import TraceView
from byline.genai.call_spans import is_provisional
from byline.genai.pricing import prices
from byline.genai.span_state import SpanState
from byline.request_spans import RequestSpans

if TYPE_CHECKING:
    from byline.export.delivery.media_upload import MediaUploader

SpanTransform = Callable[[SpanCopy], None]

MAX_HELD: Final = 2048


class QueuedSpan:
    """An ended span in the queue of one destination.

    Attributes:
        state: The state of the span.
        selected: Whether the destination's ``spans`` setting selects it; ``None`` if the user's function has not
            been asked yet.
        closes: The request whose server span it is, ``None`` for every other span.
    """

    __slots__ = ("closes", "selected", "state")

    def __init__(self, state: SpanState, selected: bool | None, closes: RequestSpans | None) -> None:
        self.state = state
        self.selected = selected
        self.closes = closes

    @property
    def span(self) -> ReadableSpan:
        """The span as it ended."""
        # Only ended spans are queued.
        return cast("ReadableSpan", self.state.ended)


class HoldBackBuffer:
    """Holds spans back that ended before it is known how they are exported.

    The body that the app has not read yet may name the trace, the session and the step of the spans of its request;
    exported without it, they would be in another trace than the later spans of the request. And byline's own span of
    a call may be replaced by a span of an instrumentation that is still open. At most 2,048 spans are held, the
    oldest leave first.
    """

    def __init__(self) -> None:
        self._held: deque[QueuedSpan] = deque()

    def __bool__(self) -> bool:
        return bool(self._held)

    def exchange(self, batch: Sequence[QueuedSpan], *, flushing: bool = False) -> Iterator[QueuedSpan]:
        """Hold the spans of a batch that have to wait, and yield all spans that may leave."""
        held: deque[QueuedSpan] = deque()
        leaving: list[QueuedSpan] = []
        for queued in (*self._held, *batch):
            state = queued.state
            request_spans = state.request_spans
            try:
                is_held = (request_spans is not None and request_spans.root.body_pending()) or is_provisional(
                    state, flushing=flushing
                )
            except Exception:
                is_held = False
                errors.report_internal_error("export")
            (held if is_held else leaving).append(queued)
        while len(held) > MAX_HELD:
            internal_metrics.increment("held_spans.over_budget")
            yield held.popleft()
        self._held = held
        yield from leaving

    def empty(self) -> list[QueuedSpan]:
        """Return all held spans, because the destination shuts down."""
        held, self._held = list(self._held), deque()
        return held


class SpanPipeline:
    """The stages between the queue of one destination and its sender.

    Args:
        name: The destination's label in counters.
        decisions: Decides which spans are exported.
        trace_view: Places spans in the trace that the caller named.
        transforms: Functions that change each span, in order: trace input and output, redaction, conventions, mapping
            to the backend.
        collect: Called with each exported span before the transforms, in order.
        media: Uploads the binary parts of spans, ``None`` if nothing does.
    """

    def __init__(
        self,
        name: str,
        *,
        decisions: ExportDecisions,
        trace_view: TraceView,
        transforms: Sequence[SpanTransform],
        collect: Sequence[SpanTransform] = (),
        media: MediaUploader | None = None,
    ) -> None:
        self._name = name
        self._decisions = decisions
        self._trace_view = trace_view
        self._transforms = transforms
        self._collect = collect
        self.media = media
        self._held = HoldBackBuffer()

    @property
    def holds_spans(self) -> bool:
        """Whether spans wait here: for the body or the end of their request, for another span of the same call, or
        as parents that have not ended.
        """
        return self._trace_view.holds_spans or bool(self._held) or self._decisions.has_open_parents

    def prepare(
        self, batch: Sequence[QueuedSpan], *, flushing: bool = False, everything: bool = False
    ) -> list[ReadableSpan]:
        """Return the spans to send.

        Args:
            batch: The next spans of the queue.
            flushing: Whether somebody waits for the export.
            everything: Return the spans that are held here as well, because the destination shuts down.
        """
        prices.complete()
        copies: list[SpanCopy] = []
        dropped = 0
        for queued in self._release_held(batch, flushing=flushing, everything=everything):
            try:
                if self._is_selected(queued) and self._decisions.begin_export(queued.state):
                    span_copy = self._copy(queued.span, queued.state.span_context, queued.state)
                    if self._decisions.keep(span_copy):
                        self._place(span_copy, copies)
                    else:
                        dropped += 1
                if queued.closes is not None:
                    copies += self._trace_view.finish_request(
                        queued.closes, queued.span.start_time, queued.span.end_time
                    )
            except Exception:
                self._count_failed()
        if dropped:
            internal_metrics.increment(f"{self._name}.spans.left_out", dropped)
        self._add_unended_parents(copies, everything=everything)
        # A flush comes last: the request of a span that waits may end within the same batch.
        copies += self._trace_view.finish_overdue(everything=everything, flushing=flushing and not batch)
        return self._transform(copies)

    def waiting(self) -> list[SpanCopy]:
        """Return the ended spans that wait for another span of their request."""
        return self._trace_view.waiting()

    def preview(self, span_copy: SpanCopy) -> ReadableSpan | None:
        """Return a span as it would be sent if no other span of its request followed, ``None`` if that fails."""
        alone = copy.copy(span_copy)
        alone.attributes = dict(span_copy.attributes)
        try:
            return self._finish(alone)
        except Exception:
            errors.report_internal_error("export")
            return None

    def clear(self) -> int:
        """Forget all spans that are held here. Returns how many of them had ended."""
        waiting = sum(not span_copy.is_made for span_copy in self._trace_view.finish_overdue(everything=True))
        return waiting + sum(self._is_selected(queued) for queued in self.forget())

    def forget(self) -> list[QueuedSpan]:
        """Forget all spans that are held here, without a call of the user's functions. Returns those that had ended."""
        self._trace_view.finish_overdue(everything=True)
        self._decisions.clear()
        return self._held.empty()

    def _release_held(self, batch: Sequence[QueuedSpan], *, flushing: bool, everything: bool) -> Iterable[QueuedSpan]:
        if everything:
            return [*self._held.empty(), *batch]
        return self._held.exchange(batch, flushing=flushing)

    def _is_selected(self, queued: QueuedSpan) -> bool:
        if queued.selected is not None:
            return queued.selected
        return self._decisions.matches(queued.span, queued.state, sampled=queued.state.is_sampled)

    def _place(self, span_copy: SpanCopy, copies: list[SpanCopy]) -> None:
        for collect in self._collect:
            collect(span_copy)
        copies += self._trace_view.place(span_copy)

    def _add_unended_parents(self, copies: list[SpanCopy], *, everything: bool) -> None:
        # A parent that is exported here may itself refer to a parent that has not ended.
        while unended := self._decisions.unended_parents(everything=everything):
            for state, last_seen in unended:
                try:
                    span_copy = self._copy_unended(state, last_seen)
                    copies += self._trace_view.place(span_copy)
                except Exception:
                    self._count_failed()

    def _copy_unended(self, state: SpanState, last_seen: SpanCopy) -> SpanCopy:
        span_copy, span, request = last_seen, state.span, state.request_spans
        if span is not None:
            # The span is still open: it may have got attributes since.
            if request is not None:
                request.refresh()
            span_copy = self._copy(span, last_seen.context, state)
        span_copy.end_time = span_copy.end_time or time.time_ns()
        return span_copy

    def _copy(self, span: ReadableSpan, context: SpanContext, state: SpanState | None) -> SpanCopy:
        request = None if state is None else state.request_spans
        span_copy = SpanCopy.from_span(span, context, state, EMPTY if request is None else request.attribution)
        span_copy.merge_result()
        if not span_copy.attribution:
            span_copy.attribution = propagate.attribution_from_attributes(span_copy.attributes)
        propagate.apply_attribution(span_copy)
        return span_copy

    def _transform(self, copies: list[SpanCopy]) -> list[ReadableSpan]:
        finished: list[ReadableSpan] = []
        for span_copy in copies:
            try:
                finished.append(self._finish(span_copy))
            except Exception:
                # The span is not sent: it may be only half redacted.
                self._count_failed()
        return finished

    def _finish(self, span_copy: SpanCopy) -> ReadableSpan:
        # Again, because later spans of the batch may have stated attributes of the whole trace.
        propagate.apply_attribution(span_copy)
        for transform in self._transforms:
            transform(span_copy)
        return span_copy.to_readable_span()

    def _count_failed(self) -> None:
        internal_metrics.increment(f"{self._name}.spans.dropped.failed")
        errors.report_internal_error("export")
