"""The span processor of one destination: appends ended spans to the queue of the destination's worker."""

from __future__ import annotations

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanContext

from byline import errors, internal_metrics
from byline.export import span_tree
from byline.export.decisions import ExportDecisions
from byline.export.pipeline import QueuedSpan
from byline.export.span_tree import EndInfo, SpanNode
from byline.export.worker import DestinationWorker


class DestinationSpanProcessor(SpanProcessor):
    """Queues the spans of one destination as they end; copies nothing and calls no code of the user's.

    Args:
        name: The destination's label in counters.
        worker: Prepares and sends queued spans.
        decisions: Decides which spans are exported.
        tracks_all_spans: Whether other spans than LLM spans may be exported.
    """

    def __init__(
        self, name: str, worker: DestinationWorker, decisions: ExportDecisions, *, tracks_all_spans: bool
    ) -> None:
        self._name = name
        self.worker = worker
        self._decisions = decisions
        self._tracks_all_spans = tracks_all_spans
        self._retired = False

    @property
    def closed(self) -> bool:
        """Whether it accepts no more spans."""
        return self.worker.closed

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        """Record the span's parent and request."""
        if self.worker.closed:
            return
        try:
            span_tree.on_span_start(
                span, parent_context, deep=self._tracks_all_spans, bit=self._decisions.destination_id
            )
        except Exception:
            errors.report_internal_error("export")

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span if the destination may export it."""
        # A provider keeps its processors for good, also those of destinations that were removed.
        if self._retired:
            return
        try:
            context = span.get_span_context()
            if context is not None:
                node, ending = span_tree.on_span_end(span, context)
                self.on_span_end(span, context, node, ending)
        except Exception:
            errors.report_internal_error("export")

    def on_span_end(self, span: ReadableSpan, context: SpanContext, node: SpanNode | None, ending: EndInfo) -> None:
        """Queue a span of which is known already what all destinations need to know."""
        selected = self._decisions.preselect(span, node, sampled=ending.is_sampled)
        if selected is not False and node is None:
            node = ending.late = span_tree.node_for_late_llm_span(span, context)
        closes = ending.closes
        if selected is False and (closes is None or not closes.steps):
            return
        if not self.worker.enqueue(QueuedSpan(span, context, node, selected, closes)) and selected is not False:
            self._count_dropped(node)

    def _count_dropped(self, node: SpanNode | None) -> None:
        self._decisions.mark_dropped(node)
        is_closed = self.worker.closed
        internal_metrics.increment(f"{self._name}.spans.dropped.{'closed' if is_closed else 'queue_full'}")
        if not is_closed:
            errors.warn_once(
                f"full.{self._name}",
                "byline.E060: the queue of %s is full, because spans end faster than it accepts them; spans are "
                "dropped. Set spool, or raise OTEL_BSP_MAX_QUEUE_SIZE",
                self._name,
            )

    def flush(self, timeout: float) -> bool:
        """Send the spans that wait. Returns whether all of them were handed over within ``timeout`` seconds."""
        return self.worker.flush(timeout)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send the spans that wait, or store them in the spool if there is one."""
        return self.worker.flush(timeout_millis / 1000, sends=False)

    def shutdown(self) -> None:
        """Send the spans that wait and accept no more; later spans are counted as dropped."""
        self.worker.shutdown()

    def retire(self) -> None:
        """Shut down, and ignore later spans without counting them as dropped."""
        self.worker.shutdown()
        self._retired = True
