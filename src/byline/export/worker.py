"""The queue of one destination, and the thread that prepares and sends the queued spans."""

from __future__ import annotations

import contextvars
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan

from byline import errors, internal_metrics
from byline.export.delivery.batch_sender import BatchSender
from byline.export.pipeline import QueuedSpan, SpanPipeline
from byline.fork import after_fork_while_alive

#: How many seconds a destination may delay the end of the process.
SHUTDOWN_TIMEOUT: Final = 5.0
#: Seconds that a batch which was given up at the deadline gets to be counted.
_GRACE: Final = 0.2
_DEFAULT_DELAY_MILLIS: Final = 5000
#: A spooled span should be on disk soon, because only then it survives a SIGKILL.
_SPOOL_DELAY_MILLIS: Final = 500


class _FlushRequest:
    __slots__ = ("result", "sends", "until")

    def __init__(self, until: float, *, sends: bool) -> None:
        self.until = until
        self.sends = sends
        self.result: bool | None = None


class DestinationWorker:
    """Prepares and sends the spans of one destination on one thread, in batches.

    A batch goes when it is full, when the schedule delay has passed, or when somebody flushes. Queue size, batch
    size and delay are those of OpenTelemetry's ``OTEL_BSP_*`` variables. The thread starts with the first span, so
    that a server which forks its workers forks no threads. If no thread can be started, because the interpreter is
    about to exit, `flush` and `shutdown` do the work themselves.

    Args:
        name: The destination's label in counters, messages and the name of the thread.
        pipeline: Turns queued spans into the spans that are sent.
        sender: Stores and sends them.
        spooled: Whether the sender stores spans on disk.
    """

    def __init__(self, name: str, pipeline: SpanPipeline, sender: BatchSender, *, spooled: bool = False) -> None:
        self._name = name
        self._pipeline = pipeline
        self._sender = sender
        self.capacity = _read_variable("OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self._batch_size = min(_read_variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), self.capacity)
        default_delay = _SPOOL_DELAY_MILLIS if spooled else _DEFAULT_DELAY_MILLIS
        self._delay = _read_variable("OTEL_BSP_SCHEDULE_DELAY", default_delay) / 1000
        self._queue: deque[QueuedSpan] = deque()
        #: Spans in the queue. Ends of requests, which are not sent, are in the queue as well, and take no place.
        self._queued_spans = 0
        #: Spans that left the queue and have not reached the sender yet.
        self._preparing = 0
        self._deadline = math.inf
        self._lost = 0
        self.closed = False
        #: Called with each batch that has left the queue; it may deselect spans.
        self.select: Callable[[Sequence[QueuedSpan]], None] | None = None
        self._make_locks()
        sender.start()
        internal_metrics.register_gauges(name, self._gauge_values)
        after_fork_while_alive(self.after_fork)
        if pipeline.media is not None:
            # Uploads take time, and no span is dropped for them.
            pipeline.media.is_behind = lambda: 2 * self.waiting_spans > self.capacity

    def _make_locks(self) -> None:
        # Reentrant: a finalizer or signal handler may end a span while its thread holds the lock.
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._flushed = threading.Condition(self._lock)
        self._flush_requests: list[_FlushRequest] = []
        #: Held by the one thread that uses the pipeline and the sender.
        self._working = threading.Lock()
        self._thread: threading.Thread | None = None
        self._next_pass = time.monotonic() + self._delay

    @property
    def waiting_spans(self) -> int:
        """How many spans wait in memory."""
        return self._queued_spans + self._sender.waiting_spans

    def _gauge_values(self) -> dict[str, int]:
        return {"queue": self.waiting_spans, **self._sender.gauge_values()}

    def enqueue(self, queued: QueuedSpan) -> bool:
        """Append a span to the queue. Returns ``False`` if the queue is full or closed."""
        with self._lock:
            waiting = self._queued_spans + self._preparing + self._sender.waiting_spans
            if self.closed or waiting >= self.capacity or len(self._queue) >= 2 * self.capacity:
                return False
            self._queue.append(queued)
            if queued.selected is not False:
                self._queued_spans += 1
                if self._queued_spans == self._batch_size:
                    self._work.notify()
        if self._thread is None:
            self._start_thread()
        return True

    def flush(self, timeout: float, *, sends: bool = True) -> bool:
        """Send the spans that wait. Returns whether all of them were handed over within ``timeout`` seconds.

        Args:
            timeout: In seconds.
            sends: ``False`` to return when the spans are in the spool, if there is one.
        """
        request = _FlushRequest(time.monotonic() + timeout, sends=sends)
        with self._lock:
            if self.closed or threading.current_thread() is self._thread:
                return False
            if self._start_thread():
                self._flush_requests.append(request)
                self._work.notify()
                self._flushed.wait_for(lambda: request.result is not None, max(timeout, 0.0))
                if request in self._flush_requests:
                    self._flush_requests.remove(request)
                return request.result is True
        self._make_pass([request])
        return request.result is True

    def set_deadline(self, seconds: float) -> None:
        """Try each batch once from now on, and start no attempt after ``seconds``: the process is about to end."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)
        self._sender.set_deadline(self._deadline)
        if self._pipeline.media is not None:
            self._pipeline.media.set_deadline(self._deadline)

    def shutdown(self) -> None:
        """Send the spans that wait and accept no more; drops and counts those that are not sent in time."""
        with self._lock:
            is_first, self.closed = not self.closed, True
            thread = self._thread
            if is_first:
                self.set_deadline(SHUTDOWN_TIMEOUT)
                self._work.notify()
        if not is_first:
            # The process may be ending, so that the first call must be waited for.
            if thread is not None and thread is not threading.current_thread():
                thread.join(max(self._deadline - time.monotonic(), 0.0) + _GRACE)
            return
        if thread is None or not thread.is_alive():
            self._finish()
        elif thread is not threading.current_thread():
            thread.join(max(self._deadline - time.monotonic(), 0.0) + _GRACE)
        with self._lock:
            # Left if the deadline has passed, or if the thread does not return from the exporter of the user's own.
            queued = self._queued_spans
            self._clear_queue()
        internal_metrics.unregister_gauges(self._name)
        self._count_closed(queued)
        lost = self._lost + self._sender.abandon()
        if lost:
            errors.warn_once(
                f"lost.{self._name}",
                "byline.E067: %s did not accept %d spans before the process ended, and they are lost; set spool to "
                "keep such spans on disk",
                self._name,
                lost,
            )

    def after_fork(self) -> None:
        """Start anew in a child process; queued spans are the parent's to send."""
        self._clear_queue()
        self._preparing = 0
        self._deadline = math.inf
        self._lost = 0
        self._make_locks()
        self._pipeline.forget()
        self._sender.after_fork()

    def _clear_queue(self) -> None:
        self._queue.clear()
        self._queued_spans = 0

    def _start_thread(self) -> bool:
        with self._lock:
            if self._thread is not None:
                return True
            if self.closed:
                return False
            thread = threading.Thread(target=self._run, name=f"byline-{self._name}", daemon=True)
            try:
                # Without the context of the request that happens to start the thread.
                contextvars.Context().run(thread.start)
            except RuntimeError:
                # The interpreter is about to exit.
                return False
            self._thread = thread
            self._next_pass = time.monotonic() + self._delay
            return True

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                with self._lock:
                    requests, self._flush_requests = self._flush_requests, []
                try:
                    self._make_pass(requests)
                except Exception:
                    errors.report_internal_error("export")
            self._finish()
        finally:
            with self._lock:
                self._thread = None

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do. Returns ``False`` if the worker is closed."""
        with self._lock:
            while not self._flush_requests:
                if self.closed:
                    return False
                retry = self._sender.next_due()
                due = self._next_pass if retry is None else min(self._next_pass, retry)
                pause = due - time.monotonic()
                if pause <= 0 or self._queued_spans >= self._batch_size:
                    break
                self._work.wait(pause)
            return True

    def _make_pass(self, requests: list[_FlushRequest]) -> None:
        is_sent = False
        try:
            with self._working, suppress_instrumentation():
                now = time.monotonic()
                is_due = bool(requests) or now >= self._next_pass
                if is_due:
                    self._next_pass = now + self._delay
                self._prepare_queued(len(self._queue) if is_due else 0, sends=not requests)
                if is_due and self._pipeline.holds_spans:
                    self._add(self._pipeline.prepare((), flushing=bool(requests)))
                self._sender.keep_copies(self._pipeline.waiting(), self._pipeline.preview)
                deadlines = [request.until for request in requests if request.sends]
                if deadlines:
                    is_sent = self._sender.flush(max(deadlines))
                else:
                    self._sender.send_due()
                    is_sent = not self._sender.waiting_spans
        finally:
            with self._lock:
                for request in requests:
                    request.result = is_sent
                self._flushed.notify_all()

    def _prepare_queued(self, least: int, *, sends: bool) -> None:
        """Prepare so many entries of the queue, and further ones in full batches."""
        while True:
            with self._lock:
                if not self._queue or (least <= 0 and self._queued_spans < self._batch_size):
                    return
                batch = self._take_batch()
            least -= len(batch)
            try:
                if self.select is not None:
                    self.select(batch)
                self._add(self._pipeline.prepare(batch, flushing=not sends))
            finally:
                self._preparing = 0
            if sends:
                self._sender.send_due()

    def _take_batch(self) -> list[QueuedSpan]:
        """Return the next spans of the queue, with the ends of their requests; the lock is held."""
        batch: list[QueuedSpan] = []
        spans = 0
        while self._queue and (spans < self._batch_size or self._queue[0].selected is False):
            queued = self._queue.popleft()
            batch.append(queued)
            spans += queued.selected is not False
        self._queued_spans -= spans
        # Before the lock is released: the app's threads fill the free room at once.
        self._preparing = spans
        return batch

    def _add(self, spans: list[ReadableSpan]) -> None:
        if not spans:
            return
        try:
            self._sender.add(spans)
        except Exception:
            internal_metrics.increment(f"{self._name}.spans.dropped.failed", len(spans))
            errors.report_internal_error("export")

    def _finish(self) -> None:
        with self._working, suppress_instrumentation():
            try:
                if time.monotonic() < self._deadline:
                    self._prepare_queued(len(self._queue), sends=False)
                    self._add(self._pipeline.prepare((), everything=True))
                else:
                    self._count_closed(self._pipeline.clear())
            except Exception:
                errors.report_internal_error("export")
            self._lost += self._sender.close(self._deadline)

    def _count_closed(self, spans: int) -> None:
        if spans:
            self._lost += spans
            internal_metrics.increment(f"{self._name}.spans.dropped.closed", spans)


def _read_variable(variable: str, default: int) -> int:
    try:
        return max(1, int(os.environ.get(variable, "")))
    except ValueError:
        return default
