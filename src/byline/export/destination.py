"""A destination: a backend to which spans are sent, and its settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter

from byline import settings
from byline.export import openinference as openinference_mapping
from byline.export import self_test
from byline.export.decisions import ExportDecisions, Spans, is_sampled, sampling_key
from byline.export.delivery import messages
from byline.export.delivery.batch_sender import BatchSender
from byline.export.delivery.post import OTLPExporter
from byline.export.delivery.store import DiskStore
from byline.export.delivery.transport import Transport
from byline.export.langfuse_mapping.observation import map_span
from byline.export.options import DestinationOptions, Options, validate_endpoint, validate_headers
from byline.export.pipeline import SpanPipeline, SpanTransform
from byline.export.processor import DestinationSpanProcessor
from byline.export.redaction.redactor import Redactor
from byline.export.request_root import RequestRoots
from byline.export.self_test import CheckResult, RecordingSender
from byline.export.span_copy import SpanCopy
from byline.export.trace_view import TraceView
from byline.export.worker import DestinationWorker
from byline.genai.dialects import LANGFUSE, translate_attributes
from byline.media import MediaBudget
from byline.settings import SettingError
from byline.urls import without_credentials

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from byline.export.langfuse_mapping.media import MediaParts


class Destination:
    """A backend that takes OTLP over HTTP.

    Args:
        endpoint: Full URL to which OTLP/HTTP exports are posted.
        headers: Headers of each export.
        spans: ``"all"``, ``"llm"`` for LLM spans, or a function of the finished span.
        **options: The settings of every destination: `byline.export.options.DestinationOptions`.

    Raises:
        SettingError: ``byline.E040`` for an endpoint that cannot be used, ``byline.E042`` for ``http://`` to
            another host, ``byline.E066`` for headers that HTTP cannot carry, and the errors of
            `byline.export.options.DestinationOptions`.

    Example:
        >>> Destination("http://127.0.0.1:4318/v1/traces", spans="llm", label="collector").label
        'collector'
    """

    name = "destination"
    #: Whether OpenTelemetry's variables name the endpoint, so that their certificates are meant for it.
    _is_named_by_environment = False
    #: Room for binary parts that are to be uploaded, ``None`` if they are left out.
    media: MediaBudget | None = None
    #: Tells whether the app itself sends the spans to this backend, by now; ``None`` if both are to send them.
    sent_by_app: Callable[[], bool] | None = None

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        spans: Spans = "all",
        **options: Unpack[Options],
    ) -> None:
        self.endpoint = validate_endpoint(endpoint, options.get("allow_http", ()))
        self.headers = validate_headers(headers)
        self.options = DestinationOptions(spans=spans, **options)
        #: The name in counters and messages.
        self.label = self.options.label or self.name.lower()
        self.spool = self.options.spool_folder(self.label, self.account)
        self._processor: DestinationSpanProcessor | None = None

    @property
    def account(self) -> str:
        """Identifies endpoint and credentials."""
        return f"{self.endpoint} {sorted(self.headers.items())}"

    def exporter(self) -> SpanExporter:
        """Return a new exporter that posts to this destination. Override it to send spans in another way.

        An exporter of your own gets its batches through the same queue, retries, splitting and spool.
        """
        return OTLPExporter(self.endpoint, self.headers, self.transport)

    @property
    def transport(self) -> Transport:
        """TLS and proxy: the destination's own settings, then those of OpenTelemetry's variables."""
        return self.options.transport.with_environment(is_named_there=self._is_named_by_environment)

    def credentials(self) -> str:
        """Return which credentials are in force, masked."""
        return (
            ", ".join(f"{name}: {settings.mask_secret(value)}" for name, value in self.headers.items()) or "no headers"
        )

    def trace_url(self, trace_id: str) -> str | None:  # noqa: ARG002 - for destinations that have pages
        """Return the page of a trace, ``None`` if the backend's pages are not known."""
        return None

    def transforms(self) -> Sequence[SpanTransform]:
        """Return the functions that are applied to each redacted span, in order."""
        return (map_span,) if LANGFUSE in self.options.conventions else ()

    def media_parts(self) -> MediaParts | None:
        """Return the stage that uploads binary parts, ``None`` for a destination that gets none."""
        return None

    def processor(self) -> DestinationSpanProcessor:
        """Return the span processor of this destination; the same one until it is shut down."""
        if self._processor is None or self._processor.closed:
            sender = BatchSender(
                self.label,
                endpoint=self.endpoint,
                headers=self.headers,
                transport=self.transport,
                exporter=self._own_exporter(),
                spool=self.spool,
                spool_bytes=self.options.spool_bytes,
                fsync=self.options.fsync,
            )
            self._processor = self._make_processor(sender)
            if self.sent_by_app is not None:
                self._processor.leave_to_app_if(self.sent_by_app)
        return self._processor

    def is_left_to_app(self) -> bool:
        """Return whether the destination sends no spans because an exporter of the app sends them to the backend."""
        return self.sent_by_app is not None and self.sent_by_app()

    def flush(self, timeout: float = 10.0) -> bool:
        """Send the spans that wait. Returns whether all of them were handed over within ``timeout`` seconds."""
        return self._processor is None or self._processor.flush(timeout)

    def set_deadline(self, seconds: float) -> None:
        """Try each batch once from now on, and none after ``seconds``, because the process is about to end."""
        if self._processor is not None:
            self._processor.worker.set_deadline(seconds)

    def shutdown(self) -> None:
        """Send the spans that wait, and stop."""
        if self._processor is not None:
            self._processor.retire()
            self._processor = None

    def check(self) -> list[CheckResult]:
        """Test the destination for real: a test request takes the way of all spans, and has to be accepted."""
        label = self.label
        try:
            # Under another label, so that nothing is counted or logged as the app's.
            self.label = f"{label}-check"
            sender = RecordingSender(
                self.label,
                endpoint=self.endpoint,
                headers=self.headers,
                transport=self.transport,
                exporter=self._own_exporter(),
            )
            with self_test.silence_logs(self.label):
                self_test.send_test_request(self._make_processor(sender), sender, self._is_session_sampled)
        finally:
            self.label = label
        results = self_test.evaluate(
            self.name, without_credentials(self.endpoint), sender, is_filtered=bool(self.options.filters)
        )
        if self.spool is not None:
            waiting = DiskStore(self.spool, name=self.label, headers=self.headers).measure_waiting()
            results.append(self_test.spool_status(self.name, waiting.spans, waiting.size, self.options.spool_bytes))
        return results

    def _own_exporter(self) -> SpanExporter | None:
        return None if type(self).exporter is Destination.exporter else self.exporter()

    def _make_processor(self, sender: BatchSender) -> DestinationSpanProcessor:
        options = self.options
        details = f"with {self.credentials()}, spans={options.spans!r}, spool={self.spool}"
        messages.debug_print(f"{self.label}: to {without_credentials(self.endpoint)} {details}")
        decisions = ExportDecisions(
            options.spans,
            unsampled=options.unsampled == "record",
            framework_spans=options.framework_spans,
            passes_filters=self._passes_filters if options.filters or options.sampling < 1 else None,
        )
        worker = DestinationWorker(self.label, self._make_pipeline(decisions), sender, spooled=self.spool is not None)
        return DestinationSpanProcessor(self.label, worker, decisions)

    def _make_pipeline(self, decisions: ExportDecisions) -> SpanPipeline:
        options = self.options
        own_transforms = self.transforms()
        trace_view = TraceView(
            decisions.will_export,
            decisions.destination_id,
            traces=options.traces,
            whole=options.spans == "all",
            caller_spans=options.caller_spans,
            is_langfuse=map_span in own_transforms,
            root=options.root,
        )
        transforms: list[SpanTransform] = [
            Redactor(private=options.privacy, mask=options.mask, honors_masks=not options.audit).redact
        ]
        if options.minimization:
            transforms.insert(0, options.minimization.apply)
        collect: list[SpanTransform] = []
        langfuse, openinference = map_span in own_transforms, "openinference" in options.conventions
        if langfuse or openinference:
            # Before the redaction, because content is set on roots as well.
            roots = RequestRoots(decisions.destination_id, langfuse=langfuse, openinference=openinference)
            collect.append(roots.collect)
            transforms.insert(0, roots.apply)
        if openinference:
            transforms.append(openinference_mapping.map_span)
        if options.conventions:
            transforms.append(self._add_conventions)
        transforms += own_transforms
        media = None if options.privacy else self.media_parts()
        if media is not None:
            collect.insert(0, media.replace_bytes)
            transforms.append(media.upload)
        return SpanPipeline(
            self.label,
            decisions=decisions,
            trace_view=trace_view,
            transforms=transforms,
            collect=collect,
            media=None if media is None else media.uploader,
        )

    def _add_conventions(self, span_copy: SpanCopy) -> None:
        attributes = span_copy.attributes
        attributes.update(translate_attributes(attributes, self.options.conventions, is_llm=span_copy.is_llm))

    def _is_session_sampled(self, session: str) -> bool:
        return is_sampled(session, self.options.sampling, self.options.sampling_key)

    def _passes_filters(self, span_copy: SpanCopy) -> bool:
        options = self.options
        if options.filters and not options.filters.accept(span_copy):
            return False
        if options.keep_errors and span_copy.is_error:
            return True
        return self._is_session_sampled(sampling_key(span_copy))


