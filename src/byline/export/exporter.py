"""The pipeline of a destination: from ended spans to what leaves the app.

On the app's threads spans are only picked and queued. All rewriting happens on the destination's own
thread, on copies.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext

from byline import errors, internal_metrics
from byline.attribution import EMPTY
from byline.export import propagate
from byline.export.body_pending import BodyPendingBuffer
from byline.export.decisions import ExportDecisions
from byline.export.delivery.http_session import ExportError
from byline.export.delivery.outlet import Outlet
from byline.export.delivery.split import MAX_REFUSALS
from byline.export.merge_results import merge_pending
from byline.export.span_copy import SpanCopy
from byline.export.span_tree import SpanNode
from byline.export.trace_view import TraceView

SpanTransform = Callable[[SpanCopy], None]


class DestinationExporter(SpanExporter):
    """Rewrites batches for one destination and hands them to its outlet.

    Args:
        name: The destination's name in counters.
        outlet: What sends them.
        choice: Which spans the destination takes.
        drain: Makes the drain of a predicate that tells which spans are exported.
        rewrites: What is done to each span, in order; the last word has privacy.
        note: Told each span that is kept, before anything is done to it.
    """

    def __init__(
        self,
        name: str,
        outlet: Outlet,
        *,
        choice: ExportDecisions,
        drain: Callable[[Callable[[SpanNode], bool]], TraceView],
        rewrites: Sequence[SpanTransform],
        note: SpanTransform | None = None,
    ) -> None:
        self._name = name
        self.outlet = outlet
        self.choice = choice
        self._rewrites = rewrites
        self._note = note
        self._drain = drain(choice.promises)
        self._early = BodyPendingBuffer()
        self._lock = threading.Lock()
        #: How many batches were not taken.
        self.failures = 0
        self._refusals = 0
        #: Told how many have left the queue.
        self.taken: Callable[[int], None] = _nobody
        #: Told that something waits here, to be looked at again although no spans may come.
        self.waits: Callable[[], None] = _nobody

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Rewrite and send a batch of tickets."""
        self.taken(len(spans))
        with self._lock:
            done = self._rewrite(self._early.pass_on(spans))
        return self._send(done)

    def shutdown(self) -> None:
        """Send what waits for requests that are still under way, and the parents of what is sent, and stop."""
        with self._lock:
            done = self._rewrite(self._early.empty(), everything=True)
        self._send(done)
        self.outlet.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what the outlet keeps; what waits here waits for its request, or for the end."""
        return self.outlet.force_flush(timeout_millis)

    def _send(self, spans: list[ReadableSpan]) -> SpanExportResult:
        if not spans:
            return SpanExportResult.SUCCESS
        posts = self.outlet.posts
        try:
            result = self.outlet.export(spans)
        except ExportError:
            # Older exporters let it through.
            result = SpanExportResult.FAILURE
        except Exception:
            result = SpanExportResult.FAILURE
            errors.report_internal_error("exporter")
        if result is SpanExportResult.SUCCESS:
            self._refusals = 0
            if not self.outlet.stores:
                internal_metrics.increment(f"{self._name}.spans.sent", max(len(spans) - self.outlet.rejected, 0))
        elif len(spans) > 1 and self._refusals < MAX_REFUSALS and self.outlet.refused_batch(posts):
            # It may be too large, or one span of it may be what displeases.
            self._refusals += 1
            half = len(spans) // 2
            return max(self._send(spans[:half]), self._send(spans[half:]), key=lambda each: each.value)
        else:
            self.failures += 1
            internal_metrics.increment(f"{self._name}.spans.dropped.unsent", len(spans))
        return result

    def _rewrite(self, tickets: Iterable[Any], *, everything: bool = False) -> list[ReadableSpan]:
        drafts: list[SpanCopy] = []
        left_out = 0
        for ticket in tickets:
            try:
                if ticket.picked:
                    draft = self._draft(ticket.span, ticket.context, ticket.kin)
                    if self.choice.keeps(draft):
                        if self._note is not None:
                            self._note(draft)
                        self._drain.regroup(draft)
                        drafts.append(draft)
                    else:
                        left_out += 1
                if ticket.closes is not None:
                    drafts += self._drain.close(ticket.closes, ticket.span.start_time, ticket.span.end_time)
            except Exception:
                self._fail()
        if left_out:
            internal_metrics.increment(f"{self._name}.spans.left_out", left_out)
        drafts += self._overdue(everything=everything)
        if self._drain.waits or self._early:
            self.waits()
        return self._finish(drafts)

    def _overdue(self, *, everything: bool = False) -> list[SpanCopy]:
        drafts = []
        # What is sent here may hang below something that is to be sent for it.
        while broken := self.choice.broken(everything=everything):
            for own, promised in broken:
                try:
                    draft = self._unended(own, promised)
                    self._drain.regroup(draft)
                    drafts.append(draft)
                except Exception:
                    self._fail()
        return drafts + self._drain.overdue(everything=everything)

    def _unended(self, own: SpanNode, promised: SpanCopy) -> SpanCopy:
        draft, span, family = promised, own.span, own.family
        if span is not None:
            # It is under way, and more may be known by now.
            if family is not None:
                family.learn()
            draft = self._draft(span, promised.context, own)
        draft.end_time = draft.end_time or time.time_ns()
        return draft

    def _fail(self) -> None:
        # Half rewritten, a span may hold what it must not.
        internal_metrics.increment(f"{self._name}.spans.dropped.failed")
        errors.report_internal_error("export")

    def _draft(self, span: ReadableSpan, context: SpanContext, own: SpanNode | None) -> SpanCopy:
        family = None if own is None else own.family
        draft = SpanCopy.of(span, context, own, EMPTY if family is None else family.attribution)
        merge_pending(draft)
        if not draft.attribution:
            draft.attribution = propagate.attribution_from_attributes(draft.attributes)
        propagate.apply_attribution(draft)
        return draft

    def _finish(self, drafts: list[SpanCopy]) -> list[ReadableSpan]:
        done: list[ReadableSpan] = []
        for draft in drafts:
            try:
                # Once more, for what later spans of the batch have told of the trace.
                propagate.apply_attribution(draft)
                for rewrite in self._rewrites:
                    rewrite(draft)
            except Exception:
                self._fail()
            else:
                done.append(draft.finish())
        return done

    def after_fork(self) -> None:
        """Forget what the parent process was at; it is the parent's to send."""
        self._lock = threading.Lock()
        self._early.empty()
        self._drain.overdue(everything=True)
        self.choice.broken(everything=True)
        self.outlet.after_fork()


def _nobody(_: int = 0) -> None:
    pass
