"""Feeds one destination: picks spans as they end, and queues them for its own thread."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext

from byline import errors, internal_metrics
from byline.export import bsp_env, span_tree
from byline.export.exporter import DestinationExporter
from byline.export.recheck_timer import RecheckTimer
from byline.export.request_spans import RequestSpans
from byline.export.span_copy import make_span_context
from byline.export.span_tree import SpanNode
from byline.fork import after_fork_in_child

#: How long the end of a process may be held up, in seconds.
_FAREWELL: Final = 5.0
#: What a batch that was given up in time may take to be counted.
_GRACE: Final = 0.2


class QueuedSpan:
    """A span in the queue. To the SDK's batch processor it looks like a span."""

    __slots__ = ("closes", "context", "kin", "picked", "span")

    def __init__(
        self,
        span: ReadableSpan | None,
        context: SpanContext,
        own: SpanNode | None,
        picked: bool,
        closes: RequestSpans | None,
    ) -> None:
        self.span = span
        self.context = context
        self.kin = own
        self.picked = picked
        self.closes = closes


class DestinationSpanProcessor(BatchSpanProcessor):
    """The span processor of one destination.

    It counts what waits, so that what finds no room is refused and counted, span by span, where the
    SDK would drop the oldest and only say so.

    Args:
        name: The destination's name in counters.
        pipeline: What takes the batches.
        deep: Whether other spans than LLM spans may be picked.
    """

    def __init__(self, name: str, pipeline: DestinationExporter, *, deep: bool) -> None:
        self._name = name
        self._pipeline = pipeline
        self._choice = pipeline.choice
        self._deep = deep
        self._room = bsp_env.queue_size()
        self._waiting = 0
        self._counting = threading.Lock()
        self.closed = False
        self._retired = False
        self._flushing: threading.Thread | None = None
        pipeline.taken = self._taken
        self._reminder = RecheckTimer(self._remind)
        pipeline.waits = self._reminder.set
        pipeline.outlet.start()
        self._until = math.inf
        internal_metrics.register_gauges(name, self._read_levels)
        super().__init__(
            pipeline,
            max_queue_size=self._room,
            max_export_batch_size=bsp_env.batch_size(self._room),
            schedule_delay_millis=bsp_env.schedule_delay_millis(spooled=pipeline.outlet.stores),
        )
        # Past the SDK's look at whether a span is sampled, where that can be.
        inner: Any = getattr(self, "_batch_processor", None)
        self._put: Callable[[Any], object] = getattr(inner, "emit", super().on_end)
        _at_fork(self)

    @property
    def waiting(self) -> int:
        """How many spans wait for the next batch."""
        return self._waiting

    def _read_levels(self) -> dict[str, int]:
        return {"queue": self._waiting, **self._pipeline.outlet.levels()}

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        """Take note of what the span hangs below."""
        if self.closed:
            return
        try:
            span_tree.on_span_start(span, parent_context, deep=self._deep, bit=self._choice.bit)
        except Exception:
            errors.report_internal_error("export")

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span where it is picked."""
        if self._retired:
            # The provider keeps its processors for good, also those of destinations that are gone.
            return
        try:
            context = span.get_span_context()
            if context is not None:
                self._end(span, context)
        except Exception:
            errors.report_internal_error("export")

    def _end(self, span: ReadableSpan, context: SpanContext) -> None:
        own, ending = span_tree.on_span_end(span, context)
        closes = ending.closes
        picked = self._choice.picks(span, own, sampled=ending.is_sampled)
        if picked and own is None:
            own = ending.late = span_tree.node_for_late_llm_span(span, context)
        if not picked and (closes is None or not closes.steps):
            return
        if not ending.is_sampled:
            # The SDK's processor would let it fall.
            context = make_span_context(context.trace_id, context.span_id, like=context)
        with self._counting:
            room = self._waiting < self._room and not self.closed
            self._waiting += room
        if room:
            self._put(QueuedSpan(span, context, own, picked, closes))
        elif picked:
            self._choice.lose(own)
            internal_metrics.increment(f"{self._name}.spans.dropped.{'closed' if self.closed else 'queue_full'}")
            if not self.closed:
                errors.warn_once(
                    f"full.{self._name}",
                    "byline.E060: %s takes spans more slowly than they come, and the queue is full; spans are dropped",
                    self._name,
                )

    def flush(self, timeout: float) -> bool:
        """Send what waits. Returns whether it was taken within ``timeout`` seconds."""
        until = time.monotonic() + timeout
        failures = self._pipeline.failures
        done: list[bool] = []

        def work() -> None:
            done.append(bool(self.force_flush()))

        # The SDK itself waits for as long as the exporter takes; and functions that flush with each request
        # must not pile up threads behind a destination that hangs.
        earlier = self._flushing
        if earlier is not None and earlier.is_alive():
            earlier.join(max(timeout, 0.0))
            if earlier.is_alive():
                return False
        thread = self._flushing = threading.Thread(target=work, name=f"byline-flush-{self._name}", daemon=True)
        try:
            thread.start()
            thread.join(max(until - time.monotonic(), 0.0))
        except RuntimeError:
            # No threads any more: the interpreter is about to end.
            work()
        if done != [True] or self._pipeline.failures > failures:
            return False
        return self._pipeline.outlet.empty(max(until - time.monotonic(), 0.0))

    def _remind(self) -> None:
        with self._counting:
            if self.closed or self._waiting >= self._room:
                return
            self._waiting += 1
        # It holds nothing, and makes the pipeline look at what waits there.
        self._put(QueuedSpan(None, make_span_context(1, 1), None, False, None))

    def _taken(self, count: int) -> None:
        with self._counting:
            self._waiting = max(self._waiting - count, 0)

    def shutdown(self) -> None:
        """Send what waits, and take no more. What is not taken within seconds is dropped, or stays in the spool."""
        if self.closed:
            return
        self.closed = True
        self._reminder.stop()
        self.hurry(_FAREWELL)
        internal_metrics.unregister_gauges(self._name)
        inner: Any = getattr(self, "_batch_processor", None)
        if inner is None:
            super().shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        else:
            # The SDK would wait half a minute for a destination that hangs.
            inner.shutdown(timeout_millis=int((max(self._until - time.monotonic(), 0.0) + _GRACE) * 1000))
        with self._counting:
            lost, self._waiting = self._waiting, 0
        if lost:
            internal_metrics.increment(f"{self._name}.spans.dropped.closed", lost)
            errors.warn_once(
                f"lost.{self._name}",
                "byline.E067: %s has not taken %d spans before the end, and they are lost; a spool would keep them",
                self._name,
                lost,
            )

    def hurry(self, seconds: float) -> None:
        """Try each batch once from now on, and none after so many seconds."""
        self._until = min(self._until, time.monotonic() + seconds)
        self._pipeline.outlet.hurry(seconds)

    def retire(self) -> None:
        """Stop for good: what ends from now on is nobody's, and not even counted."""
        self.shutdown()
        self._retired = True

    def after_fork(self) -> None:
        """Start anew in a child process; what waited is the parent's to send."""
        self._counting = threading.Lock()
        self._waiting = 0
        self._until = math.inf
        self._reminder.stop()
        self._pipeline.after_fork()


def _at_fork(feed: DestinationSpanProcessor) -> None:
    reference = weakref.ref(feed)

    def start_anew() -> None:
        found = reference()
        if found is not None:
            found.after_fork()

    after_fork_in_child(start_anew)