def validate_destinations(destinations: Any) -> list[Destination]:
    """Return a list of destinations. Raises `SettingError` ``byline.E025`` if anything else is in it."""
    advice = "pass a list of byline.destinations.Langfuse(…) and OTLP(…)"
    if isinstance(destinations, str) or not isinstance(destinations, Sequence):
        raise SettingError("byline.E025", f"destinations is {type(destinations).__name__}", advice)
    for each in destinations:
        if not isinstance(each, Destination):
            # The type only: the value may be a URL with a key in it.
            kind = f"the class {each.__name__}" if isinstance(each, type) else type(each).__name__
            raise SettingError("byline.E025", f"destinations contains {kind}", advice)
    return list(destinations)


def unique_labels(destinations: list[Destination], others: Sequence[Destination] = ()) -> list[Destination]:
    """Return the destinations without duplicates, and number those of one label in counters and messages.

    Args:
        destinations: The destinations of one provider.
        others: The destinations of other providers, which keep their labels.

    Raises:
        SettingError: ``byline.E049`` if two of them would share a spool.
    """
    accounts: dict[Path, str] = {each.spool: each.account for each in others if each.spool}
    labels = {each.label for each in others}
    unique = list(dict.fromkeys(destinations))
    for destination in unique:
        if destination.spool and accounts.setdefault(destination.spool, destination.account) != destination.account:
            raise SettingError(
                "byline.E049",
                f"two destinations are labelled {destination.label!r}, and each would send the other's spool",
                "give each destination a label of its own",
            )
    for destination in unique:
        if destination in others:
            continue
        # The spool stays at its place.
        label = destination.label
        for number in itertools.count(2):
            if destination.label not in labels:
                break
            destination.label = f"{label}-{number}"
        labels.add(destination.label)
    return unique


def split_deadline(destinations: Sequence[Destination], seconds: float) -> Iterator[tuple[Destination, float]]:
    """Split the remaining time between destinations, so that a slow one cannot use up the others' share."""
    until = time.monotonic() + seconds
    for number, destination in enumerate(destinations):
        yield destination, max((until - time.monotonic()) / (len(destinations) - number), 0.1)


def start_all(destinations: Sequence[Destination]) -> list[DestinationSpanProcessor]:
    """Return the span processor of each destination, of all or of none."""
    try:
        return [destination.processor() for destination in destinations]
    except BaseException:
        for destination in destinations:
            destination.shutdown()
        raise
