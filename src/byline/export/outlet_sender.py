"""Sends batches through an outlet, until `byline.export.delivery` has a sender with a retry schedule of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from byline import errors, internal_metrics
from byline.export.delivery.http_session import ExportError
from byline.export.delivery.outlet import Outlet
from byline.export.delivery.split import MAX_REFUSALS


class BatchSender:
    """Sends each batch as soon as it is added.

    Args:
        name: The destination's label in counters.
        outlet: Posts or stores batches.
    """

    def __init__(self, name: str, outlet: Outlet) -> None:
        self._name = name
        self._outlet = outlet
        self._pending: list[Sequence[ReadableSpan]] = []
        self._refusals = 0
        self.waiting_spans = 0
        outlet.start()

    def add(self, spans: Sequence[ReadableSpan]) -> None:
        """Take a batch."""
        self._pending.append(spans)

    def send_due(self) -> None:
        """Send the batches that were added."""
        self._send_pending()

    def next_due(self) -> float | None:
        """Return when the next batch is due."""
        return None

    def set_deadline(self, until: float) -> None:
        """Try each batch once, and none after this moment."""
        self._outlet.hurry(until - time.monotonic())

    def flush(self, until: float) -> bool:
        """Send everything. Returns whether all of it was accepted in time."""
        return self._send_pending() and self._outlet.empty(max(until - time.monotonic(), 0.0))

    def close(self, until: float) -> None:
        """Send everything and stop."""
        self.set_deadline(until)
        self._send_pending()
        self._outlet.shutdown()

    def gauge_values(self) -> dict[str, int]:
        """Return how much waits."""
        return self._outlet.levels()

    def after_fork(self) -> None:
        """Start anew in a child process."""
        self._pending.clear()
        self._outlet.after_fork()

    def _send_pending(self) -> bool:
        is_sent = True
        while self._pending:
            is_sent = self._send(self._pending.pop(0)) and is_sent
        return is_sent

    def _send(self, spans: Sequence[ReadableSpan]) -> bool:
        posts = self._outlet.posts
        try:
            result = self._outlet.export(spans)
        except ExportError:
            # Older exporters let it through.
            result = SpanExportResult.FAILURE
        except Exception:
            result = SpanExportResult.FAILURE
            errors.report_internal_error("exporter")
        if result is SpanExportResult.SUCCESS:
            self._refusals = 0
            if not self._outlet.stores:
                internal_metrics.increment(f"{self._name}.spans.sent", max(len(spans) - self._outlet.rejected, 0))
            return True
        if len(spans) > 1 and self._refusals < MAX_REFUSALS and self._outlet.refused_batch(posts):
            self._refusals += 1
            half = len(spans) // 2
            return all([self._send(spans[:half]), self._send(spans[half:])])
        internal_metrics.increment(f"{self._name}.spans.dropped.unsent", len(spans))
        return False
