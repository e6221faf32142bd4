"""The pipeline of a destination: from ended spans to what leaves the app.

On the app's threads spans are only picked and queued. All rewriting happens on the destination's own
thread, on copies.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext

from byline import counters, guard
from byline.attribution import EMPTY
from byline.export import exchange, signing
from byline.export.draft import Draft, context_of
from byline.export.drain import Drain
from byline.export.halving import MAX_REFUSALS
from byline.export.joining import join
from byline.export.kin import Kin
from byline.export.line import Undelivered
from byline.export.outlet import Outlet
from byline.spans import recognition

_numbers: Final = itertools.count()

Pick = Callable[[ReadableSpan], bool]
Step = Callable[[Draft], None]


class Pipeline(SpanExporter):
    """Rewrites batches for one destination and hands them to its outlet.

    Args:
        name: The destination's name in counters.
        outlet: What sends them.
        picks: Which finished spans the destination takes.
        unsampled: Whether LLM spans are taken that the app's sampler lets record, not export.
        keeps: Which of the picked spans it keeps, or ``None`` for all: filters and sampling.
        drain: Makes the drain of a predicate that tells which spans are exported.
        steps: What is done to each span, in order; the last word has privacy.
    """

    def __init__(
        self,
        name: str,
        outlet: Outlet,
        *,
        picks: Pick,
        unsampled: bool = False,
        keeps: Callable[[Draft], bool] | None,
        drain: Callable[[Callable[[Kin], bool]], Drain],
        steps: Sequence[Step],
    ) -> None:
        self._name = name
        self.outlet = outlet
        self._picks = picks
        self._unsampled = unsampled
        self._keeps = keeps
        self._steps = steps
        self._drain = drain(self._exports)
        self._lock = threading.Lock()
        #: Stands for the destination among those that hear of a span.
        self.bit = 1 << next(_numbers)
        #: How many batches were not taken.
        self.failures = 0
        self._refusals = 0
        #: Told how many have left the queue.
        self.taken: Callable[[int], None] = _nobody
        #: Told that something waits here, to be looked at again although no spans may come.
        self.waits: Callable[[], None] = _nobody

    def wants(self, span: ReadableSpan, own: Kin | None) -> bool:
        """Whether a span is taken, as it is by now or by what hangs below it already."""
        verdict = None if own is None else own.verdicts.get(id(self))
        if verdict is not None:
            return verdict
        context = span.get_span_context()
        if context is None or not self._picks(span):
            return False
        return context.trace_flags.sampled or (self._unsampled and recognition.is_llm_span(span))

    def lose(self, own: Kin | None) -> None:
        """Take note that a span is not exported, for good."""
        if own is not None:
            own.verdicts[id(self)] = False

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Rewrite and send a batch of tickets."""
        self.taken(len(spans))
        with self._lock:
            done = self._rewrite(spans)
        return self._send(done)

    def shutdown(self) -> None:
        """Send the steps whose requests are still under way, and stop."""
        with self._lock:
            done = self._finish(self._drain.overdue(everything=True))
        self._send(done)
        self.outlet.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing waits here."""
        return self.outlet.force_flush(timeout_millis)

    def _send(self, spans: list[ReadableSpan]) -> SpanExportResult:
        if not spans:
            return SpanExportResult.SUCCESS
        posts = self.outlet.posts
        try:
            result = self.outlet.export(spans)
        except Undelivered:
            # Older exporters let it through.
            result = SpanExportResult.FAILURE
        except Exception:
            result = SpanExportResult.FAILURE
            guard.report("exporter")
        if result is SpanExportResult.SUCCESS:
            self._refusals = 0
            if not self.outlet.keeps:
                counters.count(f"{self._name}.spans.sent", max(len(spans) - self.outlet.rejected, 0))
        elif len(spans) > 1 and self._refusals < MAX_REFUSALS and self.outlet.refused_batch(posts):
            # It may be too large, or one span of it may be what displeases.
            self._refusals += 1
            half = len(spans) // 2
            return max(self._send(spans[:half]), self._send(spans[half:]), key=lambda each: each.value)
        else:
            self.failures += 1
            counters.count(f"{self._name}.spans.dropped.unsent", len(spans))
        return result

    def _rewrite(self, tickets: Sequence[Any]) -> list[ReadableSpan]:
        drafts: list[Draft] = []
        left_out = 0
        for ticket in tickets:
            try:
                if ticket.picked:
                    draft = self._draft(ticket.span, ticket.context, ticket.kin)
                    if self._is_kept(draft):
                        exchange.note(draft)
                        self._drain.regroup(draft)
                        drafts.append(draft)
                    else:
                        self.lose(ticket.kin)
                        left_out += 1
                if ticket.closes is not None:
                    drafts += self._drain.close(ticket.closes, ticket.span.start_time, ticket.span.end_time)
            except Exception:
                counters.count(f"{self._name}.spans.dropped.failed")
                guard.report("export")
        if left_out:
            counters.count(f"{self._name}.spans.left_out", left_out)
        drafts += self._drain.overdue()
        if self._drain.waits:
            self.waits()
        return self._finish(drafts)

    def _is_kept(self, draft: Draft) -> bool:
        if self._keeps is None or (draft.kin is not None and draft.kin.verdicts.get(id(self))):
            return True
        return self._keeps(draft)

    def _draft(self, span: ReadableSpan, context: SpanContext, own: Kin | None) -> Draft:
        family = None if own is None else own.family
        draft = Draft.of(span, context, own, EMPTY if family is None else family.attribution)
        join(draft)
        if not draft.attribution:
            draft.attribution = signing.attribution_from(draft.attributes)
        signing.sign(draft)
        return draft

    def _finish(self, drafts: list[Draft]) -> list[ReadableSpan]:
        done: list[ReadableSpan] = []
        for draft in drafts:
            try:
                # Once more, for what later spans of the batch have told of the trace.
                signing.sign(draft)
                for step in self._steps:
                    step(draft)
            except Exception:
                # Half rewritten, it may hold what it must not.
                counters.count(f"{self._name}.spans.dropped.failed")
                guard.report("export")
            else:
                done.append(draft.finish())
        return done

    def _exports(self, above: Kin) -> bool:
        verdict = above.verdicts.get(id(self))
        if verdict is not None:
            return verdict
        span = above.span
        if span is None or not above.heard & self.bit:
            return False
        try:
            found = self.wants(span, above) and (self._keeps is None or self._keeps(self._glance(span, above)))
        except Exception:
            guard.report("export")
            return False
        if found:
            # A promise: what asks is exported below it.
            above.verdicts[id(self)] = True
        return found

    def _glance(self, span: ReadableSpan, own: Kin) -> Draft:
        family = own.family
        context = span.get_span_context() or context_of(own.trace_id, own.span_id)
        draft = Draft.of(span, context, own, EMPTY if family is None else family.attribution)
        signing.sign(draft)
        return draft

    def after_fork(self) -> None:
        """Forget what the parent process was at; it is the parent's to send."""
        self._lock = threading.Lock()
        self._drain.overdue(everything=True)
        self.outlet.after_fork()


def _nobody(_: int = 0) -> None:
    pass
