"""A destination: where spans go, built on the SDK's batch processor and OTLP exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from byline.settings import SettingError
from byline.spans import recognition

Spans = Literal["llm", "all"] | Callable[[ReadableSpan], bool]

_LOOPBACK = ("localhost", "::1")


class CheckResult(NamedTuple):
    """What a test of a destination found, and what to do about it."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


class Destination:
    """Where spans go.

    Args:
        endpoint: Full URL to which OTLP/HTTP exports are posted.
        headers: Headers of each export.
        spans: ``"llm"`` for LLM spans, ``"all"``, or a function of the finished span.
        allow_http: Hosts to which unencrypted exports may go; loopback always may.

    Raises:
        SettingError: ``byline.E040`` for an endpoint that cannot be used, ``byline.E042`` for
            ``http://`` towards another host, ``byline.E043`` for an unknown ``spans``.
    """

    name = "destination"

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        spans: Spans = "all",
        allow_http: Sequence[str] = (),
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingError("byline.E040", f"{endpoint!r} is no http(s) URL", "write it as https://host/path")
        local = parts.hostname in _LOOPBACK or parts.hostname.startswith("127.")
        if parts.scheme == "http" and not local and parts.hostname not in allow_http:
            raise SettingError(
                "byline.E042",
                f"{parts.hostname} would get spans unencrypted",
                f"use https://, or pass allow_http=[{parts.hostname!r}]",
            )
        if spans not in ("llm", "all") and not callable(spans):
            raise SettingError("byline.E043", f"spans={spans!r}", 'pass "llm", "all" or a function of the span')
        self.endpoint = endpoint
        self.headers = dict(headers or {})
        self.spans = spans
        self._processor: BatchSpanProcessor | None = None

    def exporter(self) -> SpanExporter:
        """Make an exporter of the kind that this destination uses."""
        return OTLPSpanExporter(endpoint=self.endpoint, headers=self.headers, compression=Compression.Gzip)

    def processor(self) -> SpanProcessor:
        """Return the span processor that feeds this destination; always the same one."""
        if self._processor is None:
            self._processor = _PickingProcessor(self.exporter(), self.picks)
        return self._processor

    def picks(self, span: ReadableSpan) -> bool:
        """Whether a finished span goes to this destination."""
        if self.spans == "all":
            return True
        if self.spans == "llm":
            return recognition.is_llm_span(span)
        return bool(self.spans(span))

    def flush(self, timeout: float = 10.0) -> bool:
        """Send what waits. Returns whether it was handed over within ``timeout`` seconds."""
        return self._processor is None or self._processor.force_flush(int(timeout * 1000))

    def shutdown(self) -> None:
        """Send what waits and stop."""
        if self._processor is not None:
            self._processor.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
            self._processor = None

    def check(self) -> list[CheckResult]:
        """Test the destination for real: an export must be accepted."""
        exporter = self.exporter()
        provider = TracerProvider(shutdown_on_exit=False)
        span = provider.get_tracer("byline").start_span("byline check", attributes={"gen_ai.operation.name": "chat"})
        span.end()
        try:
            done = exporter.export([span]) is SpanExportResult.SUCCESS  # type: ignore[list-item]
        finally:
            exporter.shutdown()  # type: ignore[no-untyped-call, unused-ignore]
        return [
            CheckResult(
                f"{self.name} export",
                done,
                self.endpoint,
                "" if done else "check the endpoint, its credentials, and that it takes OTLP over HTTP",
            )
        ]


class _PickingProcessor(BatchSpanProcessor):
    def __init__(self, exporter: SpanExporter, picks: Callable[[ReadableSpan], bool]) -> None:
        super().__init__(exporter)
        self._picks = picks

    def on_end(self, span: ReadableSpan) -> None:
        if self._picks(span):
            super().on_end(span)
