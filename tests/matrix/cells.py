"""The cells of the matrix: an instrumentation, the SDK that it covers, and their packages."""

from __future__ import annotations

from typing import Final, NamedTuple


class Cell(NamedTuple):
    """One instrumentation beside one SDK.

    Attributes:
        name: What it is called on the command line and in ``expected.json``.
        title: What it is called in ``docs/reach.md``.
        shown: The distributions whose versions the table states.
        packages: What is installed besides byline. Pinned, so that a cell gets worse by byline's doing alone.
        sdk: The module of ``tests.matrix.sdks`` that makes the calls.
        settles: Seconds that its spans may come after the last exchange, from threads of its own.
    """

    name: str
    title: str
    shown: tuple[str, ...]
    packages: tuple[str, ...]
    sdk: str = "openai"
    settles: float = 0.0


_OPENAI: Final = "openai==3.54.0"
_ANTHROPIC: Final = "anthropic==2.12.0"
_HTTP_SPANS: Final = "opentelemetry-instrumentation-httpx==0.66b2"
#: It imports httpx without saying so, and later versions of its own base do not fit it.
_OPENAI_V2: Final = (
    "opentelemetry-instrumentation-openai-v2==2.4b0",
    "opentelemetry-util-genai==0.4b0",
    "httpx==0.28.1",
)
_GENAI_ANTHROPIC: Final = "opentelemetry-instrumentation-genai-anthropic==1.3b0"
_OPENLLMETRY_ANTHROPIC: Final = "opentelemetry-instrumentation-anthropic==0.62.4"
_LANGCHAIN: Final = ("langchain-openai==1.7.4", "langchain==1.5.2", "langgraph==1.2.24")
#: Without MCP's package its tools and its Responses API cannot be imported.
_LITELLM: Final = ("litellm[mcp]==1.106.2", "openai==2.54.0")

