"""The one way out of a destination: batches are encoded once, stored in memory or on disk, and sent from there.

A batch that fails by itself gets a retry time of its own and stops no other batch. A failure that concerns the whole
destination pauses all. Every span of a batch is counted once: as sent, or as dropped with the reason.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from byline import errors, internal_metrics
from byline.export.delivery import messages
from byline.export.delivery.batch import MAX_REFUSALS, Batch, encode_batches, encode_spans, split_batch
from byline.export.delivery.messages import Outcome
from byline.export.delivery.post import EndpointPost, ExporterPost
from byline.export.delivery.retry_schedule import RetrySchedule, retry_delay
from byline.export.delivery.store import DEFAULT_BYTES, DiskStore, MemoryStore, Store
from byline.export.delivery.transport import DEFAULT_TRANSPORT, Transport
from byline.export.delivery.waiting_spans import WaitingSpans

#: Seconds for which a batch in memory is retried. A longer Retry-After is waited for.
_PATIENCE: Final = 10.0
#: Seconds after which a spool is searched for batches that another process left behind.
_SPOOL_INTERVAL: Final = 30.0
#: Seconds between two looks at a batch that another process is sending.
_LOCKED_INTERVAL: Final = 0.1
#: Failures in a row, each of another batch, that are taken for a failure of the destination.
_FAILURES_IN_A_ROW: Final = 2
_FAILURES_OF_A_FLUSH: Final = 10
#: Failures of one batch, while others are accepted, after which an exporter of the user's own gets two halves instead.
_FAILURES_ALONE: Final = 3
_Span = TypeVar("_Span")


class BatchSender:
    """Stores and sends the batches of one destination.

    Without a spool everything runs on the thread that calls; with one, a thread of the sender's own sends, so that
    batches reach the disk while a request hangs. A spool's batch that the disk does not take waits in memory.

    Args:
        name: The destination's name in counters and messages.
        endpoint: Full URL.
        headers: Headers of each request.
        exporter: Exporter of the user's own, which gets the batches instead of the endpoint.
        spool: Folder of the spool, ``None`` for batches in memory.
        spool_bytes: Bytes that may wait in the spool.
        fsync: Whether the system writes each batch to the disk at once (``fsync``).
        timeout: Seconds for one request, by default ten or as OpenTelemetry's variables say.
        patience: Seconds for which a batch in memory is retried, by default ten.
        delay: Returns the seconds until the next attempt, by the number of failures before; by default `retry_delay`.
        clock: Tells the time by which retries are due.
        transport: TLS and proxy.
    """

    def __init__(
        self,
        name: str,
        *,
        endpoint: str,
        headers: Mapping[str, str],
        exporter: SpanExporter | None = None,
        spool: Path | None = None,
        spool_bytes: int = DEFAULT_BYTES,
        fsync: bool = False,
        timeout: float | None = None,
        patience: float | None = None,
        delay: Callable[[int], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> None:
        self._name = name
        self._post: EndpointPost | ExporterPost = (
            EndpointPost(name, endpoint, headers, timeout=timeout, transport=transport)
            if exporter is None
            else ExporterPost(name, exporter)
        )
        self._memory = MemoryStore()
        self._disk: DiskStore | None = None
        self._waiting: WaitingSpans | None = None
        if spool is not None:
            make_store = partial(DiskStore, name=name, max_bytes=spool_bytes, headers=headers, fsync=fsync)
            self._disk = make_store(spool)
            self._disk.clear_stale()
            self._waiting = WaitingSpans(spool, name, make_store)
            self._recover_at = 0.0
        self._patience = _PATIENCE if patience is None else patience
        self._clock = clock
        self._make_schedule = partial(RetrySchedule, delay=delay or retry_delay, clock=clock)
        #: Advice on the last response; empty if the batch was accepted.
        self.advice = ""
        #: Spans that the destination rejected out of accepted batches, and spans that were dropped.
        self.rejected_spans = 0
        self.lost_spans = 0
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._retries = self._make_schedule()
        self._refusals = 0
        #: Keys of the batches that a flush is about, with the parts into which they are split.
        self._flushing: set[str] = set()
        self._closing = False
        #: Whether the sender's thread did not end in time, and has to close the connection.
        self._is_abandoned = False
        self._deadline = math.inf
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._has_new = True
        self._flushes_asked = self._flushes_done = 0
        self._flush_until = 0.0
        self._is_flushed = False

    @property
    def last_response(self) -> str:
        """Status and reason of the last response."""
        return self._post.last_response

    @property
    def waiting_spans(self) -> int:
        """Spans in memory, which count against the queue's capacity."""
        return self._memory.spans

    def gauge_values(self) -> dict[str, int]:
        """Return the batches that wait on disk, the age of the oldest, and the number of batches by reason."""
        values = {}
        waiting = self._memory.measure_waiting()
        count, age = waiting.files, waiting.age
        if self._disk is not None:
            spooled = self._disk.measure_waiting()
            values = {"spool.files": spooled.files, "spool.spans": spooled.spans, "spool.bytes": spooled.size}
            count, age = count + spooled.files, max(age, spooled.age)
        values["waiting.seconds"] = int(age)
        for reason, batches in self._retries.count_reasons(count).items():
            values[f"waiting.because.{messages.reason_key(reason)}"] = batches
        return values

    def start(self) -> None:
        """Send the batches that an earlier process has left in the spool, and import the encoder."""
        encode_spans(())
        self._has_thread()

    def add(self, spans: Sequence[ReadableSpan]) -> None:
        """Encode and store a batch."""
        for batch in encode_batches(spans):
            if isinstance(batch, int):
                errors.error_once(
                    f"encode.{self._name}",
                    "byline.E058: a span for %s cannot be encoded as OTLP and is dropped; check the types of its "
                    "attributes",
                    self._name,
                )
                self._count_dropped("unsent", batch)
            else:
                self._store(batch)
        if self._disk is not None and self._has_thread():
            with self._wake:
                self._has_new = True
                self._wake.notify_all()

    def keep_copies(self, waiting: Collection[_Span], finish: Callable[[_Span], ReadableSpan | None]) -> None:
        """Keep copies of spans that wait elsewhere in the spool, if there is one: `WaitingSpans.update`."""
        if self._waiting is not None:
            self._waiting.update(waiting, finish)

    def _store(self, batch: Batch) -> None:
        if self._disk is not None:
            try:
                self._disk.add_batch(batch)
            except OSError as error:
                internal_metrics.increment(f"{self._name}.spool.failed")
                errors.warn_once(
                    f"disk.{self._name}",
                    "byline.E064: a batch cannot be written to the spool of %s (%s) and is kept in memory; check the "
                    "free disk space and the permissions of the folder",
                    self._name,
                    type(error).__name__,
                )
            else:
                internal_metrics.increment(f"{self._name}.spans.spooled", batch.spans)
                return
        self._retries.add_batch(self._memory.add_batch(batch), self._clock() + self._patience)

    def send_due(self) -> None:
        """Try each batch in memory that is due. With a spool the sender's own thread does so."""
        if self._disk is None:
            self._send_round()

    def next_due(self) -> float | None:
        """Return when the next batch in memory is due, ``None`` if there is none."""
        return self._retries.next_due(self._memory.list_keys()) if self._disk is None else None

    def flush(self, until: float) -> bool:
        """Try every batch at once, and wait for retries until a moment of the clock.

        Batches in memory are retried by the schedule. Batches on disk are tried once more if the server asked to wait
        and the time fits, because they are safe there.

        Returns:
            Whether no batch is left of those that waited, and none in memory was dropped.
        """
        if self._disk is None or self._closing or not self._has_thread():
            return self._flush_here(until)
        with self._wake:
            self._flush_until = max(self._flush_until, until)
            self._flushes_asked += 1
            number = self._flushes_asked
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._flushes_done >= number or self._closing, max(until - self._clock(), 0.0))
            return self._flushes_done >= number and self._is_flushed

    def set_deadline(self, until: float) -> None:
        """Try each batch once from now on, and none after a moment of the monotonic clock. Safe from any thread."""
        self._deadline = min(self._deadline, until)
        self._post.set_deadline(until)
        with self._wake:
            self._wake.notify_all()

    def close(self, until: float) -> int:
        """Make a last attempt for each batch, none of them after a moment of the monotonic clock.

        Returns:
            Number of spans in memory that are lost, and counted as dropped. Batches on disk stay for the next process.
        """
        self.set_deadline(until)
        if self._closing:
            return 0
        if self._waiting is not None:
            self._waiting.close()
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        thread = self._thread
        if thread is not None and self._pid == os.getpid():
            thread.join(max(until - time.monotonic(), 0.0) + 2 * _LOCKED_INTERVAL)
            self._is_abandoned = thread.is_alive()
        if thread is None or not thread.is_alive():
            try:
                self._send_round(everything=True, limit=_FAILURES_OF_A_FLUSH)
            finally:
                self._post.close()
        return self.abandon()

    def abandon(self) -> int:
        """Count all spans in memory as dropped, also while an attempt hangs in another thread. Returns their number."""
        return sum(self._drop(key) for key in self._memory.list_keys())

    def after_fork(self) -> None:
        """Start anew in a child process; batches in memory are the parent's to send."""
        self._post.after_fork()
        self._memory.clear()
        if self._disk is not None:
            self._disk.after_fork()
        if self._waiting is not None:
            self._waiting.after_fork()
        self._reset()

    def _has_thread(self) -> bool:
        if self._disk is None:
            return False
        if self._pid != os.getpid():
            self.after_fork()
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"byline-spool-{self._name}", daemon=True)
            # At the interpreter's end no thread can be started any more; `close` sends then.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread
        return self._thread is not None

    def _work(self) -> None:
        resume = 0.0
        while (flushes := self._wait_for_work(resume)) is not None:
            try:
                if flushes > self._flushes_done:
                    self._is_flushed = False
                    self._is_flushed = self._flush_here(self._flush_until)
                else:
                    self._send_round()
                resume = self._next_round()
            except Exception:
                resume = self._clock() + _SPOOL_INTERVAL
                errors.report_internal_error("spool")
            finally:
                with self._wake:
                    self._flushes_done = max(self._flushes_done, flushes)
                    if self._flushes_done == self._flushes_asked:
                        self._flush_until = 0.0
                    self._wake.notify_all()
        if self._is_abandoned:
            self._post.close()

    def _wait_for_work(self, resume: float) -> int | None:
        """Wait until there is something to send. Returns the number of flushes asked for; ``None`` at the end."""
        with self._wake:
            while not self._closing and self._flushes_asked == self._flushes_done:
                start = self._retries.paused_until if self._has_new else resume
                seconds = start - self._clock()
                if seconds <= 0:
                    break
                self._wake.wait(min(seconds, _SPOOL_INTERVAL))
            self._has_new = False
            return None if self._closing else self._flushes_asked

    def _next_round(self) -> float:
        now = self._clock()
        if self._retries.paused_until > now:
            return self._retries.paused_until
        # A batch that is still there without a failure is being sent by another process.
        return min(self._retries.next_retry() or now + _SPOOL_INTERVAL, now + _SPOOL_INTERVAL)

    def _flush_here(self, until: float) -> bool:
        lost = self.lost_spans
        self._flushing = set(self._list_batches())
        everything = True
        while True:
            self._send_round(everything=everything, limit=_FAILURES_OF_A_FLUSH)
            everything = False
            left = {key: store for key, store in self._list_batches().items() if key in self._flushing}
            retry_at = self._next_retry(left)
            if not left or retry_at is None or retry_at >= until or self._is_ending:
                break
            with self._wake:
                self._wake.wait_for(lambda: self._is_ending, max(retry_at - self._clock(), 0.0))
        self._flushing = set()
        return not left and (self._disk is not None or lost == self.lost_spans)

    @property
    def _is_ending(self) -> bool:
        return self._closing or self._deadline < math.inf

    def _next_retry(self, left: Mapping[str, Store]) -> float | None:
        """Return when a flush tries again, ``None`` for not at all."""
        if self._disk is None:
            return self.next_due()
        if self._retries.asked_until > self._clock():
            return self._retries.asked_until
        if all(store is self._disk and self._disk.is_locked(key) for key, store in left.items()):
            return self._clock() + _LOCKED_INTERVAL
        return None

    def _list_batches(self) -> dict[str, Store]:
        batches: dict[str, Store] = dict.fromkeys(self._memory.list_keys(), self._memory)
        if self._disk is not None:
            if self._waiting is not None and self._clock() >= self._recover_at:
                self._recover_at = self._clock() + _SPOOL_INTERVAL
                self._waiting.recover()
            batches.update(dict.fromkeys(self._disk.list_keys(), self._disk))
        return batches

    def _send_round(self, *, everything: bool = False, limit: int = _FAILURES_IN_A_ROW) -> None:
        """Try the batches that are due, or all, until one failure concerns the whole destination."""
        if not everything and self._clock() < self._retries.paused_until:
            return
        stores = self._list_batches()
        queue = deque(self._retries.rank_batches(list(stores), everything=everything, is_ending=self._is_ending))
        failures = 0
        while queue and time.monotonic() < self._deadline:
            key = queue.popleft()
            store = stores[key]
            with store.hold_batch(key) as batch:
                if batch is None:
                    self._retries.postpone_batch(key)
                    continue
                outcome = self._post.send_batch(batch)
                self.advice = outcome.advice
                if outcome.is_accepted:
                    failures = 0
                    self._settle(store, key, batch, outcome)
                    continue
                if self._is_at_fault(store, key, outcome):
                    parts = self._split(store, key, batch, outcome)
                    stores.update(dict.fromkeys(parts, store))
                    queue.extendleft(reversed(parts))
                    continue
            failures += 1
            is_paused = self._retries.note_failure(key, outcome, in_a_row=failures >= limit, is_ending=self._is_ending)
            self._drop_expired()
            if outcome.are_keys_refused and self._disk is not None:
                renamed = self._disk.release_account()
                self._flushing.update(renamed[old] for old in self._flushing.intersection(renamed))
            if is_paused:
                break

    def _settle(self, store: Store, key: str, batch: Batch, outcome: Outcome) -> None:
        self._refusals = 0
        self._retries.note_success(key)
        if self._disk is not None:
            self._disk.bind_account()
        if store.remove_batch(key):
            internal_metrics.increment(f"{self._name}.spans.sent", batch.spans - outcome.rejected)
            if outcome.rejected:
                self.rejected_spans += outcome.rejected
                internal_metrics.increment(f"{self._name}.spans.dropped.rejected", outcome.rejected)

    def _is_at_fault(self, store: Store, key: str, outcome: Outcome) -> bool:
        """Return whether the batch is refused for a reason of its own, or cannot wait until a setting is corrected."""
        if outcome.is_misconfigured:
            return store is self._memory and not outcome.is_retryable
        return not outcome.is_retryable or (
            outcome.is_splittable and self._retries.failures_alone(key) >= _FAILURES_ALONE
        )

    def _split(self, store: Store, key: str, batch: Batch, outcome: Outcome) -> list[str]:
        """Replace a batch by two halves, or drop the batch. Returns the keys of the halves."""
        parts: list[str] = []
        if outcome.is_splittable and self._refusals < MAX_REFUSALS:
            try:
                for half in split_batch(batch):
                    parts.append(store.add_batch(half))  # noqa: PERF401 - the first half is undone if the second fails
            except Exception:
                # One half alone would be sent, and the whole counted as dropped.
                for part in parts:
                    store.remove_batch(part)
                parts = []
        if not store.remove_batch(key):
            for part in parts:
                store.remove_batch(part)
            return []
        self._retries.replace_batch(key, parts)
        if parts:
            self._refusals += 1
            if key in self._flushing:
                self._flushing.update(parts)
        else:
            self._count_dropped("unsent" if self._disk is None or store is self._memory else "refused", batch.spans)
        return parts

    def _drop_expired(self) -> None:
        for key in self._retries.list_expired(self._memory.list_keys()):
            self._drop(key)

    def _drop(self, key: str) -> int:
        with self._memory.hold_batch(key) as batch:
            # Two threads may drop a batch at the same time; one of them counts.
            if batch is None or not self._memory.remove_batch(key):
                return 0
        self._retries.replace_batch(key, ())
        self._count_dropped("unsent", batch.spans)
        return batch.spans

    def _count_dropped(self, why: str, spans: int) -> None:
        self.lost_spans += spans
        internal_metrics.increment(f"{self._name}.spans.dropped.{why}", spans)
