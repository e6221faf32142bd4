"""Tracer providers of vendors: they lose nothing by byline, and each span arrives once, with its attribution.

The classes behave like those of the versions that they name.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import byline
from byline.genai.server_span import set_request_attributes
from byline.genai.span_state import set_server_span
from byline.genai.tracer_provider import LateProviderFilter, list_processors
from byline.instrument import BylineInstrumentor
from byline.request_context import current_context
from byline.testing import Receiver
from tests.export.support import CHAT, Memory

pytestmark = pytest.mark.usefixtures("not_instrumented")

SIGNED = [("chat", "s-1")]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def call(provider: Any) -> None:
    with byline.bound(session_id="s-1"):
        provider.get_tracer("app").start_span("chat", attributes=CHAT).end()


def exported(exporter: InMemorySpanExporter) -> list[tuple[str, Any]]:
    return [(span.name, (span.attributes or {}).get("session.id")) for span in exporter.get_finished_spans()]


class Phoenix(TracerProvider):
    """The provider of `phoenix.otel.register` in arize-phoenix-otel 0.17.2."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        super().__init__(shutdown_on_exit=False)
        self._default_processor: Any = None
        super().add_span_processor(processor := SimpleSpanProcessor(exporter))
        self._default_processor = processor

    def add_span_processor(self, *args: Any, replace_default_processor: bool = True, **kwargs: Any) -> None:
        if self._default_processor is not None and replace_default_processor:
            self._active_span_processor._span_processors = ()
            self._default_processor.shutdown()
            self._default_processor = None
        return super().add_span_processor(*args, **kwargs)


class EarlierPhoenix(Phoenix):
    """The same before the parameter."""

    def add_span_processor(self, *args: Any, **kwargs: Any) -> None:
        return super().add_span_processor(*args, **kwargs)


@pytest.mark.parametrize("kind", [Phoenix, EarlierPhoenix])
def test_phoenix_keeps_its_exporter(kind: type[Phoenix], exporter: InMemorySpanExporter) -> None:
    provider, memory = kind(exporter), Memory()
    byline.instrument(tracer_provider=provider, destinations=[memory], clients=())
    call(provider)
    assert byline.flush()
    assert exported(exporter) == SIGNED
    assert memory.values("session.id") == dict(SIGNED)
    # A processor of the app still replaces the default one.
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    call(provider)
    assert exported(exporter) == SIGNED


class LogfireWrapper(SpanProcessor):
    """The wrappers of Logfire 5.4 around its exporters."""

    def __init__(self, processor: SpanProcessor) -> None:
        self.processor = processor

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.processor.on_start(span, parent_context)

    def on_end(self, span: Any) -> None:
        self.processor.on_end(span)


class Logfire(trace.TracerProvider):
    """Its proxy around the SDK's provider, which hides the processors."""

    def __init__(self, *exporting: SpanProcessor) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        inner: Any = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        for processor in exporting:
            inner.add_span_processor(processor)
        self.provider.add_span_processor(LogfireWrapper(LogfireWrapper(inner)))

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.provider.add_span_processor(span_processor)

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self.provider.get_tracer(*args, **kwargs)


