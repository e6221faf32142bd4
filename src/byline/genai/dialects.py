"""Names of byline's attributes in other conventions: OpenInference, OpenRouter, LiteLLM, OpenLLMetry.

A destination adds them on request (``conventions=["openinference"]``) and keeps byline's own.

Sources: the OpenInference specification, OpenRouter's documentation of its OpenTelemetry destination, LiteLLM's
documentation of ``langfuse_otel``, OpenLLMetry's ``SpanAttributes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from byline.genai import attributes as names
from byline.genai.attributes import CALL_RESULT, json_dumps
from byline.settings import SettingError

Value = Any


class Row(NamedTuple):
    """One attribute of a convention.

    Attributes:
        name: The attribute's name; ``*`` at the end stands for one attribute per key.
        source: byline's names; the first one on the span is taken.
        convert: Converts the value; ``None`` if the value stays as it is.
        llm: Whether only LLM spans get the attribute.
    """

    name: str
    source: tuple[str, ...]
    convert: Callable[[Value], Value] | None = None
    llm: bool = True


def _first_item(value: Value) -> Value:
    return value[0] if isinstance(value, list | tuple) and value else value


_KINDS: Final = {
    "embeddings": "EMBEDDING",
    "invoke_agent": "AGENT",
    "create_agent": "AGENT",
    "execute_tool": "TOOL",
    "invoke_workflow": "CHAIN",
    "plan": "CHAIN",
    "retrieval": "RETRIEVER",
    # OpenLLMetry's kinds.
    "agent": "AGENT",
    "tool": "TOOL",
    "workflow": "CHAIN",
    "task": "CHAIN",
}


def openinference_kind(operation: Value) -> str:
    """Return OpenInference's kind of an operation, ``LLM`` for every model call and unknown operation."""
    return _KINDS.get(str(operation), "LLM")


_REQUEST_TYPES: Final = {"EMBEDDING": "embedding", "LLM": "chat"}

_METADATA: Final = (names.METADATA + "*",)
_PARAMETERS: Final = (names.PARAMETERS + "*",)
_INPUT: Final = (CALL_RESULT["input_messages"], "gen_ai.prompt")
_OUTPUT: Final = (CALL_RESULT["output_messages"], "gen_ai.completion")
_SESSION: Final = (names.SESSION_ID, names.CONVERSATION_ID)

