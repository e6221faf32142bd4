"""Tests a destination: sends the spans of a test request through all its settings, and reports which spans arrive."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind

from byline import errors, request_context
from byline.export.conversation import INPUT as LANGFUSE_INPUT
from byline.export.delivery import messages
from byline.export.delivery.batch_sender import BatchSender
from byline.export.processor import DestinationSpanProcessor
from byline.genai import attributes as names
from byline.genai.attributes import AttributeValue
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.genai.span_state import set_server_span
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


#: Seconds to wait for a response: longer than the exporter's own timeout, so that its error message is reported.
_RESPONSE_TIMEOUT: Final = 15.0


class CheckResult(NamedTuple):
    """The result of one check of a destination, with advice if it failed."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


class RecordingSender(BatchSender):
    """A sender that records the spans it sends."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.spans: list[ReadableSpan] = []

    def add(self, spans: Sequence[ReadableSpan]) -> None:
        """Record and store a batch."""
        self.spans += spans
        super().add(spans)


@contextlib.contextmanager
def silence_logs(label: str = "") -> Iterator[None]:
    """Log nothing about a test: its results say the same, and the app's spans are not affected.

    Args:
        label: Only byline's messages that contain this label are silenced; by default all of them. A message
            that is logged once and silenced now would never be logged.
    """

    def is_unrelated(message: logging.LogRecord) -> bool:
        return label not in message.getMessage()

    exporters = logging.getLogger("opentelemetry")
    level = exporters.level
    exporters.setLevel(logging.CRITICAL + 1)
    errors.logger.addFilter(is_unrelated)
    try:
        yield
    finally:
        errors.logger.removeFilter(is_unrelated)
        exporters.setLevel(level)


def send_test_request(
    processor: DestinationSpanProcessor, sender: BatchSender, is_sampled: Callable[[str], bool]
) -> None:
    """Send the spans of a request with one model call, in a session that the destination's sampling keeps."""
    provider = TracerProvider(shutdown_on_exit=False)
    for each in (AttributionSpanProcessor(), processor):
        provider.add_span_processor(each)
    tracer = provider.get_tracer("byline check")
    session = next((name for number in range(10_000) if is_sampled(name := f"byline-check-{number}")), "none")
    context = RequestContext()
    context.bind(
        {
            "session_id": session,
            "user_id": "byline-check",
            "trace_name": "byline check",
            "span_name": "byline check step",
            "generation_name": "byline check call",
            "tags": ["byline-check"],
        }
    )
    span = tracer.start_span("byline check request", kind=SpanKind.SERVER)
    set_server_span(context, span)
    token = request_context.attach(context)
    try:
        with trace.use_span(span, end_on_exit=True):
            tracer.start_span("chat", kind=SpanKind.CLIENT, attributes=_CHAT).end()
    finally:
        request_context.detach(token)
    # One attempt, before the shutdown, which waits for a few seconds only.
    sender.set_deadline(time.monotonic() + _RESPONSE_TIMEOUT)
    processor.flush(_RESPONSE_TIMEOUT)
    provider.shutdown()


def evaluate(name: str, endpoint: str, sender: RecordingSender, *, is_filtered: bool) -> list[CheckResult]:
    """Return whether the destination accepted the test request, and which spans it got.

    Args:
        name: The destination's name.
        endpoint: Its endpoint.
        sender: Sent the spans.
        is_filtered: Whether the destination has filters: they may rightly drop the test request. Sampling never
            does, unless it drops everything.
    """
    if sender.lost_spans:
        reason = sender.last_response or messages.NO_ANSWER
        advice = sender.advice or messages.advice_for_error(reason, endpoint)
        return [CheckResult(f"{name} export", False, f"{endpoint}: {reason}", advice)]
    advice = "" if sender.spans else "look at its filters, and at its sampling"
    results = [
        CheckResult(f"{name} export", True, endpoint),
        CheckResult(f"{name} gets", bool(sender.spans) or is_filtered, describe_result(sender.spans), advice),
    ]
    if sender.rejected_spans:
        detail = f"{sender.rejected_spans} of {len(sender.spans)} spans were rejected"
        results.append(CheckResult(f"{name} takes all", False, detail, "read the backend's log for the reason"))
    return results


def spool_status(name: str, spans: int, size: int, limit: int) -> CheckResult:
    """Return how much waits in a spool.

    Example:
        >>> spool_status("OTLP", 12, 2048, 256 * 1024**2).detail
        '12 spans wait, 2 KiB of 256 MiB'
    """
    return CheckResult(f"{name} spool", True, f"{spans} spans wait, {_format_size(size)} of {_format_size(limit)}")


def _format_size(count: float) -> str:
    units = ["GiB", "MiB", "KiB", "B"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop()
    return f"{count:.4g} {units[-1]}"


def describe_result(spans: Sequence[ReadableSpan]) -> str:
    """Return one line that describes the spans which arrive."""
    if not spans:
        return "nothing arrives: filters or sampling drop the test request"
    by_id = {span.get_span_context().span_id: span for span in spans if span.context}  # type: ignore[union-attr]
    call = next((span for span in spans if names.OPERATION_NAME in (span.attributes or {})), spans[0])
    path = [call.name]
    parent = call.parent
    while parent is not None and parent.span_id in by_id:
        path.insert(0, by_id[parent.span_id].name)
        parent = by_id[parent.span_id].parent
    attributes = dict(call.attributes or {})
    labels = [
        f"{label} {attributes[key]}"
        for label, key in (("trace", names.TRACE_NAME), ("session", names.SESSION_ID), ("user", names.USER_ID))
        if key in attributes
    ]
    # Langfuse's mapping moves the messages to an attribute of Langfuse.
    has_content = names.CALL_RESULT["input_messages"] in attributes or LANGFUSE_INPUT in attributes
    labels.append("content exported" if has_content else "content removed")
    return f"{' → '.join(path)} ({', '.join(labels)})"
