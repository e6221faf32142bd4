"""What destinations cost the spans of a request: on the app's threads and on the destination's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from byline import request_context
from byline.export import OTLP
from byline.export.processor import DestinationSpanProcessor
from byline.genai.attribution_processor import AttributionSpanProcessor, request_attributes
from byline.genai.span_state import set_server_span
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext
from tests.benchmarks.measure import Cost, Row, costs
from tests.benchmarks.middlewares import HEADERS

#: So long that nothing is exported while spans are measured.
PATIENCE: Final = {
    "OTEL_BSP_MAX_QUEUE_SIZE": "10000000",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10000000",
    "OTEL_BSP_SCHEDULE_DELAY": "100000000",
}
URL: Final = "http://127.0.0.1:9/v1/traces"
CHAT: Final = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
QUERY: Final = {"db.system.name": "postgresql", "db.operation.name": "SELECT"}
#: Attributes of a request in all, of which some are metadata.
ATTRIBUTES: Final = 12
_LOOPS: Final = 200
_ROUNDS: Final = 25
_READER: Final = ClaimReader()
_SCOPE: Final = {
    "type": "http",
    "method": "POST",
    "path": "/chat",
    "query_string": b"",
    "headers": [*HEADERS, (b"x-request-id", b"r-1")],
    "client": ("127.0.0.1", 1),
}
_BODY: Final = json.dumps(
    {
        "messages": [{"role": "user", "content": "hello"}],
        "user": "user_12345",
        "trace": {"trace_id": "workflow_12345", "trace_name": "Pipeline", "stage": "1", "tier": "gold", "region": "eu"},
    }
).encode()


class Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


class Silent(OTLP):
    def exporter(self) -> SpanExporter:
        return Nowhere()


class SetAttributes(SpanProcessor):
    """Sets attributes by the SDK's `set_attributes`, as an app would."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = attributes

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        span.set_attributes(self._attributes)


def provider_with(processors: Sequence[DestinationSpanProcessor]) -> TracerProvider:
    """Return a provider with byline's processor and these destinations."""
    provider = TracerProvider(shutdown_on_exit=False)
    processor = AttributionSpanProcessor()
    processor.switch_on("llm", processors)
    provider.add_span_processor(processor)
    return provider


def _provider(*processors: SpanProcessor) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


@contextmanager
def request(provider: TracerProvider) -> Iterator[RequestContext]:
    """Be within a request whose body the app has read, below its server span; its spans get twelve attributes."""
    span = provider.get_tracer("bench").start_span("POST /chat", kind=SpanKind.SERVER)
    context = RequestContext(_READER, dict(_SCOPE))
    context.body = BodyBuffer(1 << 24)
    context.body.append(_BODY, last=True)
    set_server_span(context, span)
    token = request_context.attach(context)
    try:
        with trace.use_span(span, end_on_exit=True):
            yield context
    finally:
        request_context.detach(token)


def rows() -> list[Row]:
    """Return what destinations add to an LLM span and to another span, and what they do with an exported span."""
    with mock.patch.dict("os.environ", PATIENCE):
        return [*_on_app_threads(), _exported()]


def _on_app_threads() -> list[Row]:
    with request(_provider()) as context:
        attributes = request_attributes(context)
        assert len(attributes) == ATTRIBUTES, attributes
    processors = [Silent(URL, spans="llm", label=f"llm-{number}").processor() for number in range(2)]
    everything = Silent(URL, spans="all", label="all").processor()

    def measure(kind: Mapping[str, Any], reference: TracerProvider) -> dict[str, Cost]:
        providers = {
            "plain": _provider(),
            "theirs": reference,
            "none": provider_with([]),
            "one": provider_with(processors[:1]),
            "two": provider_with(processors),
            "all": provider_with([everything]),
        }

        def run(name: str, loops: int) -> None:
            with request(providers[name]):
                start = providers[name].get_tracer("bench").start_span
                for _ in range(loops):
                    start("span", attributes=kind).end()

        taken = costs(
            {name: lambda loops, name=name: run(name, loops) for name in providers},  # type: ignore[misc]
            loops=_LOOPS,
            rounds=_ROUNDS,
        )
        return {name: cost - taken["plain"] for name, cost in taken.items()}

    calls = measure(CHAT, _provider(SetAttributes(attributes), BatchSpanProcessor(Nowhere())))
    others = measure(QUERY, _provider(BatchSpanProcessor(Nowhere())))
    with_attributes = "a BatchSpanProcessor and set_attributes"
    return [
        Row("LLM span, no destination", with_attributes, calls["theirs"], calls["none"], None),
        Row("LLM span, one destination", with_attributes, calls["theirs"], calls["one"], 1.5),
        Row("LLM span, the second destination", with_attributes, calls["theirs"], calls["two"] - calls["one"], 0.3),
        Row("other span, destination for LLM spans", "a BatchSpanProcessor", others["theirs"], others["one"], None),
        Row("other span, destination for all", "a BatchSpanProcessor", others["theirs"], others["all"], None),
    ]


def exporting(provider: TracerProvider, destination: Silent, spans: int) -> Callable[[], list[ReadableSpan]]:
    """Return a function that makes LLM spans and prepares them for the destination, as its thread does."""
    worker = destination.processor().worker
    start = provider.get_tracer("bench").start_span

    def make() -> list[ReadableSpan]:
        worker._clear_queue()
        with request(provider):
            for _ in range(spans):
                start("span", attributes=CHAT).end()
        queued = [*worker._queue]
        worker._clear_queue()
        return worker._pipeline.prepare(queued)

    return make


def _exported() -> Row:
    destination = Silent(URL, spans="llm", label="exported")
    provider = provider_with([destination.processor()])
    prepare = exporting(provider, destination, 50)
    worker = destination.processor().worker
    start = provider.get_tracer("bench").start_span
    assert len(prepare()) >= 50

    def make() -> list[ReadableSpan]:
        with request(provider):
            for _ in range(50):
                start("span", attributes=CHAT).end()
        ended = [queued.span for queued in worker._queue if queued.selected]
        worker._clear_queue()
        return ended

    steps: dict[str, Callable[[], object]] = {
        "made": make,
        "theirs": lambda: encode_spans(make()).SerializeToString(),
        "ours": lambda: encode_spans(prepare()).SerializeToString(),
    }

    def run(name: str, loops: int) -> None:
        for _ in range(loops):
            steps[name]()

    taken = costs(
        {name: lambda loops, name=name: run(name, loops) for name in steps},  # type: ignore[misc]
        loops=4,
        rounds=_ROUNDS,
    )
    theirs, ours = taken["theirs"] - taken["made"], taken["ours"] - taken["made"]
    return Row("exported LLM span, by the destination", "encoding it with OTLP's encoder", theirs / 50, ours / 50, 1.5)
