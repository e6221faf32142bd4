"""Sends by way of a spool: a batch is safe on disk first, and is sent from there by a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from byline import errors, internal_metrics
from byline.export.delivery.http_session import ExportError, OTLPHttpSession, retry_delay
from byline.export.delivery.outlet import Outlet
from byline.export.delivery.split import MAX_REFUSALS, split_batch
from byline.export.delivery.spool import Spool, spans_of

#: What is in a post, which the line does not know.
_HEADERS: Final = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
_IDLE: Final = 30.0
#: How long to leave a destination alone that refuses everything, in seconds.
_REFUSED: Final = 300.0


class SpoolExporter(Outlet):
    """Writes batches to a spool and sends what is there.

    Args:
        name: The destination's name in counters.
        exporter: What sends a batch that the disk does not take.
        spare: The session that the exporter sends by: another one, for both may be under way at once.
        line: The session to send by, which tries each batch once.
        spool: Where batches wait.
        endpoint: Where they are posted.
    """

    stores = True

    def __init__(
        self,
        name: str,
        exporter: SpanExporter,
        spare: OTLPHttpSession,
        *,
        line: OTLPHttpSession,
        spool: Spool,
        endpoint: str,
    ) -> None:
        super().__init__(exporter, spare)
        self._name = name
        self._line = line
        self._spool = spool
        self._endpoint = endpoint
        self._failures = 0
        self._halved = False
        self._refusals = 0
        self._not_before = 0.0
        self._closing = False
        self._prepare()
        self._spool.clear_stale()

    def _prepare(self) -> None:
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._asked = self._seen = 0
        self._rounds = self._failed_rounds = 0
        #: What an earlier process has left.
        self._behind = True
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Send what an earlier process has left, and wait for more."""
        if self._pid != os.getpid():
            self.after_fork()
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"byline-spool-{self._name}", daemon=True)
            # Where the interpreter is about to end there are no threads any more, and `shutdown` sends what waits.
            with contextlib.suppress(RuntimeError):
                thread.start()
                self._thread = thread

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Make a batch safe; it is sent from there."""
        data = encode_spans(spans).SerializePartialToString()
        try:
            self._spool.write(data, len(spans))
        except OSError as error:
            internal_metrics.increment(f"{self._name}.spool.failed")
            errors.warn_once(
                f"disk.{self._name}",
                "byline.E064: the spool of %s takes no batch (%s); it is sent at once or dropped",
                self._name,
                type(error).__name__,
            )
            result = self._exporter.export(spans)
            if result is SpanExportResult.SUCCESS:
                internal_metrics.increment(f"{self._name}.spans.sent", max(len(spans) - self.rejected, 0))
            return result
        internal_metrics.increment(f"{self._name}.spans.spooled", len(spans))
        self.start()
        with self._wake:
            self._asked += 1
            self._wake.notify_all()
        return SpanExportResult.SUCCESS

    def empty(self, timeout: float) -> bool:
        """Try at once to send everything. Returns whether the spool is empty within ``timeout`` seconds."""
        if self._closing or self._spool.is_empty():
            return self._spool.is_empty()
        self.start()
        with self._wake:
            rounds, failed = self._rounds, self._failed_rounds
            self._not_before = 0.0
            self._asked += 1
            self._wake.notify_all()
            # A round that is under way may have begun before the last batch was there.
            self._wake.wait_for(
                lambda: self._rounds >= rounds + 2 or self._failed_rounds > failed or self._spool.is_empty(), timeout
            )
        return self._spool.is_empty()

    def levels(self) -> dict[str, int]:
        """Return what waits on disk."""
        waiting = self._spool.waiting()
        return {"spool.files": waiting.files, "spool.spans": waiting.spans, "spool.bytes": waiting.size}

    def hurry(self, seconds: float) -> None:
        """Try each batch once from now on, and none after so many seconds."""
        super().hurry(seconds)
        self._line.hurry(seconds)

    def shutdown(self) -> None:
        """Send what can be sent now; the rest waits on disk for the next process."""
        self._closing = True
        with self._wake:
            self._wake.notify_all()
        thread = self._thread
        if thread is not None and self._pid == os.getpid():
            # One that hangs in an answer is left behind.
            thread.join(min(self._line.left, _IDLE))
        self._round()
        super().shutdown()

    def after_fork(self) -> None:
        """Start anew in a child process."""
        super().after_fork()
        self._line.after_fork()
        self._spool.after_fork()
        self._prepare()
        self._not_before = 0.0

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                done = self._round()
            except Exception:
                done = False
                self._not_before = time.monotonic() + _IDLE
                errors.report_internal_error("spool")
            with self._wake:
                self._rounds += 1
                self._failed_rounds += not done
                self._behind = not done
                self._wake.notify_all()

    def _wait_for_work(self) -> bool:
        with self._wake:
            while not self._closing:
                pause = self._not_before - time.monotonic()
                if pause > 0:
                    self._wake.wait(min(pause, _IDLE))
                elif self._behind or self._asked != self._seen:
                    break
                elif not self._wake.wait(_IDLE):
                    # Another process may have left something behind.
                    break
            self._seen = self._asked
            return not self._closing

    def _round(self) -> bool:
        """Send all that waits, the oldest first. Returns whether it got to the end."""
        self._halved = True
        while self._halved:
            self._halved = False
            if not self._send_all():
                return False
        return True

    def _send_all(self) -> bool:
        for path in self._spool.paths():
            with self._spool.take(path) as data:
                if data is None:
                    continue
                try:
                    with suppress_instrumentation():
                        self._line.request("POST", self._endpoint, data=data, headers=_HEADERS)
                except ExportError as undelivered:
                    if undelivered.hopeless:
                        self._split(path, data if undelivered.divisible and self._refusals < MAX_REFUSALS else b"")
                        continue
                    self._pause(undelivered)
                    return False
                self._failures = self._refusals = 0
                self._spool.delete(path)
                internal_metrics.increment(
                    f"{self._name}.spans.sent", max(spans_of(path.name) - self._line.rejected, 0)
                )
        return True

    def _split(self, path: Path, data: bytes) -> None:
        """Try the halves of a batch that is refused; of a single span there is nothing left to try."""
        written: list[Path] = []
        try:
            for half, spans in split_batch(data) if data else ():
                written.append(self._spool.write(half, spans))
        except Exception:
            # One of them alone would be sent, and the whole counted as refused.
            for half_path in written:
                self._spool.delete(half_path)
            written = []
        if written:
            self._halved = True
            self._refusals += 1
        else:
            internal_metrics.increment(f"{self._name}.spans.dropped.refused", spans_of(path.name))
        self._spool.delete(path)

    def _pause(self, undelivered: ExportError) -> None:
        seconds = max(undelivered.wait or 0.0, retry_delay(self._failures)) if undelivered.passing else _REFUSED
        self._failures += 1
        self._not_before = time.monotonic() + seconds