OPENINFERENCE: Final = (
    Row("openinference.span.kind", (names.OPERATION_NAME,), openinference_kind),
    Row("llm.provider", (names.PROVIDER_NAME, "gen_ai.system")),
    Row("llm.system", (names.PROVIDER_NAME, "gen_ai.system")),
    Row("llm.model_name", (CALL_RESULT["response_model"], names.REQUEST_MODEL)),
    Row("llm.invocation_parameters", _PARAMETERS, json_dumps),
    Row("llm.token_count.prompt", (CALL_RESULT["input_tokens"],)),
    Row("llm.token_count.completion", (CALL_RESULT["output_tokens"],)),
    Row("llm.token_count.prompt_details.cache_read", (CALL_RESULT["cache_read_tokens"],)),
    Row("llm.token_count.prompt_details.cache_write", (CALL_RESULT["cache_write_tokens"],)),
    Row("llm.token_count.prompt_details.audio", (CALL_RESULT["input_audio_tokens"],)),
    Row("llm.token_count.completion_details.reasoning", (CALL_RESULT["reasoning_tokens"],)),
    Row("llm.token_count.completion_details.audio", (CALL_RESULT["output_audio_tokens"],)),
    Row("llm.cost.total", (names.COST,)),
    Row("llm.cost.prompt", (names.COST_DETAILS + "input",)),
    Row("llm.cost.completion", (names.COST_DETAILS + "output",)),
    Row("llm.finish_reason", (names.FINISH_REASONS,), _first_item),
    Row("tool.name", ("gen_ai.tool.name",)),
    Row("agent.name", ("gen_ai.agent.name",)),
    Row("session.id", _SESSION, llm=False),
    Row("user.id", (names.USER_ID,), llm=False),
    Row("tag.tags", (names.TAGS,), llm=False),
    Row("metadata", _METADATA, json_dumps, llm=False),
)
OPENROUTER: Final = (
    Row("gen_ai.system", (names.PROVIDER_NAME,)),
    Row("gen_ai.prompt", _INPUT),
    Row("gen_ai.completion", _OUTPUT),
    Row("gen_ai.usage.prompt_tokens", (CALL_RESULT["input_tokens"],)),
    Row("gen_ai.usage.completion_tokens", (CALL_RESULT["output_tokens"],)),
    Row("gen_ai.usage.total_cost", (names.COST,)),
    Row("gen_ai.usage.input_cost", (names.COST_DETAILS + "input",)),
    Row("gen_ai.usage.output_cost", (names.COST_DETAILS + "output",)),
    Row("gen_ai.response.finish_reason", (names.FINISH_REASONS,), _first_item),
    Row("session.id", _SESSION, llm=False),
    Row("user.id", (names.USER_ID,), llm=False),
    Row("trace.metadata.trace_name", (names.TRACE_NAME,), llm=False),
    Row("trace.metadata.environment", (names.ENVIRONMENT,), llm=False),
    Row("trace.metadata.release", (names.RELEASE,), llm=False),
    Row("trace.metadata.openrouter.provider_slug", (CALL_RESULT["gateway_provider"],)),
    Row("trace.metadata.openrouter.api_key_name", (CALL_RESULT["key_alias"],)),
    Row("trace.metadata.*", _METADATA, llm=False),
)
LITELLM: Final = (
    Row("langfuse.generation.name", (names.GENERATION_NAME,)),
    Row("langfuse.generation.parent_observation_id", (names.PARENT_ID,)),
    Row("langfuse.trace.id", (names.TRACE_ID,), llm=False),
    Row("langfuse.trace.session_id", _SESSION, llm=False),
    Row("langfuse.trace.user_id", (names.USER_ID,), llm=False),
    Row("langfuse.trace.version", (names.VERSION,), llm=False),
    Row("langfuse.trace.release", (names.RELEASE,), llm=False),
    Row("llm.request.type", (names.OPERATION_NAME,)),
    Row("gen_ai.system", (names.PROVIDER_NAME,)),
    Row("hidden_params.model_id", (CALL_RESULT["model_id"],)),
    Row("metadata.user_api_key_hash", (CALL_RESULT["key_hash"],)),
    Row("metadata.user_api_key_alias", (CALL_RESULT["key_alias"],)),
    Row("metadata.user_api_key_spend", (CALL_RESULT["key_spend"],)),
    Row("metadata.*", _METADATA, llm=False),
)
TRACELOOP: Final = (
    Row("gen_ai.system", (names.PROVIDER_NAME,)),
    Row(
        "llm.request.type",
        (names.OPERATION_NAME,),
        lambda operation: _REQUEST_TYPES.get(openinference_kind(operation), "unknown"),
    ),
    Row("traceloop.workflow.name", (names.TRACE_NAME,), llm=False),
    Row("traceloop.entity.name", (names.GENERATION_NAME, names.STEP_NAME)),
    Row("traceloop.association.properties.session_id", _SESSION, llm=False),
    Row("traceloop.association.properties.user_id", (names.USER_ID,), llm=False),
    Row("traceloop.association.properties.*", _METADATA, llm=False),
    Row("gen_ai.usage.prompt_tokens", (CALL_RESULT["input_tokens"],)),
    Row("gen_ai.usage.completion_tokens", (CALL_RESULT["output_tokens"],)),
    Row("gen_ai.usage.cache_read_input_tokens", (CALL_RESULT["cache_read_tokens"],)),
    Row("gen_ai.usage.cache_creation_input_tokens", (CALL_RESULT["cache_write_tokens"],)),
)
#: Not a table: `byline.export.langfuse_mapping` writes these attributes.
LANGFUSE: Final = "langfuse"
CONVENTIONS: Final[Mapping[str, tuple[Row, ...]]] = {
    "openinference": OPENINFERENCE,
    "openrouter": OPENROUTER,
    "litellm": LITELLM,
    "traceloop": TRACELOOP,
}


def validate_conventions(conventions: Any) -> tuple[str, ...]:
    """Return the names of conventions. Raises `SettingError` ``byline.E063`` if one is unknown."""
    given = tuple(conventions) if isinstance(conventions, list | tuple | set | frozenset) else (None,)
    known = (*CONVENTIONS, LANGFUSE)
    if not all(name in known for name in given):
        raise SettingError("byline.E063", f"conventions={conventions!r}", f"pass a list of some of {', '.join(known)}")
    return given


def translate_attributes(
    attributes: Mapping[str, Value], conventions: tuple[str, ...], *, is_llm: bool
) -> dict[str, Value]:
    """Return a span's attributes under the names of other conventions, without names that the span has already.

    Example:
        >>> translate_attributes({"gen_ai.usage.input_tokens": 11}, ("openinference",), is_llm=True)
        {'llm.token_count.prompt': 11}
    """
    translated: dict[str, Value] = {}
    for convention in conventions:
        for row in CONVENTIONS.get(convention, ()):
            if is_llm or not row.llm:
                for name, value in _apply_row(row, attributes):
                    translated.setdefault(name, value)
    return {name: value for name, value in translated.items() if name not in attributes}


def _apply_row(row: Row, attributes: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
    if not row.source[0].endswith("*"):
        value = next((attributes[name] for name in row.source if name in attributes), None)
        if value is not None:
            yield row.name, value if row.convert is None else row.convert(value)
        return
    prefix = row.source[0][:-1]
    by_key = {name[len(prefix) :]: value for name, value in attributes.items() if name.startswith(prefix)}
    if row.name.endswith("*"):
        for key, value in by_key.items():
            yield row.name[:-1] + key, value
    elif by_key:
        yield row.name, by_key if row.convert is None else row.convert(by_key)
