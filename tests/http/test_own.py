"""byline's own LLM spans stand back where an instrumentation makes its span after the exchange."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace

from byline.http import fallback_span
from byline.http.call_config import CallConfig

CONFIG: Any = CallConfig(
    tracer_provider=None, tracer=trace.NoOpTracer(), gateways=(), llm_spans="auto", capture_content=False
)


class OpenTelemetry:
    """What LiteLLM puts into its list of callbacks."""

    config = SimpleNamespace(ignore_context_propagation=False)


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """LiteLLM's SDK with its OpenTelemetry callback, as far as byline looks at it."""
    module = SimpleNamespace(callbacks=[OpenTelemetry()], success_callback=[])
    monkeypatch.setitem(sys.modules, "litellm", module)
    monkeypatch.delenv("USE_OTEL_LITELLM_REQUEST_SPAN", raising=False)
    return module


def test_litellm_makes_its_span_where_none_is_current(litellm: Any) -> None:
    """It comes late, and byline's would be the second one."""
    assert not fallback_span.wants_fallback_span(CONFIG, "openai.chat")


def test_litellm_makes_none_within_the_apps_span(litellm: Any, provider: Any) -> None:
    """It writes on the app's span instead, so that the call has no span but byline's."""
    with trace.get_tracer("app").start_as_current_span("work"):
        assert fallback_span.wants_fallback_span(CONFIG, "openai.chat")


@pytest.mark.parametrize("way", ["variable", "setting"])
def test_litellm_can_be_told_to_make_one_everywhere(
    way: str, litellm: Any, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its environment variable, or by leaving the context alone."""
    if way == "variable":
        monkeypatch.setenv("USE_OTEL_LITELLM_REQUEST_SPAN", "True")
    else:
        litellm.callbacks[0].config = SimpleNamespace(ignore_context_propagation=True)
    with trace.get_tracer("app").start_as_current_span("work"):
        assert not fallback_span.wants_fallback_span(CONFIG, "openai.chat")


def test_litellm_without_the_callback_makes_none(litellm: Any) -> None:
    """Other callbacks are no matter of ours."""
    litellm.callbacks = ["prometheus"]
    assert fallback_span.wants_fallback_span(CONFIG, "openai.chat")
