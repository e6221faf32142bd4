"""One attempt to send a batch: as a request to the endpoint, or through an exporter of the user's own."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from byline import errors, internal_metrics
from byline.export.delivery import messages
from byline.export.delivery.batch import Batch, decode_spans, encode_spans
from byline.export.delivery.http_client import HttpClient
from byline.export.delivery.messages import Outcome
from byline.export.delivery.transport import DEFAULT_TRANSPORT, Transport
from byline.urls import without_credentials

_HEADERS: Final = {
    "content-type": "application/x-protobuf",
    "content-encoding": "gzip",
    "user-agent": "OTel-OTLP-Exporter-Python byline",
}


class EndpointPost:
    """Posts batches to an OTLP endpoint.

    Args:
        name: The destination's name in counters and messages.
        endpoint: Full URL.
        headers: Headers of each request.
        timeout: Seconds for one request, by default as OpenTelemetry's variables say.
        transport: TLS and proxy.
    """

    def __init__(
        self,
        name: str,
        endpoint: str,
        headers: Mapping[str, str],
        *,
        timeout: float | None,
        transport: Transport = DEFAULT_TRANSPORT,
    ) -> None:
        self._name = name
        self._endpoint = without_credentials(endpoint)
        self._client = HttpClient(endpoint, headers, timeout=timeout, transport=transport)
        self.last_response = ""

    def send_batch(self, batch: Batch) -> Outcome:
        """Post a batch once. A connection that turns out to be closed is replaced by another one."""
        while True:
            started = time.monotonic()
            with suppress_instrumentation():
                response = self._client.send_request("POST", batch.data, _HEADERS)
            seconds = time.monotonic() - started
            self.last_response = response.summary
            internal_metrics.increment(f"{self._name}.submissions")
            messages.debug_print(
                f"{self._name}: POST {self._endpoint}, {len(batch.data)} bytes: {response.summary} in {seconds:.2f} s"
            )
            if response.is_accepted:
                return Outcome(rejected=min(response.rejected_spans, batch.spans))
            internal_metrics.increment(f"{self._name}.submissions.failed")
            if not response.is_stale:
                return messages.judge_failure(
                    self._name,
                    self._endpoint,
                    status=response.status,
                    reason=response.reason,
                    is_html_page=response.is_html_page,
                    wait=response.retry_after,
                )

    def set_deadline(self, until: float) -> None:
        """End the request under way, and every later one, by a moment of the monotonic clock."""
        self._client.set_deadline(until)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def after_fork(self) -> None:
        """Leave the parent's connection to the parent."""
        self._client.after_fork()


class ExporterPost:
    """Hands batches to an exporter of the user's own, as spans of the SDK.

    Args:
        name: The destination's name in messages.
        exporter: The exporter, which has timeouts of its own.
    """

    last_response = ""

    def __init__(self, name: str, exporter: SpanExporter) -> None:
        self._name = name
        self._exporter = exporter

    def send_batch(self, batch: Batch) -> Outcome:
        """Export a batch once."""
        try:
            with suppress_instrumentation():
                result = self._exporter.export(decode_spans(batch))
        except OSError as error:
            reason = type(error).__name__
        except BaseException as error:
            errors.report_callback_error("exporter")
            # A retry of the whole would fail the same way; the cause may be one of the spans.
            return Outcome(type(error).__name__, is_splittable=True)
        else:
            if result is SpanExportResult.SUCCESS:
                return Outcome()
            reason = "its exporter failed"
        errors.warn_once(
            f"unreachable.{self._name}",
            "byline.E059: %s accepts no spans at the moment (%s): check the exporter's own log. They are retried",
            self._name,
            reason,
        )
        return Outcome(reason, is_retryable=True, is_splittable=True)

    def set_deadline(self, until: float) -> None:
        """Do nothing: an exporter knows no deadline."""

    def close(self) -> None:
        """Shut the exporter down."""
        try:
            self._exporter.shutdown()
        except BaseException:
            errors.report_callback_error("exporter")

    def after_fork(self) -> None:
        """Do nothing: exporters handle forks themselves."""


class OTLPExporter(SpanExporter):
    """Posts each batch once, for callers that need an exporter of the SDK and wait for the result.

    Args:
        endpoint: Full URL.
        headers: Headers of each request.
        transport: TLS and proxy.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], transport: Transport = DEFAULT_TRANSPORT) -> None:
        self._client = HttpClient(endpoint, headers, transport=transport)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Post a batch."""
        data = gzip.compress(encode_spans(spans), compresslevel=5)
        response = self._client.send_request("POST", data, _HEADERS)
        if response.is_stale:
            response = self._client.send_request("POST", data, _HEADERS)
        return SpanExportResult.SUCCESS if response.is_accepted else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection."""
        self._client.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - as exporters have it
        """Return ``True``, because no batch waits here."""
        return True
