"""A destination: where spans go, and what it wants of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

from byline import errors, settings
from byline.export import self_test, trace_view
from byline.export.checks import spool_folder, validate_endpoint, validate_headers, validate_label
from byline.export.debug import debug_print
from byline.export.decisions import ExportDecisions
from byline.export.delivery.address import DestinationAddress
from byline.export.delivery.outlet import Outlet
from byline.export.delivery.spool import DEFAULT_BYTES, Spool
from byline.export.exporter import DestinationExporter, SpanTransform
from byline.export.filters import Filters, Where
from byline.export.langfuse_mapping.observation import map_span
from byline.export.langfuse_mapping.trace_io import TraceIO
from byline.export.options import CheckResult, Spans, Unsampled
from byline.export.processor import DestinationSpanProcessor
from byline.export.redaction.redactor import Mask, Redactor
from byline.export.redaction.redactor import validate_privacy as check_privacy
from byline.export.sampling import is_sampled, sampling_key
from byline.export.sampling import validate_sampling as check_sampling
from byline.export.self_test import RecordingExporter
from byline.export.span_copy import SpanCopy
from byline.export.trace_view import Traces, TraceView
from byline.genai import classify
from byline.genai.dialects import LANGFUSE, translate
from byline.genai.dialects import validate_conventions as check_conventions
from byline.settings import SettingError


class Destination:
    """Where spans go.

    Args:
        endpoint: Full URL to which OTLP/HTTP exports are posted.
        headers: Headers of each export.
        spans: ``"llm"`` for LLM spans, ``"all"``, or a function of the finished span. Whatever is
            left out, what hangs below it moves up to the next span that is exported.
        traces: ``"request"`` files the spans of a request under the caller's trace, else under the
            app's; ``"call"`` leaves the app's parents out, so that each call is a trace of its own
            unless the caller names one.
        unsampled: ``"record"``: LLM calls of requests that the app's sampler dropped are sent all the
            same, by themselves; ``"skip"``: they are not.
        sampling: Share of the sessions (of the traces, where there is no session) that is sent,
            0 to 1, by default ``BYLINE_SAMPLING`` or all. Which ones is told by their ids, the same in
            every process.
        keep_errors: Whether failed spans are sent whatever the sampling says.
        privacy: Whether content is left out, by default as ``BYLINE_PRIVACY`` says: prompts,
            completions, system instructions, tool definitions, arguments and results, and the texts
            of errors, which repeat them. Tokens, cost, timing, model and custom metadata stay.
            Credentials and binary parts never leave.
        mask: A function ``(name, value)`` of each text that may be content, of metadata, URLs and
            errors; what it returns is sent in its place, nothing where that is ``None``.
        organizations: Patterns of organization ids, in which ``*`` stands for anything: only spans
            that match one are sent. The other filters work alike.
        environments: Patterns of environments, or of ids of the tenants' environments.
        keys: Patterns of hashes or aliases of API keys, the caller's or the gateway's.
        models: Patterns of model names; they count for model calls alone.
        where: A function of the finished span; what it says no to is not sent.
        conventions: Other dialects in which attributes are written besides byline's own:
            ``"openinference"`` (Phoenix, Arize), ``"openrouter"``, ``"litellm"``, ``"traceloop"``, of
            which docs/attributes.md has the tables, and ``"langfuse"`` for a collector before Langfuse.
        spool: Folder in which batches wait until the destination has taken them, also past the end
            of this process; by default ``BYLINE_SPOOL``, or none. Each destination has a folder of its
            own in it, and any number of processes may share it. Content is on disk meanwhile.
        spool_bytes: How much may wait there, by default 256 MiB; the oldest makes room for the new.
        label: The destination's name in counters, messages and the spool. With a name of its own it
            finds its spool again where its URL or keys have changed.
        allow_http: Hosts to which unencrypted exports may go; loopback always may.

    Raises:
        SettingError: ``byline.E040`` for an endpoint that cannot be used, ``byline.E042`` for
            ``http://`` towards another host, ``byline.E043`` for an unknown ``spans``,
            ``byline.E045`` to ``byline.E049``, ``byline.E055``, ``byline.E056``, ``byline.E063`` and
            ``byline.E066`` for the others.

    Example:
        >>> Destination("http://127.0.0.1:4318/v1/traces", spans="llm", label="collector").label
        'collector'
    """

    name = "destination"

    def __init__(
        self,
        endpoint: str,
        *,
        headers: Mapping[str, str] | None = None,
        spans: Spans = "all",
        traces: Traces = "request",
        unsampled: Unsampled = "skip",
        sampling: float | None = None,
        keep_errors: bool = False,
        privacy: bool | None = None,
        mask: Mask | None = None,
        organizations: Collection[str] | None = None,
        environments: Collection[str] | None = None,
        keys: Collection[str] | None = None,
        models: Collection[str] | None = None,
        where: Where | None = None,
        conventions: Collection[str] = (),
        spool: str | Path | None = None,
        spool_bytes: int = DEFAULT_BYTES,
        label: str | None = None,
        allow_http: Sequence[str] = (),
    ) -> None:
        validate_endpoint(endpoint, allow_http)
        if spans not in ("llm", "all") and not callable(spans):
            raise SettingError("byline.E043", f"spans={spans!r}", 'pass "llm", "all" or a function of the span')
        if unsampled not in ("record", "skip"):
            raise SettingError("byline.E048", f"unsampled={unsampled!r}", 'pass "record" or "skip"')
        self.endpoint = endpoint
        self.headers = validate_headers(headers)
        self.spans = spans
        self.traces = trace_view.validate_traces(traces, spans)
        self.unsampled = unsampled
        self.sampling = settings.find("sampling").value if sampling is None else check_sampling(sampling)
        self.privacy = settings.find("privacy").value if privacy is None else privacy
        check_privacy(self.privacy, mask)
        self.mask = mask
        if not isinstance(keep_errors, bool):
            raise SettingError("byline.E045", f"keep_errors is {type(keep_errors).__name__}", "pass True or False")
        self.keep_errors = keep_errors
        self._filters = Filters(
            organizations=organizations, environments=environments, keys=keys, models=models, where=where
        )
        self.conventions = check_conventions(conventions)
        self._label = validate_label(label)
        self.spool_bytes = spool_bytes
        self.spool = spool_folder(
            settings.find("spool").value if spool is None else spool,
            spool_bytes,
            label=self.label,
            identity=self._label or f"{endpoint} {sorted(self.headers.items())}",
        )
        self._feed: DestinationSpanProcessor | None = None

    def exporter(self) -> SpanExporter:
        """Make an exporter of the kind that this destination uses."""
        address = self._address
        return address.exporter(address.patient())

    @property
    def _address(self) -> DestinationAddress:
        return DestinationAddress(self.label, self.endpoint, self.headers)

    @property
    def _has_own_exporter(self) -> bool:
        return type(self).exporter is not Destination.exporter

    def outlet(self) -> Outlet:
        """Make what sends this destination's spans: by its exporter, by way of the spool where there is one."""
        self._tell()
        if self._has_own_exporter:
            return Outlet(self.exporter())
        if self.spool is None:
            return self._address.outlet()
        return self._address.spooling(self.spool, self.spool_bytes)

    def _tell(self) -> None:
        debug_print(
            f"{self.label}: to {self.endpoint} with {self.credentials()}, spans={self.spans!r}, spool={self.spool}"
        )

    def credentials(self) -> str:
        """Say which credentials are in force, none of them whole."""
        return ", ".join(f"{name}: {settings.mask(value)}" for name, value in self.headers.items()) or "no headers"

    def rewrites(self) -> Sequence[SpanTransform]:
        """Return what is done to each span once content is taken off it, in order."""
        return (map_span,) if LANGFUSE in self.conventions else ()

    def processor(self) -> SpanProcessor:
        """Return the span processor that feeds this destination; always the same one."""
        if self._feed is None or self._feed.closed:
            self._feed = self._make_feed(self.outlet())
        return self._feed

    def _make_feed(self, outlet: Outlet) -> DestinationSpanProcessor:
        return DestinationSpanProcessor(self.label, self.pipeline(outlet), deep=self.spans != "llm")

    def _translate(self, draft: SpanCopy) -> None:
        draft.attributes.update(translate(draft.attributes, self.conventions, is_llm=draft.is_llm))

    def pipeline(self, outlet: Outlet) -> DestinationExporter:
        """Make the way of spans to an outlet."""
        translating = (self._translate,) if self.conventions else ()
        redactor = Redactor(private=self.privacy, mask=self.mask)
        own = self.rewrites()
        exchange = TraceIO() if map_span in own else None
        # Before anything is hidden, for what is told is content as well.
        telling = () if exchange is None else (exchange.tell,)
        return DestinationExporter(
            self.label,
            outlet,
            choice=ExportDecisions(
                picks=self.picks,
                unsampled=self.unsampled == "record",
                keeps=self._keeps if self._filters.any or self.sampling < 1 else None,
            ),
            drain=lambda exports: TraceView(exports, traces=self.traces, whole=self.spans == "all"),
            rewrites=(*telling, redactor.redact, *translating, *own),
            note=None if exchange is None else exchange.note,
        )

    def rename(self, label: str) -> None:
        """Give the destination another name in counters and messages; its spool stays where it is."""
        self._label = label

    @property
    def label(self) -> str:
        """The name in counters and messages."""
        return self._label or self.name.lower()

    def picks(self, span: ReadableSpan) -> bool:
        """Whether a finished span goes to this destination."""
        if self.spans == "all":
            return True
        if self.spans == "llm":
            return classify.is_llm_span(span)
        try:
            return bool(self.spans(span))
        except Exception:
            errors.report_internal_error("spans")
            return False

    def _keeps(self, draft: SpanCopy) -> bool:
        if self._filters.any and not self._filters.keep(draft):
            return False
        if self.keep_errors and draft.is_error:
            return True
        return is_sampled(sampling_key(draft), self.sampling)

    def flush(self, timeout: float = 10.0) -> bool:
        """Send what waits. Returns whether it was handed over within ``timeout`` seconds."""
        return self._feed is None or self._feed.flush(timeout)

    def shutdown(self) -> None:
        """Send what waits and stop."""
        if self._feed is not None:
            self._feed.retire()
            self._feed = None

    def hurry(self, seconds: float) -> None:
        """Try each batch once from now on, and none after so many seconds: the process is about to end."""
        if self._feed is not None:
            self._feed.hurry(seconds)

    def check(self) -> list[CheckResult]:
        """Test the destination for real: a made-up request goes the whole way, and must be accepted."""
        label, self._label = self._label, f"{self.label}-check"
        try:
            # Under a name of its own, so that nothing of it is counted or said as the app's.
            self._tell()
            line = self._address.quick()
            exporter = self.exporter() if self._has_own_exporter else self._address.exporter(line)
            outlet = RecordingExporter(Outlet(exporter))
            with self_test.silence_logs(self.label):
                self_test.send_test_request(self._make_feed(outlet), self.sampling)
        finally:
            self._label = label
        results = self_test.evaluate(self.name, self.endpoint, outlet, line, filtered=self._filters.any)
        if self.spool is not None:
            waiting = Spool(self.spool, name=self.label).waiting()
            results.append(self_test.spool_status(self.name, waiting.spans, waiting.size, self.spool_bytes))
        return results
