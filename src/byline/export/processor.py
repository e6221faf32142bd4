"""The span processor of one destination: appends ended spans to the queue of the destination's worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanContext

from byline import errors, internal_metrics
from byline.export.decisions import ExportDecisions
from byline.export.pipeline import QueuedSpan
from byline.export.worker import DestinationWorker
from byline.genai import call_spans
from byline.genai.span_state import SpanState, SpanStateProcessor, start_state


class DestinationSpanProcessor(SpanStateProcessor):
    """Queues the spans of one destination as they end; copies nothing and calls no code of the user's.

    Args:
        name: The destination's label in counters.
        worker: Prepares and sends queued spans.
        decisions: Decides which spans are exported.
    """

    def __init__(self, name: str, worker: DestinationWorker, decisions: ExportDecisions) -> None:
        super().__init__()
        self._name = name
        self._closed_counter = f"{name}.spans.dropped.closed"
        self._queue_full_counter = f"{name}.spans.dropped.queue_full"
        self._warns_if_full = True
        self.worker = worker
        self._decisions = decisions
        self.destination_id = decisions.destination_id
        self.selects_llm_only = decisions.selects_llm_only
        self._retired = False
        #: If the processor was added to a provider by itself: the app may have wrapped the processor in one of its own
        #: that passes `on_start` and `on_end` on, and nothing else. By the identity of the span context.
        self._started: WeakValueDictionary[int, SpanState] = WeakValueDictionary()

    @property
    def closed(self) -> bool:
        """Whether the processor accepts no more spans."""
        return self.worker.closed

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        """Make the state of the span, if the processor was added to a provider by itself."""
        if self.worker.closed:
            return
        try:
            state = start_state(span, parent_context)
            self._started[id(state.span_context)] = state
            call_spans.start_span(state, span, self.destination_id)
        except Exception:
            errors.report_internal_error("export")

    def find_started(self, context: SpanContext) -> SpanState | None:
        """Return the state of a span of which a processor around this one has passed the start on."""
        return self._started.get(id(context))

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span, if the processor was added to a provider by itself."""
        try:
            state = self.take_ended(span)
            if state is not None and not self._retired:
                call_spans.end_span(state, span)
                self.on_span_end(span, state)
        except Exception:
            errors.report_internal_error("export")

    def on_span_end(self, span: ReadableSpan, state: SpanState) -> bool:
        """Queue the span if the destination may export it. Returns whether it may."""
        # A provider keeps its processors for good, also those of destinations that were removed.
        if self._retired:
            return False
        selected = self._decisions.preselect(span, state, sampled=state.is_sampled)
        closes = state.ends_request
        is_wanted = selected is not False
        if not is_wanted and (closes is None or not (closes.has_steps or closes.has_llm_spans)):
            return False
        if not self.worker.enqueue(QueuedSpan(state, selected, closes)) and is_wanted:
            self._count_dropped(state)
        return is_wanted

    def _count_dropped(self, state: SpanState) -> None:
        self._decisions.mark_dropped(state)
        if self.worker.closed:
            internal_metrics.increment(self._closed_counter)
            return
        internal_metrics.increment(self._queue_full_counter)
        if self._warns_if_full:
            self._warns_if_full = False
            errors.warn_once(
                f"full.{self._name}",
                "byline.E060: the queue of %s is full, because spans end faster than they are accepted; spans are "
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

    def leave_to_app_if(self, is_sent_by_app: Callable[[], bool]) -> None:
        """Ignore the spans from the moment on that the app itself sends them to the backend.

        The worker asks for each batch after the batch has left the queue. So the spans of earlier batches ended
        before the app's exporter was there, and are still sent. Those of this batch are counted as left out: the
        exporter may have got them.
        """

        def select(batch: Sequence[QueuedSpan]) -> None:
            try:
                if not self._decisions.is_left_to_app and not is_sent_by_app():
                    return
            except Exception:
                errors.report_internal_error("export")
                return
            self._retired = True
            self._decisions.leave_to_app()
            wanted = [queued for queued in batch if queued.selected is not False]
            for queued in wanted:
                queued.selected = False
                self._decisions.mark_dropped(queued.state)
            internal_metrics.increment(f"{self._name}.spans.left_out", len(wanted))

        self.worker.select = select

    def retire(self) -> None:
        """Shut down, and ignore later spans without counting them as dropped."""
        self.worker.shutdown()
        self._retired = True
