"""Cost of two destinations for the spans of a request on the app's threads, beside two batch processors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from byline import request_context
from byline.export import OTLP
from byline.export.decisions import Spans
from byline.genai.span_state import set_server_span
from byline.inbound.body import BodyBuffer
from byline.inbound.reader import ClaimReader
from byline.request_context import RequestContext
from tests.benchmarks.measure import Row, costs
from tests.benchmarks.middlewares import BODY, HEADERS

_LOOPS: Final = 200
_ROUNDS: Final = 25
_URL: Final = "http://127.0.0.1:9/v1/traces"

_CHAT: Final = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-4o"}
_QUERY: Final = {"db.system.name": "postgresql", "db.operation.name": "SELECT"}

_SCOPE: Final = {"type": "http", "method": "POST", "path": "/chat", "query_string": b"", "headers": HEADERS}


class _Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        return None


def _feed(label: str, spans: Spans) -> SpanProcessor:
    class Silent(OTLP):
        def exporter(self) -> SpanExporter:
            return _Nowhere()

    return Silent(_URL, spans=spans, label=label).processor()


@contextmanager
def _request(provider: TracerProvider) -> Iterator[None]:
    """Enter a request with a complete body and a server span."""
    span = provider.get_tracer("bench").start_span("POST /chat", kind=SpanKind.SERVER)
    owner = RequestContext(ClaimReader(), dict(_SCOPE))
    owner.body = BodyBuffer(1 << 24)
    owner.body.append(BODY, last=True)
    set_server_span(owner, span)
    token = request_context.attach(owner)
    try:
        with trace.use_span(span, end_on_exit=True):
            yield
    finally:
        request_context.detach(token)


def rows() -> list[Row]:
    """Return the time that both pairs add to an LLM span and to another span of a request."""
    # So long that nothing is exported while it is measured.
    patience = {
        "OTEL_BSP_MAX_QUEUE_SIZE": "1000000",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1000000",
        "OTEL_BSP_SCHEDULE_DELAY": "1000000",
    }
    with mock.patch.dict("os.environ", patience):
        pairs: dict[str, list[SpanProcessor]] = {
            "plain": [],
            "theirs": [BatchSpanProcessor(_Nowhere()) for _ in range(2)],
            "both": [_feed("llm", "llm"), _feed("all", "all")],
            "llm": [_feed("llm-1", "llm"), _feed("llm-2", "llm")],
        }
    providers = {name: TracerProvider(shutdown_on_exit=False) for name in pairs}
    for name, processors in pairs.items():
        for processor in processors:
            providers[name].add_span_processor(processor)

    def measure(attributes: Mapping[str, Any]) -> dict[str, float]:
        def run(name: str, loops: int) -> None:
            with _request(providers[name]):
                start = providers[name].get_tracer("bench").start_span
                for _ in range(loops):
                    start("span", attributes=attributes).end()

        taken = costs(
            {name: lambda loops, name=name: run(name, loops) for name in pairs},  # type: ignore[misc]
            loops=_LOOPS,
            rounds=_ROUNDS,
        )
        return {name: cost - taken["plain"] for name, cost in taken.items()}

    calls, others = measure(_CHAT), measure(_QUERY)
    for provider in providers.values():
        provider.shutdown()
    reference = "two BatchSpanProcessors"
    return [
        Row("LLM span, for LLM spans and for all", reference, calls["theirs"], calls["both"], None),
        Row("LLM span, twice for LLM spans", reference, calls["theirs"], calls["llm"], None),
        Row("other span, for LLM spans and for all", reference, others["theirs"], others["both"], None),
        Row("other span, twice for LLM spans", reference, others["theirs"], others["llm"], None),
    ]
