"""Which spans stand for an LLM: told by attribute keys or by the instrumentation's scope, never by name."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from byline.genai.fast_attributes import peek_attributes

#: The scope of the LLM spans that byline makes itself.
OWN_SCOPE: Final = "byline"

#: Keys that an instrumentation sets on an LLM span and nobody on another one. Not "any gen_ai.*":
#: some libraries copy ``gen_ai.conversation.id`` onto every span.
KEYS: Final = frozenset(
    {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.system",
        "gen_ai.request.model",
        "openinference.span.kind",
        "langfuse.observation.type",
        "llm.system",
        "llm.request.type",
        "traceloop.span.kind",
    }
)

#: Scopes whose spans are LLM spans even where they start without attributes; each also as a prefix
#: before a dot.
SCOPES: Final = (
    OWN_SCOPE,
    "ai",
    "com.anthropic.sdk.python",
    "haystack",
    "langfuse-sdk",
    "litellm",
    "logfire.anthropic",
    "logfire.openai",
    "openinference",
    "openlit",
    "opentelemetry.instrumentation.agno",
    "opentelemetry.instrumentation.alephalpha",
    "opentelemetry.instrumentation.anthropic",
    "opentelemetry.instrumentation.bedrock",
    "opentelemetry.instrumentation.cohere",
    "opentelemetry.instrumentation.crewai",
    "opentelemetry.instrumentation.genai",
    "opentelemetry.instrumentation.google_genai",
    "opentelemetry.instrumentation.google_generativeai",
    "opentelemetry.instrumentation.groq",
    "opentelemetry.instrumentation.haystack",
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.llamaindex",
    "opentelemetry.instrumentation.mcp",
    "opentelemetry.instrumentation.mistralai",
    "opentelemetry.instrumentation.ollama",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.openai_agents",
    "opentelemetry.instrumentation.openai_v2",
    "opentelemetry.instrumentation.replicate",
    "opentelemetry.instrumentation.sagemaker",
    "opentelemetry.instrumentation.together",
    "opentelemetry.instrumentation.transformers",
    "opentelemetry.instrumentation.vertexai",
    "opentelemetry.instrumentation.watsonx",
    "opentelemetry.instrumentation.writer",
    "opentelemetry.util.genai",
    "pydantic-ai",
    "strands-agents",
    "vllm",
)

#: Operations around or beside model calls: they get the byline, never the facts of a call.
_AROUND: Final = frozenset(
    {
        "create_agent",
        "execute_tool",
        "invoke_agent",
        "invoke_workflow",
        "plan",
        "retrieval",
        "agent",
        "task",
        "tool",
        "workflow",
    }
)
_LEAF_KINDS: Final = frozenset({"LLM", "EMBEDDING", "RERANKER"})
_LEAF_TYPES: Final = frozenset({"generation", "embedding"})
#: litellm makes a second span of the raw exchange inside the first.
_NO_LEAF_NAMES: Final = frozenset({"raw_gen_ai_request"})


@functools.lru_cache(maxsize=1000)
def is_llm_scope(name: str) -> bool:
    """Return whether all spans of this instrumentation scope are LLM spans."""
    return any(name == scope or name.startswith(scope + ".") for scope in SCOPES)


def is_llm_span(span: ReadableSpan) -> bool:
    """Whether a span stands for a model call, an agent step or a tool call.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> tracer = TracerProvider().get_tracer("anything")
        >>> is_llm_span(tracer.start_span("x", attributes={"gen_ai.operation.name": "chat"}))
        True
        >>> is_llm_span(tracer.start_span("x", attributes={"gen_ai.conversation.id": "s-1"}))
        False
    """
    scope = span.instrumentation_scope
    if scope is not None and is_llm_scope(scope.name):
        return True
    if span.kind is SpanKind.SERVER:
        # Some libraries write on the app's own span what they know of a call.
        return False
    return not KEYS.isdisjoint(peek_attributes(span))


def is_model_call(name: str, attributes: Mapping[str, Any]) -> bool:
    """Whether an LLM span is a model call, as far as its attributes tell by now."""
    operation = attributes.get("gen_ai.operation.name") or attributes.get("traceloop.span.kind")
    if operation is not None:
        return operation not in _AROUND and "memory" not in str(operation)
    kind = attributes.get("openinference.span.kind")
    if kind is not None:
        return str(kind).upper() in _LEAF_KINDS
    observation = attributes.get("langfuse.observation.type")
    if observation is not None:
        return observation in _LEAF_TYPES
    return name not in _NO_LEAF_NAMES
