"""LLM calls without attribution, spans that are sent nowhere, and the line that tells where spans are sent."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

import byline
from byline import settings
from byline.asgi import AttributionMiddleware
from byline.destinations import OTLP, Langfuse
from byline.genai.setup_check import InstrumentationCheck
from tests.support import claim, run_asgi

URL = "https://openrouter.ai/api/v1/chat/completions"
Messages = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def clean(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InstrumentationCheck, "has_middleware", False)


@pytest.fixture
def provider() -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    return provider


@pytest.fixture
def running(provider: TracerProvider) -> Iterator[None]:
    byline.instrument(tracer_provider=provider, destinations=[])
    yield
    byline.uninstrument()


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> Messages:
    caplog.set_level(logging.INFO, "byline")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "byline"]


def call() -> None:
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"model": "m", "choices": []}))
    with httpx2.Client(transport=transport) as client:
        client.post(URL, json={"model": "m", "messages": []})


async def no_app(scope: Any, receive: Any, send: Any) -> None:
    """Answer nothing."""


def in_thread(function: Callable[[], object]) -> None:
    # Python 3.14 builds without a GIL let threads inherit the context.
    run = contextvars.Context().run
    thread = threading.Thread(target=lambda: run(function), name="my-worker")
    thread.start()
    thread.join()


def warnings_in(messages: Messages) -> list[str]:
    return [message for message in messages() if message.startswith("byline.E")]


def without_request() -> int:
    return byline.stats().get("calls.without_request", 0)


@pytest.mark.usefixtures("running")
def test_without_a_middleware(messages: Messages) -> None:
    for _ in range(3):
        call()
    (message,) = warnings_in(messages)
    assert message == (
        "byline.E102: an LLM call found no request to be attributed to, because the app has no AttributionMiddleware. "
        "To fix this, add byline.asgi.AttributionMiddleware, or that of byline.wsgi; in scripts, use byline.bound()"
    )
    assert without_request() == 3


@pytest.mark.usefixtures("running")
def test_in_another_thread(messages: Messages) -> None:
    """Each thread has a name of its own; the reason is told once."""
    AttributionMiddleware(no_app)
    with byline.bound(session_id="s-1"):
        in_thread(call)
        in_thread(call)
        in_thread(byline.carry(call))
    (message,) = warnings_in(messages)
    assert "because the thread 'my-worker' does not have the context of a request" in message
    assert message.endswith(f"wrap its function in byline.carry(), or run: {settings.install_command('threads')}")
    assert without_request() == 2


@pytest.mark.usefixtures("running")
def test_in_a_middleware_outside(messages: Messages, provider: TracerProvider) -> None:
    """The span of the request is there, from OpenTelemetry's instrumentation of the framework."""
    AttributionMiddleware(no_app)
    tracer = provider.get_tracer("framework")
    with tracer.start_as_current_span("POST", kind=SpanKind.SERVER), tracer.start_as_current_span("auth"):
        call()
    (message,) = warnings_in(messages)
    assert "runs around AttributionMiddleware" in message
    assert "the one added last" in message


@pytest.mark.usefixtures("running")
def test_in_an_event_loop_without_a_request(messages: Messages) -> None:
    AttributionMiddleware(no_app)

    async def job() -> None:
        call()

    in_thread(lambda: asyncio.run(job()))
    (message,) = warnings_in(messages)
    assert "no request is under way" in message


@pytest.mark.usefixtures("running")
def test_long_after_the_request(messages: Messages) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        contexts.append(contextvars.copy_context())

    contexts: list[contextvars.Context] = []
    asyncio.run(run_asgi(AttributionMiddleware(app, after_response=0), claim({"session_id": "s"})))
    contexts[0].run(call)
    (message,) = warnings_in(messages)
    assert "ended long before" in message
    assert without_request() == 1


@pytest.mark.usefixtures("running")
def test_calls_with_a_request_and_calls_without_by_intention_are_not_reported(messages: Messages) -> None:
    with byline.bound():
        call()
    with byline.bound(session_id="s-1"), byline.unbound():
        call()
    assert warnings_in(messages) == []
    assert without_request() == 0
    assert byline.stats()["calls"] == 2


# --- Where spans are sent


def test_where_spans_are_sent_is_logged_at_start(messages: Messages, provider: TracerProvider) -> None:
    destinations = [
        Langfuse("pk-lf-1", "sk-lf-secret", "https://lf.example/api/public/otel"),
        OTLP("https://user:secret@collector.example", headers={"authorization": "secret"}),
    ]
    byline.instrument(tracer_provider=provider, destinations=destinations, clients=())
    byline.instrument(tracer_provider=provider, destinations=destinations, clients=())
    byline.uninstrument()
    assert messages()[0] == "byline: spans are sent to langfuse (lf.example) and otlp (collector.example)"
    assert "secret" not in str(messages())


def test_no_destination_is_logged_at_start(messages: Messages, provider: TracerProvider) -> None:
    byline.instrument(tracer_provider=provider, destinations=[], clients=())
    byline.uninstrument()
    byline.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False), destinations=[], clients=())
    byline.uninstrument()
    assert messages() == [
        "byline: spans are sent by the app's own span processors only",
        "byline: spans are sent to no destination",
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {}, "because there is no destination. Set LANGFUSE_PUBLIC_KEY"),
        (
            {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1", "LANGFUSE_TRACING_ENABLED": "false"},
            {},
            "because LANGFUSE_TRACING_ENABLED turns Langfuse off",
        ),
        ({}, {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}, "LANGFUSE_PUBLIC_KEY was set after"),
        ({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "OTEL_EXPORTER_OTLP_ENDPOINT was set after"),
    ],
)
def test_calls_whose_spans_are_sent_nowhere(
    messages: Messages,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, str],
    after: dict[str, str],
    expected: str,
) -> None:
    """Told at the first call, because an exporter may be added after byline."""
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    byline.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False))
    for name, value in after.items():
        monkeypatch.setenv(name, value)
    with byline.bound():
        call()
        call()
    byline.uninstrument()
    (message,) = [message for message in messages() if "E103" in message]
    assert expected in message


@pytest.mark.parametrize("explicit", [True, False])
def test_an_exporter_that_is_added_later_and_no_destination_by_intention_are_fine(
    messages: Messages, explicit: bool
) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    byline.instrument(tracer_provider=provider, destinations=[] if explicit else None)
    if not explicit:
        provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    with byline.bound():
        call()
    byline.uninstrument()
    assert not [message for message in messages() if "E103" in message]
