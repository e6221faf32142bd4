"""byline creates no fallback span if an instrumentation creates its span after the request."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from byline.http import fallback_span
from byline.http.call_config import CallConfig

CONFIG: Any = CallConfig(
    tracer_provider=None, tracer=trace.NoOpTracer(), gateways=(), llm_spans="auto", capture_content=False
)


class OpenTelemetry:
    """Stands for the OpenTelemetry callback in LiteLLM's lists of callbacks."""

    config = SimpleNamespace(ignore_context_propagation=False)


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Stands for LiteLLM's SDK with its OpenTelemetry callback."""
    module = SimpleNamespace(callbacks=[OpenTelemetry()], success_callback=[])
    monkeypatch.setitem(sys.modules, "litellm", module)
    monkeypatch.delenv("USE_OTEL_LITELLM_REQUEST_SPAN", raising=False)
    return module


def test_litellm_creates_a_span_if_none_is_current(litellm: Any) -> None:
    """Byline's span would be a second one."""
    assert not fallback_span.wants_fallback_span(CONFIG, "openai.chat")


def test_litellm_creates_no_span_inside_the_apps_span(litellm: Any, provider: Any) -> None:
    """LiteLLM sets attributes on the app's span, so byline creates the span of the call."""
    with trace.get_tracer("app").start_as_current_span("work"):
        assert fallback_span.wants_fallback_span(CONFIG, "openai.chat")


@pytest.mark.parametrize("way", ["variable", "setting"])
def test_litellm_can_be_configured_to_create_a_span_everywhere(
    way: str, litellm: Any, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an environment variable, or by ignoring the current context."""
    if way == "variable":
        monkeypatch.setenv("USE_OTEL_LITELLM_REQUEST_SPAN", "True")
    else:
        litellm.callbacks[0].config = SimpleNamespace(ignore_context_propagation=True)
    with trace.get_tracer("app").start_as_current_span("work"):
        assert not fallback_span.wants_fallback_span(CONFIG, "openai.chat")


def test_litellm_without_the_callback_creates_no_span(litellm: Any) -> None:
    """Other callbacks do not matter."""
    litellm.callbacks = ["prometheus"]
    assert fallback_span.wants_fallback_span(CONFIG, "openai.chat")


@pytest.mark.parametrize("own_provider", [True, False])
def test_a_callback_with_a_provider_of_its_own_makes_no_span_that_byline_gets(
    own_provider: bool, litellm: Any, provider: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """LiteLLM's langfuse_otel exports by itself: byline makes a span of the call and says so once."""
    theirs = TracerProvider() if own_provider else provider
    litellm.callbacks[0].tracer = theirs.get_tracer("litellm")
    # LiteLLM keeps the name beside the object.
    litellm.success_callback = ["langfuse_otel"]
    config: Any = CallConfig(
        tracer_provider=provider,
        tracer=provider.get_tracer("byline"),
        gateways=(),
        llm_spans="auto",
        capture_content=False,
    )
    assert fallback_span.wants_fallback_span(config, "openai.chat") is own_provider
    assert fallback_span.wants_fallback_span(config, "openai.chat") is own_provider
    assert caplog.text.count("byline.E126") == own_provider
