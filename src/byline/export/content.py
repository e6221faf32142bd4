"""What is content: every name under which an instrumentation puts prompts, completions and tool data.

A table of the names that are known, and a rule for those that will come: texts under a name whose
words speak of content are content.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

#: Names, and with a dot at the end everything below them.
_KNOWN: Final[tuple[str, ...]] = (
    # OpenTelemetry's GenAI conventions, now and before.
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.description",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.prompt.variable.",
    "gen_ai.prompt",
    "gen_ai.prompt.0.",
    "gen_ai.completion",
    "gen_ai.agent.description",
    "gen_ai.retrieval.query.text",
    "gen_ai.retrieval.documents",
    "gen_ai.evaluation.explanation",
    # OpenLLMetry and traceloop.
    "traceloop.entity.input",
    "traceloop.entity.output",
    "traceloop.association.properties.prompt",
    "llm.prompts.",
    "llm.completions.",
    # OpenInference.
    "input.value",
    "output.value",
    "llm.input_messages",
    "llm.output_messages",
    "llm.input_messages.",
    "llm.output_messages.",
    "llm.prompts",
    "llm.choices",
    "llm.function_call",
    "llm.invocation_parameters",
    "llm.prompt_template.",
    "llm.tools.",
    "message.",
    "embedding.embeddings.",
    "embedding.text",
    "embedding.vector",
    "retrieval.documents",
    "retrieval.documents.",
    "document.",
    "reranker.",
    "tool.parameters",
    "tool.description",
    "tool_call.function.arguments",
    # Langfuse's SDK.
    "langfuse.observation.input",
    "langfuse.observation.output",
    "langfuse.trace.input",
    "langfuse.trace.output",
    "langfuse.experiment.item.expected_output",
    # litellm: the raw exchange, by provider.
    "llm.openai.messages",
    "llm.openai.choices",
    "llm.openai.extra_body",
    "hidden_params",
    # openlit.
    "gen_ai.tool.args",
    "gen_ai.tool.arguments",
    "gen_ai.content.prompt",
    "gen_ai.content.completion",
    "gen_ai.content.revised_prompt",
    # logfire and Pydantic AI.
    "request_data",
    "response_data",
    "logfire.msg",
    "logfire.msg_template",
    "all_messages_events",
    "pydantic_ai.all_messages",
    "final_result",
    "tool_arguments",
    "tool_response",
    "model_request_parameters",
    "prompt",
    "response",
    "events",
    # The Vercel AI SDK, Google's ADK, MLflow, LiveKit, CrewAI.
    "ai.prompt",
    "ai.prompt.",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "ai.value",
    "ai.values",
    "ai.schema",
    "gcp.vertex.agent.",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "lk.",
    "crewai.",
    "smolagents.task",
    "agent.goal",
    "agent.backstory",
    "evaluation.explanation",
    "annotation.explanation",
    "db.chroma.get.where",
    "llm.headers",
    # Errors repeat what they stumble over.
    "exception.message",
    "exception.stacktrace",
    "error.message",
    "error.stack_trace",
    "byline.error.message",
    "langfuse.observation.status_message",
    # What else a request may leave on an app's spans.
    "db.statement",
    "db.query.text",
    "db.query.parameter.",
    "http.request.body",
    "http.response.body",
    "gen_ai.headers",
    "messaging.message.body",
)
_EXACT: Final = frozenset(name for name in _KNOWN if not name.endswith("."))
_BELOW: Final = tuple(name for name in _KNOWN if name.endswith("."))

#: Whatever else is in them, these stay: what OpenRouter's and Aptible's privacy modes keep.
_KEPT: Final = (
    "langfuse.trace.metadata.",
    "langfuse.trace.name",
    "langfuse.trace.tags",
    "langfuse.observation.type",
    "langfuse.observation.prompt.",
    "langfuse.observation.model.",
    "langfuse.observation.usage_details",
    "langfuse.observation.cost_details",
    "langfuse.observation.completion_start_time",
    "gen_ai.usage.",
    "gen_ai.aggregated_usage.",
    "gen_ai.output.type",
    "gen_ai.prompt.name",
    "gen_ai.prompt.version",
    "gen_ai.tool.name",
    "gen_ai.tool.type",
    "gen_ai.tool.call.id",
    "input.mime_type",
    "output.mime_type",
    "llm.token_count.",
    "byline.",
    "exception.type",
    "error.type",
    "http.response.status_code",
    "http.request.method",
    "url.",
)
# fmt: off
#: Words in a name which say that a text under it is content.
_WORDS: Final = frozenset(
    {
        "answer", "answers", "args", "argument", "arguments", "body", "chunk", "chunks", "choice", "choices",
        "completion", "completions", "content", "contents", "conversation", "data", "document", "documents",
        "embedding", "embeddings", "history", "input", "inputs", "instruction", "instructions", "message",
        "messages", "output", "outputs", "params", "parameters", "payload", "prompt", "prompts", "query",
        "question", "questions", "reasoning", "request", "response", "result", "results", "return", "schema",
        "text", "thinking", "tools", "transcript", "value", "vector", "backstory", "comment", "context", "explanation",
        "functions", "goal", "memories", "memory", "note", "passages", "prediction", "preamble", "snippet", "sql",
        "suffix", "summary", "thought", "transcription", "translation", "utterance",
    }
)
#: Such a word says nothing where the name goes on to say that it means something else.
_HARMLESS: Final = frozenset(
    {
        "count", "effort", "fingerprint", "format", "hash", "id", "index", "kind", "length", "level", "mime", "model",
        "name",
        "provider", "reason", "reasons", "role", "size", "status", "tier", "tokens", "type", "version",
    }
)
# fmt: on
_SPLIT: Final = re.compile(r"[._:\-/\s]+|(?<=[a-z])(?=[A-Z])")


@lru_cache(maxsize=4096)
def is_content(key: str) -> bool:
    """Whether texts under this attribute name are content.

    Example:
        >>> is_content("traceloop.entity.input"), is_content("gen_ai.usage.input_tokens")
        (True, False)
    """
    if key in _EXACT or key.startswith(_BELOW):
        return not key.startswith(("gen_ai.prompt.name", "gen_ai.prompt.version"))
    if key.startswith(_KEPT):
        return False
    # "request" and "response" say nothing here.
    key = key.removeprefix("gen_ai.request.").removeprefix("gen_ai.response.")
    words = words_of(key)
    if words and words[-1] in _HARMLESS:
        return False
    return not _WORDS.isdisjoint(words)


def words_of(key: str) -> list[str]:
    """Return the words of a name in lower case."""
    return [word.lower() for word in _SPLIT.split(key) if word]


def is_text(value: Any) -> bool:
    """Whether a value can hold content: numbers and truth values cannot."""
    if value is None or isinstance(value, bool | int | float):
        return False
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        # A vector tells about the text that it was made from.
        return len(value) > 8 or any(is_text(item) for item in value)
    return not isinstance(value, Mapping) or any(is_text(item) for item in value.values())
