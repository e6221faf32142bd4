"""How each instrumentation is switched on, as its own documentation has it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final


def _nothing() -> None:
    """Leave the SDK alone."""


def _instrumentor(module: str, name: str) -> Callable[[], None]:
    def switch_on() -> None:
        getattr(importlib.import_module(module), name)().instrument()

    return switch_on


def _openlit() -> None:
    os.environ["OPENLIT_DISABLE_BANNER"] = "true"
    module: Any = importlib.import_module("openlit")
    module.init(application_name="matrix", disable_metrics=True, disable_events=True)


def _langfuse() -> None:
    module: Any = importlib.import_module("langfuse")
    exporter: Any = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    module.Langfuse(public_key="pk-lf-matrix", secret_key="sk-lf-matrix", span_exporter=exporter.InMemorySpanExporter())


def _logfire() -> None:
    module: Any = importlib.import_module("logfire")
    module.configure(send_to_logfire=False, console=False, service_name="matrix")
    module.instrument_openai()


def _pydantic_ai() -> None:
    module: Any = importlib.import_module("pydantic_ai")
    module.Agent.instrument_all()
    module.Embedder.instrument_all()


def _litellm_alone() -> None:
    # Else it fetches its price list from the internet.
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    importlib.import_module("litellm")


def _litellm() -> None:
    _litellm_alone()
    module: Any = importlib.import_module("litellm")
    module.callbacks = ["otel"]


def _set(name: str, value: str) -> Callable[[], None]:
    def switch_on() -> None:
        os.environ[name] = value

    return switch_on


_genai_anthropic = _instrumentor("opentelemetry.instrumentation.genai.anthropic", "AnthropicInstrumentor")
_openllmetry_anthropic = _instrumentor("opentelemetry.instrumentation.anthropic", "AnthropicInstrumentor")
_openai_v2 = _instrumentor("opentelemetry.instrumentation.openai_v2", "OpenAIInstrumentor")
_http_spans = _instrumentor("opentelemetry.instrumentation.httpx", "HTTPX2ClientInstrumentor")
_without_anthropics_own = _set("ANTHROPIC_OPEN_TELEMETRY", "false")

#: Cell → steps after `byline.instrument`.
AFTER: Final[dict[str, Callable[[], None]]] = {
    "http-spans": _http_spans,
    "genai-openai": _instrumentor("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    "openai-v2": _openai_v2,
    "openai-v2-latest": _openai_v2,
    "openllmetry-openai": _instrumentor("opentelemetry.instrumentation.openai", "OpenAIInstrumentor"),
    "openinference-openai": _instrumentor("openinference.instrumentation.openai", "OpenAIInstrumentor"),
    "openlit": _openlit,
    "langfuse": _langfuse,
    "pydantic-ai": _pydantic_ai,
    "openinference-langchain": _instrumentor("openinference.instrumentation.langchain", "LangChainInstrumentor"),
    "openllmetry-langchain": _instrumentor("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "litellm": _litellm,
    "litellm-request-span": _litellm,
    "litellm-none": _litellm_alone,
    "genai-anthropic": _genai_anthropic,
    "genai-anthropic-alone": _genai_anthropic,
    "openllmetry-anthropic": _openllmetry_anthropic,
    "openllmetry-anthropic-alone": _openllmetry_anthropic,
    "google-genai-otel": _instrumentor("opentelemetry.instrumentation.google_genai", "GoogleGenAiSdkInstrumentor"),
}
#: Cell → steps before it: settings, and the tracer provider of some vendors.
BEFORE: Final[dict[str, Callable[[], None]]] = {
    "http-spans-first": _http_spans,
    "logfire": _logfire,
    "openai-v2-latest": _set("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental"),
    "litellm-request-span": _set("USE_OTEL_LITELLM_REQUEST_SPAN", "true"),
    "genai-anthropic-alone": _without_anthropics_own,
    "openllmetry-anthropic-alone": _without_anthropics_own,
}


def before(cell: str) -> None:
    """Run the steps before `byline.instrument`."""
    BEFORE.get(cell, _nothing)()


def after(cell: str) -> None:
    """Run the steps after `byline.instrument`."""
    AFTER.get(cell, _nothing)()
