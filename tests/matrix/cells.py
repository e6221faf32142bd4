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
        is_agent: Whether the SDK is an agent framework, of which tree, types, input and output are judged as well.
    """

    name: str
    title: str
    shown: tuple[str, ...]
    packages: tuple[str, ...]
    sdk: str = "openai"
    settles: float = 0.0
    is_agent: bool = False


def _agent(
    sdk: str, name: str, title: str, shown: tuple[str, ...], packages: tuple[str, ...], settles: float = 0.0
) -> Cell:
    return Cell(name, title, shown, packages, sdk, settles, is_agent=True)


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
#: All instrumentations of a framework are installed together: none of them acts before it is switched on.
_LANGCHAIN: Final = (
    "langchain-openai==1.7.4",
    "langchain==1.5.2",
    "langgraph==1.2.24",
    "langsmith[otel]==0.14.17",
    "openinference-instrumentation-langchain==0.1.80",
    "opentelemetry-instrumentation-langchain==0.62.4",
    "opentelemetry-instrumentation-genai-langchain==1.3b0",
)
_LANGCHAIN_SHOWN: Final = ("langchain", "langchain-openai", "langgraph")
_STRANDS: Final = ("strands-agents[openai]==1.62.0", "openinference-instrumentation-strands-agents==0.1.12")
_ADK: Final = ("google-adk==2.13.0", "genai-prices", "openinference-instrumentation-google-adk==1.0.5")
_AGENT_FRAMEWORK: Final = (
    "agent-framework-core==1.23.0",
    "agent-framework-openai==1.17.0",
    "openinference-instrumentation-agent-framework==0.1.13",
)
_PYDANTIC_AI: Final = (_OPENAI, "pydantic-ai-slim[openai]==2.68.0", "openinference-instrumentation-pydantic-ai==0.1.30")
_OPENAI_AGENTS: Final = (
    "openai-agents==0.24.0",
    "openinference-instrumentation-openai-agents==2.6.0",
    "opentelemetry-instrumentation-openai-agents==0.62.4",
    "opentelemetry-instrumentation-genai-openai-agents==1.3b0",
)
_LLAMA_INDEX: Final = (
    "llama-index-core==0.14.25",
    "llama-index-llms-openai-like==0.8.1",
    "openinference-instrumentation-llama-index==4.6.1",
    "opentelemetry-instrumentation-llamaindex==0.62.4",
    "opentelemetry-instrumentation-genai-llama-index==1.3b0",
)
_HAYSTACK: Final = (
    "haystack-ai==3.4.1",
    "opentelemetry-haystack==2.0.0",
    "openinference-instrumentation-haystack==0.1.46",
)
_DSPY: Final = (
    "dspy==3.4.1",
    "openinference-instrumentation-dspy==0.1.48",
    "opentelemetry-instrumentation-genai-dspy==1.3b0",
)
_SMOLAGENTS: Final = (
    "smolagents[openai]==1.26.0",
    "openinference-instrumentation-smolagents==0.1.43",
    "opentelemetry-instrumentation-genai-smolagents==1.2b0",
)
_CREWAI: Final = (
    "crewai==1.15.30",
    "openinference-instrumentation-crewai==1.1.21",
    "opentelemetry-instrumentation-crewai==0.62.4",
)
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
        "openinference-anthropic",
        "OpenInference, anthropic, ANTHROPIC_OPEN_TELEMETRY=false",
        ("openinference-instrumentation-anthropic", "anthropic"),
        (_ANTHROPIC, "openinference-instrumentation-anthropic==3.1.0"),
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
    Cell(
        "openinference-google-genai",
        "OpenInference, google-genai",
        ("openinference-instrumentation-google-genai", "google-genai"),
        ("google-genai==3.6.1", "genai-prices", "openinference-instrumentation-google-genai==1.4.14"),
        "gemini",
    ),
    Cell(
        "openinference-litellm",
        "OpenInference, LiteLLM SDK",
        ("openinference-instrumentation-litellm", "litellm", "openai"),
        (*_LITELLM, "openinference-instrumentation-litellm==0.1.51"),
        "litellm",
    ),
    _agent("langchain", "langchain", "LangChain, no instrumentation", _LANGCHAIN_SHOWN, _LANGCHAIN),
    _agent(
        "langchain",
        "openinference-langchain",
        "OpenInference, LangChain",
        ("openinference-instrumentation-langchain", *_LANGCHAIN_SHOWN),
        _LANGCHAIN,
    ),
    _agent(
        "langchain",
        "openllmetry-langchain",
        "OpenLLMetry, LangChain",
        ("opentelemetry-instrumentation-langchain", *_LANGCHAIN_SHOWN),
        _LANGCHAIN,
    ),
    _agent(
        "langchain",
        "genai-langchain",
        "OpenTelemetry GenAI, LangChain",
        ("opentelemetry-instrumentation-genai-langchain", *_LANGCHAIN_SHOWN),
        _LANGCHAIN,
    ),
    _agent(
        "langchain",
        "langsmith",
        "LangSmith, LANGSMITH_TRACING_MODE=otel, LangChain",
        ("langsmith", *_LANGCHAIN_SHOWN),
        _LANGCHAIN,
        settles=2.0,
    ),
    _agent("strands", "strands", "Strands, built in", ("strands-agents",), _STRANDS),
    _agent(
        "strands",
        "openinference-strands",
        "OpenInference, Strands",
        ("openinference-instrumentation-strands-agents", "strands-agents"),
        _STRANDS,
    ),
    _agent("adk", "adk", "Google ADK, built in", ("google-adk",), _ADK),
    _agent(
        "adk",
        "openinference-adk",
        "OpenInference, Google ADK",
        ("openinference-instrumentation-google-adk", "google-adk"),
        _ADK,
    ),
    _agent(
        "agent_framework", "agent-framework", "Agent Framework, built in", ("agent-framework-core",), _AGENT_FRAMEWORK
    ),
    _agent(
        "agent_framework",
        "openinference-agent-framework",
        "OpenInference, Agent Framework",
        ("openinference-instrumentation-agent-framework", "agent-framework-core"),
        _AGENT_FRAMEWORK,
    ),
    _agent("openai_agents", "openai-agents", "OpenAI Agents, no instrumentation", ("openai-agents",), _OPENAI_AGENTS),
    _agent(
        "openai_agents",
        "openinference-openai-agents",
        "OpenInference, OpenAI Agents",
        ("openinference-instrumentation-openai-agents", "openai-agents"),
        _OPENAI_AGENTS,
    ),
    _agent(
        "openai_agents",
        "openllmetry-openai-agents",
        "OpenLLMetry, OpenAI Agents",
        ("opentelemetry-instrumentation-openai-agents", "openai-agents"),
        _OPENAI_AGENTS,
    ),
    _agent(
        "openai_agents",
        "genai-openai-agents",
        "OpenTelemetry GenAI, OpenAI Agents",
        ("opentelemetry-instrumentation-genai-openai-agents", "openai-agents"),
        _OPENAI_AGENTS,
    ),
    _agent("llama_index", "llama-index", "LlamaIndex, no instrumentation", ("llama-index-core",), _LLAMA_INDEX),
    _agent(
        "llama_index",
        "openinference-llama-index",
        "OpenInference, LlamaIndex",
        ("openinference-instrumentation-llama-index", "llama-index-core"),
        _LLAMA_INDEX,
    ),
    _agent(
        "llama_index",
        "openllmetry-llama-index",
        "OpenLLMetry, LlamaIndex",
        ("opentelemetry-instrumentation-llamaindex", "llama-index-core"),
        _LLAMA_INDEX,
    ),
    _agent(
        "llama_index",
        "genai-llama-index",
        "OpenTelemetry GenAI, LlamaIndex",
        ("opentelemetry-instrumentation-genai-llama-index", "llama-index-core"),
        _LLAMA_INDEX,
    ),
    _agent(
        "pydantic_ai",
        "pydantic-ai",
        "Pydantic AI, built in",
        ("pydantic-ai-slim", "openai"),
        _PYDANTIC_AI,
    ),
    _agent(
        "pydantic_ai",
        "pydantic-ai-none",
        "Pydantic AI, no instrumentation",
        ("pydantic-ai-slim", "openai"),
        _PYDANTIC_AI,
    ),
    _agent(
        "pydantic_ai",
        "openinference-pydantic-ai",
        "OpenInference, Pydantic AI",
        ("openinference-instrumentation-pydantic-ai", "pydantic-ai-slim", "openai"),
        _PYDANTIC_AI,
    ),
    _agent("haystack", "haystack", "Haystack, no instrumentation", ("haystack-ai",), _HAYSTACK),
    _agent(
        "haystack",
        "haystack-otel",
        "Haystack, its OpenTelemetry connector",
        ("opentelemetry-haystack", "haystack-ai"),
        _HAYSTACK,
    ),
    _agent(
        "haystack",
        "openinference-haystack",
        "OpenInference, Haystack",
        ("openinference-instrumentation-haystack", "haystack-ai"),
        _HAYSTACK,
    ),
    _agent("dspy", "dspy", "DSPy, no instrumentation", ("dspy",), _DSPY),
    _agent(
        "dspy",
        "openinference-dspy",
        "OpenInference, DSPy",
        ("openinference-instrumentation-dspy", "dspy"),
        _DSPY,
    ),
    _agent(
        "dspy",
        "genai-dspy",
        "OpenTelemetry GenAI, DSPy",
        ("opentelemetry-instrumentation-genai-dspy", "dspy"),
        _DSPY,
    ),
    _agent("smolagents", "smolagents", "smolagents, no instrumentation", ("smolagents",), _SMOLAGENTS),
    _agent(
        "smolagents",
        "openinference-smolagents",
        "OpenInference, smolagents",
        ("openinference-instrumentation-smolagents", "smolagents"),
        _SMOLAGENTS,
    ),
    _agent(
        "smolagents",
        "genai-smolagents",
        "OpenTelemetry GenAI, smolagents",
        ("opentelemetry-instrumentation-genai-smolagents", "smolagents"),
        _SMOLAGENTS,
    ),
    _agent("crewai", "crewai", "CrewAI, no instrumentation", ("crewai",), _CREWAI),
    _agent(
        "crewai",
        "openinference-crewai",
        "OpenInference, CrewAI",
        ("openinference-instrumentation-crewai", "crewai"),
        _CREWAI,
    ),
    _agent(
        "crewai",
        "openllmetry-crewai",
        "OpenLLMetry, CrewAI",
        ("opentelemetry-instrumentation-crewai", "crewai"),
        _CREWAI,
    ),
)


def find(name: str) -> Cell:
    """Return a cell by its name."""
    return next(cell for cell in CELLS if cell.name == name)
