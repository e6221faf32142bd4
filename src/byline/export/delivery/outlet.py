"""The last station of a destination's spans: an exporter and the line that it sends by."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from byline.export.delivery.http_session import OTLPHttpSession


class Outlet(SpanExporter):
    """Hands batches to an exporter.

    Args:
        exporter: The exporter.
        line: The session that it sends by, ``None`` where it has one of its own.
    """

    #: Whether batches are kept until they are sent, and counted here when they are.
    stores = False

    def __init__(self, exporter: SpanExporter, line: OTLPHttpSession | None = None) -> None:
        self._exporter = exporter
        self._outer_line = line

    def start(self) -> None:
        """Begin to send what waits from before."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        return self._exporter.export(spans)

    @property
    def posts(self) -> int:
        """How many posts were made."""
        return 0 if self._outer_line is None else self._outer_line.posts

    @property
    def rejected(self) -> int:
        """How many spans of the last batch were rejected although it was taken."""
        return 0 if self._outer_line is None else self._outer_line.rejected

    def refused_batch(self, posts: int) -> bool:
        """Whether the last batch failed by itself: it was refused, or was never posted since ``posts``."""
        line = self._outer_line
        return line is not None and (line.divisible or line.posts == posts)

    def empty(self, timeout: float) -> bool:  # noqa: ARG002 - for outlets that keep something
        """Send what is kept here. Returns whether nothing is left."""
        return True

    def levels(self) -> dict[str, int]:
        """Return what waits here, by name."""
        return {}

    def hurry(self, seconds: float) -> None:
        """Try each batch once from now on, and none after so many seconds."""
        if self._outer_line is not None:
            self._outer_line.hurry(seconds)

    def after_fork(self) -> None:
        """Start anew in a child process."""
        if self._outer_line is not None:
            self._outer_line.after_fork()

    def shutdown(self) -> None:
        """Stop."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what is kept here."""
        return self.empty(timeout_millis / 1000)