CELLS: Final = (
    Cell("none", "no instrumentation", ("openai",), (_OPENAI,)),
    Cell("none-requests", "no instrumentation, plain requests", ("requests",), ("requests==2.34.2",), "requests"),
    Cell(
        "http-spans",
        "OpenTelemetry httpx: only HTTP spans",
        ("opentelemetry-instrumentation-httpx", "openai"),
        (_OPENAI, _HTTP_SPANS),
    ),
    Cell(
        "http-spans-first",
        "OpenTelemetry httpx, instrumented before byline",
        ("opentelemetry-instrumentation-httpx", "openai"),
        (_OPENAI, _HTTP_SPANS),
    ),
    Cell(
        "genai-openai",
        "OpenTelemetry GenAI, openai",
        ("opentelemetry-instrumentation-genai-openai", "openai"),
        (_OPENAI, "opentelemetry-instrumentation-genai-openai==1.3b0"),
    ),
    Cell(
        "openai-v2",
        "OpenTelemetry openai-v2 (legacy)",
        ("opentelemetry-instrumentation-openai-v2", "openai"),
        (_OPENAI, *_OPENAI_V2),
    ),
    Cell(
        "openai-v2-latest",
        "OpenTelemetry openai-v2 (legacy), OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental",
        ("opentelemetry-instrumentation-openai-v2", "openai"),
        (_OPENAI, *_OPENAI_V2),
    ),
    Cell(
        "openllmetry-openai",
        "OpenLLMetry, openai",
        ("opentelemetry-instrumentation-openai", "openai"),
        (_OPENAI, "opentelemetry-instrumentation-openai==0.62.4"),
    ),
    Cell(
        "openinference-openai",
        "OpenInference, openai",
        ("openinference-instrumentation-openai", "openai"),
        (_OPENAI, "openinference-instrumentation-openai==0.1.66"),
    ),
    Cell("openlit", "OpenLIT, openai", ("openlit", "openai"), ("openlit==1.45.0", "openai==2.54.0")),
    Cell("langfuse", "Langfuse's openai", ("langfuse", "openai"), (_OPENAI, "langfuse==5.0.4"), "langfuse"),
    Cell("logfire", "Logfire, openai", ("logfire", "openai"), (_OPENAI, "logfire==5.2.0")),
    Cell(
        "pydantic-ai",
        "Pydantic AI, openai",
        ("pydantic-ai-slim", "openai"),
        (_OPENAI, "pydantic-ai-slim[openai]==2.68.0"),
        "pydantic_ai",
    ),
    Cell(
        "litellm",
        "LiteLLM SDK, otel callback",
        ("litellm", "openai"),
        _LITELLM,
        "litellm",
        3.0,
    ),
    Cell(
        "litellm-request-span",
        "LiteLLM SDK, otel callback, USE_OTEL_LITELLM_REQUEST_SPAN=true",
        ("litellm", "openai"),
        _LITELLM,
        "litellm",
        3.0,
    ),
    Cell(
        "litellm-none",
        "LiteLLM SDK, no callback",
        ("litellm", "openai"),
        _LITELLM,
        "litellm",
    ),
    Cell("langchain", "LangChain, no instrumentation", ("langchain-openai", "langgraph"), _LANGCHAIN, "langchain"),
    Cell(
        "openinference-langchain",
        "OpenInference, LangChain",
        ("openinference-instrumentation-langchain", "langchain-openai", "langgraph"),
        (*_LANGCHAIN, "openinference-instrumentation-langchain==0.1.80"),
        "langchain",
    ),
    Cell(
        "openllmetry-langchain",
        "OpenLLMetry, LangChain",
        ("opentelemetry-instrumentation-langchain", "langchain-openai", "langgraph"),
        (*_LANGCHAIN, "opentelemetry-instrumentation-langchain==0.62.4"),
        "langchain",
    ),
    Cell("strands", "Strands, built in", ("strands-agents",), ("strands-agents[openai]==1.62.0",), "strands"),
    Cell("anthropic", "anthropic, built in", ("anthropic",), (_ANTHROPIC,), "anthropic"),
    Cell(
        "genai-anthropic",
        "OpenTelemetry GenAI, anthropic",
        ("opentelemetry-instrumentation-genai-anthropic", "anthropic"),
        (_ANTHROPIC, _GENAI_ANTHROPIC),
        "anthropic",
    ),
    Cell(
        "genai-anthropic-alone",
        "OpenTelemetry GenAI, anthropic, ANTHROPIC_OPEN_TELEMETRY=false",
        ("opentelemetry-instrumentation-genai-anthropic", "anthropic"),
        (_ANTHROPIC, _GENAI_ANTHROPIC),
        "anthropic",
    ),
    Cell(
        "openllmetry-anthropic",
        "OpenLLMetry, anthropic",
        ("opentelemetry-instrumentation-anthropic", "anthropic"),
        (_ANTHROPIC, _OPENLLMETRY_ANTHROPIC),
        "anthropic",
    ),
    Cell(
        "openllmetry-anthropic-alone",
        "OpenLLMetry, anthropic, ANTHROPIC_OPEN_TELEMETRY=false",
        ("opentelemetry-instrumentation-anthropic", "anthropic"),
        (_ANTHROPIC, _OPENLLMETRY_ANTHROPIC),
        "anthropic",
    ),
    Cell(
        "google-genai",
        "google-genai, no instrumentation",
        ("google-genai",),
        ("google-genai==3.6.1", "genai-prices"),
        "gemini",
    ),
    Cell(
        "google-genai-otel",
        "OpenTelemetry google-genai",
        ("opentelemetry-instrumentation-google-genai", "google-genai"),
        ("google-genai==2.34.0", "genai-prices", "opentelemetry-instrumentation-google-genai==1.3b0"),
        "gemini",
    ),
)


def find(name: str) -> Cell:
    """Return a cell by its name."""
    return next(cell for cell in CELLS if cell.name == name)
