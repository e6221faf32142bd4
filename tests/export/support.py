"""Shared by the tests of export: an app whose spans go to a receiver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Tracer

from byline import bound
from byline.export import Destination
from byline.genai.attribution_processor import AttributionSpanProcessor
from byline.testing import ReceivedSpan

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o"}
AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "helper"}
TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"}

#: The example of OpenRouter's documentation.
EXAMPLE: dict[str, Any] = {
    "user_id": "user_12345",
    "session_id": "session_abc",
    "trace_id": "workflow_12345",
    "trace_name": "Document Processing Pipeline",
    "span_name": "Summarization Step",
    "generation_name": "Generate Summary",
    "environment": "production",
    "metadata": {"pipeline_version": "2.1.0"},
}


class Kept(SpanExporter):
    """Keeps the exported spans."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS


class Memory(Destination):
    """A destination in memory."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("https://memory.local", **settings)
        self.kept = Kept()

    def exporter(self) -> SpanExporter:
        return self.kept

    @property
    def names(self) -> list[str]:
        """The names of the exported spans, sorted."""
        return sorted(span.name for span in self.kept.spans)

    def values(self, attribute: str) -> dict[str, Any]:
        """Return the value of an attribute by the name of the span."""
        return {span.name: (span.attributes or {}).get(attribute) for span in self.kept.spans}


class App:
    """Makes spans as an app with one signed request after the other does."""

    def __init__(self, *destinations: Destination, **provider: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False, **provider)
        self.provider.add_span_processor(AttributionSpanProcessor())
        for destination in destinations:
            self.provider.add_span_processor(destination.processor())
        self.destinations = destinations
        self.tracer: Tracer = self.provider.get_tracer("app")

    @contextmanager
    def request(self, **fields: Any) -> Iterator[Any]:
        with bound(**fields), self.tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER) as span:
            yield span

    @contextmanager
    def span(self, name: str, attributes: dict[str, Any] | None = None) -> Iterator[Any]:
        with self.tracer.start_as_current_span(name, attributes=attributes) as span:
            yield span

    def chat(self, name: str = "chat gpt-4o", **attributes: Any) -> None:
        with self.span(name, {**CHAT, **attributes}):
            pass

    def close(self) -> None:
        self.provider.shutdown()
        for destination in self.destinations:
            destination.shutdown()


@contextmanager
def running(*destinations: Destination, **provider: Any) -> Iterator[App]:
    app = App(*destinations, **provider)
    try:
        yield app
    finally:
        app.close()


def tree(spans: list[ReceivedSpan]) -> dict[str | None, list[str]]:
    """Return the names of the spans below each name, ``None`` for the roots; a dangling parent is an error."""
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "a span came twice"
    below: dict[str | None, list[str]] = {}
    for span in spans:
        if span.parent_id is not None:
            assert span.parent_id in by_id, f"{span.name} dangles"
            assert by_id[span.parent_id].trace_id == span.trace_id, f"{span.name} hangs in another trace"
        parent = None if span.parent_id is None else by_id[span.parent_id].name
        below.setdefault(parent, []).append(span.name)
    return {name: sorted(names) for name, names in below.items()}


def named(spans: list[ReceivedSpan], name: str) -> ReceivedSpan:
    (found,) = [span for span in spans if span.name == name]
    return found
