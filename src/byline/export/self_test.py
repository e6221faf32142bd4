"""A rehearsal: a made-up request goes a destination's whole way, and it is said what arrives of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind

from byline import errors, request_context
from byline.export.delivery import messages
from byline.export.delivery.http_session import OTLPHttpSession
from byline.export.delivery.outlet import Outlet
from byline.export.options import CheckResult
from byline.export.processor import DestinationSpanProcessor
from byline.export.sampling import is_sampled
from byline.genai import attributes as names
from byline.genai import server_span
from byline.genai.attributes import AttributeValue
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.request_context import RequestContext

_CHAT: Final[dict[str, AttributeValue]] = {
    names.OPERATION_NAME: "chat",
    names.PROVIDER_NAME: "byline",
    names.REQUEST_MODEL: "no-model",
    names.CALL_RESULT[
        "input_messages"
    ]: '[{"role": "user", "parts": [{"type": "text", "content": "Does this arrive?"}]}]',
    names.CALL_RESULT["output_messages"]: '[{"role": "assistant", "parts": [{"type": "text", "content": "It does."}]}]',
    names.CALL_RESULT["input_tokens"]: 3,
    names.CALL_RESULT["output_tokens"]: 2,
}


#: Seconds to wait for an answer: longer than an exporter does, which says best what became of it.
PATIENCE: Final = 15.0


class RecordingExporter(Outlet):
    """An outlet that remembers what went through, and whether all of it was taken."""

    def __init__(self, inner: Outlet) -> None:
        super().__init__(inner)
        self.spans: list[ReadableSpan] = []
        self._batches = 0
        self._taken = 0

    @property
    def taken(self) -> bool:
        """Whether each batch was accepted; one that has no answer yet was not."""
        return self._taken == self._batches

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        self.spans += spans
        self._batches += 1
        result = super().export(spans)
        self._taken += result is SpanExportResult.SUCCESS
        return result


@contextlib.contextmanager
def silence_logs(about: str = "") -> Iterator[None]:
    """Log nothing of a test: it would be said of the app's own spans, and its substance is in the results.

    Args:
        about: What byline's messages of the test name, by default all of them. What is said once and not
            heard now, is never heard.
    """

    def let_through(message: logging.LogRecord) -> bool:
        return about not in message.getMessage()

    exporters = logging.getLogger("opentelemetry")
    level = exporters.level
    exporters.setLevel(logging.CRITICAL + 1)
    errors.logger.addFilter(let_through)
    try:
        yield
    finally:
        errors.logger.removeFilter(let_through)
        exporters.setLevel(level)


def send_test_request(feed: DestinationSpanProcessor, share: float) -> None:
    """Play a request with one model call in it, in a session that a sampler would keep."""
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in (AttributionSpanProcessor(), feed):
        provider.add_span_processor(processor)
    tracer = provider.get_tracer("rehearsal")
    session = next((name for number in range(10_000) if is_sampled(name := f"byline-check-{number}", share)), "none")
    owner = RequestContext()
    owner.bind(
        {
            "session_id": session,
            "user_id": "byline-check",
            "trace_name": "byline check",
            "span_name": "rehearsal",
            "generation_name": "byline check call",
            "tags": ["byline-check"],
        }
    )
    span = tracer.start_span("byline check request", kind=SpanKind.SERVER)
    server_span.set_server_span(owner, span)
    token = request_context.attach(owner)
    try:
        with trace.use_span(span, end_on_exit=True):
            tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=_CHAT).end()
    finally:
        request_context.detach(token)
    # The end of a provider waits for nobody.
    feed.flush(PATIENCE)
    provider.shutdown()


def evaluate(
    name: str, endpoint: str, outlet: RecordingExporter, line: OTLPHttpSession, *, filtered: bool
) -> list[CheckResult]:
    """Say whether a destination has taken what came through, and what that was.

    Args:
        name: The destination's.
        endpoint: Its endpoint.
        outlet: What the spans went through.
        line: What they were sent by.
        filtered: Whether it has filters, which may be for others than the made-up request. A sampling of
            nought is for nobody.
    """
    if not outlet.taken:
        told = line.told or messages.NO_ANSWER
        return [
            CheckResult(
                f"{name} export", False, f"{endpoint}: {told}", line.advice or messages.advice_for_error(told, endpoint)
            )
        ]
    advice = "" if outlet.spans else "look at its filters, and at its sampling"
    results = [
        CheckResult(f"{name} export", True, endpoint),
        CheckResult(f"{name} gets", bool(outlet.spans) or filtered, describe_result(outlet.spans), advice),
    ]
    if line.rejected:
        told = f"{line.rejected} of {len(outlet.spans)} spans were rejected"
        results.append(CheckResult(f"{name} takes all", False, told, "the backend's own log says why"))
    return results


def spool_status(name: str, spans: int, size: int, most: int) -> CheckResult:
    """Say what waits in a spool.

    Example:
        >>> spool_status("OTLP", 12, 2048, 256 * 1024**2).detail
        '12 spans wait, 2 KiB of 256 MiB'
    """
    return CheckResult(f"{name} spool", True, f"{spans} spans wait, {_read_size(size)} of {_read_size(most)}")


def _read_size(count: float) -> str:
    units = ["GiB", "MiB", "KiB", "B"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop()
    return f"{count:.4g} {units[-1]}"


def describe_result(spans: Sequence[ReadableSpan]) -> str:
    """Say in one line what arrives."""
    if not spans:
        return "nothing arrives: its filters or its sampling leave the made-up request out"
    by_id = {span.get_span_context().span_id: span for span in spans if span.context}  # type: ignore[union-attr]
    last = next((span for span in spans if names.OPERATION_NAME in (span.attributes or {})), spans[0])
    way = [last.name]
    parent = last.parent
    while parent is not None and parent.span_id in by_id:
        way.insert(0, by_id[parent.span_id].name)
        parent = by_id[parent.span_id].parent
    said = dict(last.attributes or {})
    labels = [
        f"{label} {said[key]}"
        for label, key in (("trace", names.TRACE_NAME), ("session", names.SESSION_ID), ("user", names.USER_ID))
        if key in said
    ]
    labels.append("content let through" if names.CALL_RESULT["input_messages"] in said else "content left out")
    return f"{' → '.join(way)} ({', '.join(labels)})"
