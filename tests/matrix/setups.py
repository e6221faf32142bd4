"""How each instrumentation is switched on, as its own documentation has it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace


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


def _set(**variables: str) -> Callable[[], None]:
    def switch_on() -> None:
        os.environ.update(variables)

    return switch_on


def _processor(module: str, name: str) -> Callable[[], None]:
    """Return a function that adds a processor which rewrites a framework's own spans as they end."""

    def switch_on() -> None:
        provider: Any = trace.get_tracer_provider()
        provider.add_span_processor(getattr(importlib.import_module(module), name)())

    return switch_on


def _openinference_pydantic_ai() -> None:
    _pydantic_ai()
    _processor("openinference.instrumentation.pydantic_ai", "OpenInferenceSpanProcessor")()


def _haystack() -> None:
    haystack: Any = importlib.import_module("haystack.tracing")
    connector: Any = importlib.import_module("haystack_integrations.tracing.opentelemetry")
    haystack.enable_tracing(connector.OpenTelemetryTracer(trace.get_tracer("app")))


def _openinference_litellm() -> None:
    _litellm_alone()
    _instrumentor("openinference.instrumentation.litellm", "LiteLLMInstrumentor")()


_genai_anthropic = _instrumentor("opentelemetry.instrumentation.genai.anthropic", "AnthropicInstrumentor")
_openllmetry_anthropic = _instrumentor("opentelemetry.instrumentation.anthropic", "AnthropicInstrumentor")
_openai_v2 = _instrumentor("opentelemetry.instrumentation.openai_v2", "OpenAIInstrumentor")
_http_spans = _instrumentor("opentelemetry.instrumentation.httpx", "HTTPX2ClientInstrumentor")
_without_anthropics_own = _set(ANTHROPIC_OPEN_TELEMETRY="false")

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
    "genai-langchain": _instrumentor("opentelemetry.instrumentation.genai.langchain", "LangChainInstrumentor"),
    "openinference-strands": _processor(
        "openinference.instrumentation.strands_agents", "StrandsAgentsToOpenInferenceProcessor"
    ),
    "openinference-adk": _instrumentor("openinference.instrumentation.google_adk", "GoogleADKInstrumentor"),
    "openinference-agent-framework": _processor(
        "openinference.instrumentation.agent_framework", "AgentFrameworkToOpenInferenceProcessor"
    ),
    "openinference-pydantic-ai": _openinference_pydantic_ai,
    "haystack-otel": _haystack,
    "openinference-openai-agents": _instrumentor(
        "openinference.instrumentation.openai_agents", "OpenAIAgentsInstrumentor"
    ),
    "openllmetry-openai-agents": _instrumentor(
        "opentelemetry.instrumentation.openai_agents", "OpenAIAgentsInstrumentor"
    ),
    "genai-openai-agents": _instrumentor(
        "opentelemetry.instrumentation.genai.openai_agents", "OpenAIAgentsInstrumentor"
    ),
    "openinference-llama-index": _instrumentor("openinference.instrumentation.llama_index", "LlamaIndexInstrumentor"),
    "openllmetry-llama-index": _instrumentor("opentelemetry.instrumentation.llamaindex", "LlamaIndexInstrumentor"),
    "genai-llama-index": _instrumentor("opentelemetry.instrumentation.genai.llama_index", "LlamaIndexInstrumentor"),
    "openinference-haystack": _instrumentor("openinference.instrumentation.haystack", "HaystackInstrumentor"),
    "openinference-dspy": _instrumentor("openinference.instrumentation.dspy", "DSPyInstrumentor"),
    "genai-dspy": _instrumentor("opentelemetry.instrumentation.genai.dspy", "DSPyInstrumentor"),
    "openinference-smolagents": _instrumentor("openinference.instrumentation.smolagents", "SmolagentsInstrumentor"),
    "openinference-crewai": _instrumentor("openinference.instrumentation.crewai", "CrewAIInstrumentor"),
    "openllmetry-crewai": _instrumentor("opentelemetry.instrumentation.crewai", "CrewAIInstrumentor"),
    "genai-smolagents": _instrumentor("opentelemetry.instrumentation.genai.smolagents", "SmolagentsInstrumentor"),
    "openinference-anthropic": _instrumentor("openinference.instrumentation.anthropic", "AnthropicInstrumentor"),
    "openinference-google-genai": _instrumentor(
        "openinference.instrumentation.google_genai", "GoogleGenAIInstrumentor"
    ),
    "openinference-litellm": _openinference_litellm,
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
    "openai-v2-latest": _set(OTEL_SEMCONV_STABILITY_OPT_IN="gen_ai_latest_experimental"),
    "litellm-request-span": _set(USE_OTEL_LITELLM_REQUEST_SPAN="true"),
    **dict.fromkeys(("dspy", "openinference-dspy", "genai-dspy"), _litellm_alone),
    **dict.fromkeys(
        ("crewai", "openinference-crewai", "openllmetry-crewai"),
        _set(CREWAI_DISABLE_TELEMETRY="true", CREWAI_TRACING_ENABLED="false"),
    ),
    "langsmith": _set(LANGSMITH_TRACING="true", LANGSMITH_TRACING_MODE="otel"),
    "genai-anthropic-alone": _without_anthropics_own,
    "openllmetry-anthropic-alone": _without_anthropics_own,
    "openinference-anthropic": _without_anthropics_own,
}


def before(cell: str) -> None:
    """Run the steps before `byline.instrument`."""
    BEFORE.get(cell, _nothing)()


def after(cell: str) -> None:
    """Run the steps after `byline.instrument`."""
    AFTER.get(cell, _nothing)()