def test_logfires_exporter_to_the_endpoint_of_the_environment_is_found(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OTEL_EXPORTER_OTLP_ENDPOINT, Logfire sends all spans there itself."""
    provider: Any = Logfire(processor := SimpleSpanProcessor(exporter))
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        byline.instrument(tracer_provider=provider, clients=())
        assert processor in list_processors(provider)
        call(provider)
        byline.uninstrument()
        assert receiver.spans == []
    assert exported(exporter) == SIGNED


def test_logfire_without_an_exporter_leaves_the_endpoint_to_byline(monkeypatch: pytest.MonkeyPatch) -> None:
    provider: Any = Logfire()
    with Receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        byline.instrument(tracer_provider=provider, clients=())
        call(provider)
        byline.uninstrument()
        assert [(span.name, span.attributes["session.id"]) for span in receiver.spans] == SIGNED


def test_wrappers_that_contain_each_other_are_searched_to_an_end() -> None:
    one, other = LogfireWrapper(SpanProcessor()), LogfireWrapper(SpanProcessor())
    one.processor, other.processor = other, one
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(one)
    assert list_processors(provider) == []


class Datadog(trace.TracerProvider):
    """The provider of ddtrace 4, which implements OpenTelemetry's API without the SDK."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return trace.NoOpTracer()


def test_an_app_with_a_provider_without_processors_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Byline's own LLM spans come from a provider of byline's own, and are signed."""
    monkeypatch.setattr(trace, "get_tracer_provider", Datadog)
    memory = Memory()
    byline.instrument(destinations=[memory])
    byline.uninstrument()
    byline.instrument(destinations=[memory])
    own = byline.instrument.__globals__["runtimes"].find(None).tracer_provider
    call(own)
    assert byline.flush()
    assert memory.values("session.id") == dict(SIGNED)
    (message,) = [record.getMessage() for record in caplog.records if "E105" in record.getMessage()]
    assert "tests.test_vendor_providers.Datadog, takes no span processors" in message


@pytest.mark.parametrize("order", ["before", "after"])
def test_langfuses_sdk_gets_no_server_span(order: str) -> None:
    """Its filter takes every span with an attribute of the GenAI conventions: SDK 5.0.4 sends that as a root."""
    theirs = type("LangfuseSpanProcessor", (SpanProcessor,), {"__module__": "langfuse._client.span_processor"})()
    provider = TracerProvider(shutdown_on_exit=False)
    if order == "before":
        provider.add_span_processor(theirs)
    byline.instrument(tracer_provider=provider, destinations=[], clients=())
    if order == "after":
        provider.add_span_processor(theirs)
    span: Any = provider.get_tracer("app").start_span("POST", kind=SpanKind.SERVER)
    with byline.bound(session_id="s-1", user_id="ada"):
        context = current_context()
        assert context is not None
        set_server_span(context, span)
        set_request_attributes(context)
    assert {key: value for key, value in span.attributes.items() if "id" in key} == {
        "session.id": "s-1",
        "user.id": "ada",
    }


def test_grpc_exporter_of_the_app_is_no_missing_destination(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``opentelemetry-instrument`` exports by gRPC unless told otherwise; byline need not send anything there."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor := BatchSpanProcessor(exporter))
    byline.instrument(tracer_provider=provider, clients=())
    call(provider)
    processor.force_flush()
    assert exported(exporter) == SIGNED
    assert "E028" not in caplog.text
    byline.uninstrument()
    byline.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False), clients=())
    assert "E028" in caplog.text
    processor.shutdown()  # type: ignore[no-untyped-call]


def test_wrong_destination_of_the_environment_leaves_the_attribution_to_the_apps_exporters(
    exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Under ``opentelemetry-instrument``, where nothing may be raised."""
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    entry = BylineInstrumentor()
    entry.instrument(tracer_provider=provider, clients=(), skip_dep_check=True)
    call(provider)
    entry.uninstrument()
    assert exported(exporter) == SIGNED
    assert caplog.text.count("byline.E041") == 1


def test_a_provider_that_is_set_too_late_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenTelemetry ignores it, so that its exporters get nothing."""
    monkeypatch.setattr("byline.genai.tracer_provider.has_tracer_provider", lambda: False)
    monkeypatch.setattr(trace, "set_tracer_provider", lambda _: None)
    logger = logging.getLogger("opentelemetry.trace")
    monkeypatch.setattr(logger, "filters", [])
    for _ in range(2):
        byline.instrument(destinations=[], clients=())
        byline.uninstrument()
    assert [type(each) for each in logger.filters] == [LateProviderFilter]
    monkeypatch.undo()
    logger.addFilter(found := LateProviderFilter())
    try:
        for _ in range(2):
            trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    finally:
        logger.removeFilter(found)
    messages = [record.getMessage() for record in caplog.records if record.name == "byline"]
    (message,) = [message for message in messages if "E104" in message]
    assert "Call byline.instrument() after it is set" in message
