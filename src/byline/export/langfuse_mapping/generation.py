"""A model call as Langfuse's generation: model, parameters, usage, cost, and time of the first token."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from byline.export.langfuse_mapping.usage import (
    COST_DETAILS,
    REASONING,
    USAGE_DETAILS,
    find_cost,
    find_usage,
    parse_json_object,
)
from byline.export.redaction.allow_list import is_plain_value
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.genai.call_results import strip_usage
from byline.genai.json_text import json_dumps

#: Attributes that Langfuse takes for an observation's name before the span's own, and their longest values.
OBSERVATION_NAMES: Final = {
    "gen_ai.tool.name": 1000,
    "genkit:name": 1000,
    "logfire.msg": 1000,
    "ai.toolCall.name": 1000,
    # Langfuse joins these two to one name.
    "ai.operationId": 199,
    "ai.telemetry.functionId": 800,
}
METADATA: Final = "langfuse.observation.metadata."
COMPLETION_START: Final = "langfuse.observation.completion_start_time"
_MODEL: Final = "langfuse.observation.model.name"
_PARAMETERS: Final = "langfuse.observation.model.parameters"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)

_MODELS: Final = (
    _MODEL,
    names.CALL_RESULT["response_model"],
    names.REQUEST_MODEL,
    "llm.response.model",
    "llm.model_name",
    "llm.request.model",
    "embedding.model_name",
)
#: JSON objects of OpenInference; of a failed call the model stands nowhere else.
_INVOCATIONS: Final = ("llm.invocation_parameters", "embedding.invocation_parameters")
_FIRST_CHUNK: Final = (
    names.CALL_RESULT["time_to_first_chunk"],
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.server.time_to_first_token",
)
_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"


def map_generation(span: SpanCopy) -> None:
    """Write model, parameters, usage, and cost onto a model call; Langfuse guesses the missing ones."""
    attributes = span.attributes
    invocation = next((found for name in _INVOCATIONS if (found := parse_json_object(attributes.get(name)))), {})
    model = next((model for name in _MODELS if (model := attributes.get(name))), invocation.get("model"))
    if model:
        attributes.setdefault(_MODEL, str(model))
    if not parse_json_object(attributes.get(_PARAMETERS)):
        attributes[_PARAMETERS] = json_dumps(_request_parameters(attributes) or _invocation_parameters(invocation))
    cost = find_cost(attributes)
    attributes.pop(COST_DETAILS, None)
    attributes.pop(names.COST, None)
    if cost:
        attributes[COST_DETAILS] = json_dumps(cost)
    if "total" in cost:
        attributes[names.COST] = cost["total"]
    usage = find_usage(attributes)
    if "total" not in cost and "output" in usage and REASONING in usage:
        # Langfuse prices these tokens: reasoning like the output with most models, and not at all with some, such
        # as gpt-5.4-mini.
        reasoning = usage.pop(REASONING)
        usage["output"] += reasoning
        attributes.setdefault(METADATA + "reasoning_tokens", reasoning)
    # If a generation states no tokens, Langfuse counts and prices the words of the conversation.
    attributes[USAGE_DETAILS] = json_dumps({"input": 0, "output": 0} if span.is_duplicate else usage)
    start = _find_completion_start(span)
    if start is not None:
        attributes.setdefault(COMPLETION_START, start)
    if "gen_ai.tool.name" in attributes:
        # The tool that the model has called; Langfuse would name the generation after the tool.
        attributes[METADATA + "tool_name"] = attributes.pop("gen_ai.tool.name")
    if span.attribution.generation_name:
        for name in OBSERVATION_NAMES:
            if name != "ai.telemetry.functionId":
                attributes.pop(name, None)


def remove_usage(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a span that is no model call, without usage, which its model calls carry.

    Langfuse counts the tokens of every span that names a model and states none, so such a span states zeros.
    """
    attributes = strip_usage(attributes)
    if any(attributes.get(name) for name in _MODELS):
        attributes[USAGE_DETAILS] = json_dumps({"input": 0, "output": 0})
    return attributes


def _request_parameters(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``gen_ai.request.*`` without prompts, which some instrumentations put there."""
    return {
        name[len(names.PARAMETERS) :]: value
        for name, value in attributes.items()
        if name.startswith(names.PARAMETERS)
        and name != names.REQUEST_MODEL
        and value != ""
        and (is_plain_value(value) or name == _STOP_SEQUENCES)
    }


def _invocation_parameters(invocation: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenInference's parameters without messages and tools."""
    return {
        name: value
        for name, value in invocation.items()
        if name != "model" and value is not None and not isinstance(value, list) and is_plain_value(value)
    }


def _find_completion_start(span: SpanCopy) -> str | None:
    """Return the time of the first token, within the span, as ISO 8601."""
    seconds = next((span.attributes[name] for name in _FIRST_CHUNK if name in span.attributes), None)
    if not isinstance(seconds, int | float) or span.start_time is None or not 0 <= seconds < 1e6:
        return None
    nanoseconds = span.start_time + int(seconds * 1e9)
    if span.end_time is not None:
        nanoseconds = min(nanoseconds, span.end_time)
    moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
