"""Recognises LLM spans by attribute keys and instrumentation scopes, never by span names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from byline.genai.fast_attributes import peek_attributes

#: The scope of the LLM spans that byline creates.
OWN_SCOPE: Final = "byline"

#: Keys that only LLM spans have. Not all of ``gen_ai.*``, because some libraries copy ``gen_ai.conversation.id``
#: onto every span.
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

#: Scopes of instrumentations that create LLM spans only, also as a prefix before a dot. Some of these spans
#: start without attributes.
SCOPES: Final = (
    OWN_SCOPE,
    "agent_framework",
    "ai",
    "com.anthropic.sdk.python",
    "gcp.vertex.agent",
    "haystack",
    "langfuse-sdk",
    "langsmith",
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
    "strands.telemetry.tracer",
    "vllm",
)

#: Operations that are one model call.
_MODEL_CALLS: Final = frozenset(
    {
        "acompletion",
        "audio",
        "chat",
        "chat.completions",
        "chat_completion",
        "completion",
        "embedding",
        "embeddings",
        "generate",
        "generate_content",
        "generation",
        "image",
        "image_generation",
        "llm",
        "message",
        "messages",
        "rerank",
        "responses",
        "speech",
        "text_completion",
        "transcription",
    }
)
#: Operations around or beside model calls: their spans get the attribution, never a call result.
_AROUND: Final = frozenset(
    {
        "agent",
        "chain",
        "create_agent",
        "execute_event_loop_cycle",
        "execute_task",
        "execute_tool",
        "guardrail",
        "invoke_agent",
        "invoke_workflow",
        "parser",
        "plan",
        "prompt",
        "retrieval",
        "retriever",
        "task",
        "tool",
        "workflow",
    }
)
_LEAF_KINDS: Final = frozenset({"LLM", "EMBEDDING", "RERANKER"})
_LEAF_TYPES: Final = frozenset({"generation", "embedding"})
#: Ends of the names of spans that are no model call although their attributes say so: LiteLLM creates a second span of
#: the raw HTTP exchange below the first, OpenInference a span of each helper of LlamaIndex's models.
_NO_LEAF_NAMES: Final = ("raw_gen_ai_request", "._prepare_chat_with_tools")


@functools.lru_cache(maxsize=1000)
def is_llm_scope(name: str) -> bool:
    """Return whether all spans of this instrumentation scope are LLM spans."""
    return any(name == scope or name.startswith(scope + ".") for scope in SCOPES)


def is_llm_span(span: ReadableSpan) -> bool:
    """Return whether a span is a model call, an agent step or a tool call.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> tracer = TracerProvider().get_tracer("anything")
        >>> is_llm_span(tracer.start_span("x", attributes={"gen_ai.operation.name": "chat"}))
        True
        >>> is_llm_span(tracer.start_span("x", attributes={"gen_ai.conversation.id": "s-1"}))
        False
    """
    return is_llm(span, peek_attributes(span))


def is_llm(span: ReadableSpan, attributes: Mapping[str, Any]) -> bool:
    """Return whether a span with these attributes is a model call, an agent step or a tool call."""
    scope = span.instrumentation_scope
    if scope is not None and is_llm_scope(scope.name):
        return True
    # LiteLLM's callback sets GenAI attributes on the current span, which is the server span or FastAPI's own span.
    return not KEYS.isdisjoint(attributes) and span.kind is not SpanKind.SERVER and not is_framework_span(span)


def is_framework_span(span: ReadableSpan) -> bool:
    """Return whether a span is of the inside of a web framework, and repeats what the server span tells.

    These are FastAPI's ``fastapi.dependencies``, ``fastapi.endpoint`` and ``fastapi.serialization``, and the spans of
    ASGI messages by OpenTelemetry's middleware, such as ``POST /chat http send``, which FastAPI, Starlette, Litestar
    and Quart share. OpenTelemetry's instrumentations of Django, Flask, Falcon, Pyramid, aiohttp and WSGI make the
    server span alone. Background tasks are work of the app.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> tracer = TracerProvider().get_tracer("fastapi")
        >>> is_framework_span(tracer.start_span("fastapi.endpoint")), is_framework_span(tracer.start_span("load"))
        (True, False)
    """
    if span.kind is not SpanKind.INTERNAL:
        return False
    scope = span.instrumentation_scope
    if scope is not None and scope.name == "fastapi" and span.name.startswith("fastapi."):
        return span.name != "fastapi.background_task"
    return "asgi.event.type" in peek_attributes(span)


def model_call_or_none(name: str, attributes: Mapping[str, Any]) -> bool | None:
    """Return whether an LLM span is a model call, ``None`` if its attributes do not tell or state another operation."""
    if name.endswith(_NO_LEAF_NAMES):
        return False
    kind = attributes.get("langsmith.span.kind")
    operation = kind or attributes.get("gen_ai.operation.name") or attributes.get("traceloop.span.kind")
    if operation is not None:
        if operation in _MODEL_CALLS:
            return True
        return False if operation in _AROUND or "memory" in str(operation) else None
    kind = attributes.get("openinference.span.kind")
    if kind is not None:
        return str(kind).upper() in _LEAF_KINDS
    observation = attributes.get("langfuse.observation.type")
    if observation is not None:
        return observation in _LEAF_TYPES
    return None


def states_operation(attributes: Mapping[str, Any]) -> bool:
    """Return whether an LLM span states its operation, be it a known one or not."""
    return "gen_ai.operation.name" in attributes or "traceloop.span.kind" in attributes


def states_kind_at_end(scope: str, attributes: Mapping[str, Any]) -> bool:
    """Return whether a span under way may turn out to be an agent or a chain, so that no call result is set on it.

    OpenInference's instrumentations of LlamaIndex and Haystack state the kind of all their spans at the end.
    """
    return scope.startswith("openinference.") and "openinference.span.kind" not in attributes


def is_model_call(name: str, attributes: Mapping[str, Any]) -> bool:
    """Return whether an LLM span is a model call, as far as its attributes tell by now.

    A span without attributes counts as one, a span that states an unknown operation does not.
    """
    known = model_call_or_none(name, attributes)
    return not states_operation(attributes) if known is None else known
