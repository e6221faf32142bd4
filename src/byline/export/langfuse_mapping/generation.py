"""Says to Langfuse what a model call was: model, parameters, tokens, cost, and when the first of it came."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from byline.export.langfuse_mapping.sanitize import METADATA, NAMES, STARTED, parse_json_object
from byline.export.langfuse_mapping.usage import cost_details, stated_cost, stated_usage, usage_details
from byline.export.redaction.allow_list import is_plain_value
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.genai.json_text import json_dumps

_MODEL: Final = "langfuse.observation.model.name"
_PARAMETERS: Final = "langfuse.observation.model.parameters"
_USAGE: Final = "langfuse.observation.usage_details"
_COST: Final = "langfuse.observation.cost_details"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)

_MODELS: Final = (
    names.CALL_RESULT["response_model"],
    names.REQUEST_MODEL,
    "llm.response.model",
    "llm.model_name",
    "llm.request.model",
    "embedding.model_name",
)
#: JSON texts of OpenInference's, the model among them: of a failed call it stands nowhere else.
_INVOCATIONS: Final = ("llm.invocation_parameters", "embedding.invocation_parameters")
_FIRST_CHUNK: Final = (
    names.CALL_RESULT["time_to_first_chunk"],
    "gen_ai.client.operation.time_to_first_chunk",
    "gen_ai.server.time_to_first_token",
)


#: Langfuse counts for itself where no tokens are stated, and has a price for them.
_NOTHING: Final = {"input": 0, "output": 0}


def map_non_generation(attributes: dict[str, Any]) -> None:
    """Say of a span that is no model call, but names a model, that there is nothing to count of it."""
    if any(attributes.get(key) for key in (_MODEL, *_MODELS)):
        attributes[_USAGE] = json_dumps(_NOTHING)


def map_generation(draft: SpanCopy) -> None:
    """Write what a model call was onto its span, all of it: what is left out Langfuse looks for elsewhere."""
    attributes = draft.attributes
    invocation = next((found for key in _INVOCATIONS if (found := parse_json_object(attributes.get(key)))), {})
    models = (*(attributes.get(key) for key in _MODELS), invocation.get("model"))
    model = next((model for model in models if model), None)
    if model is not None:
        attributes.setdefault(_MODEL, str(model))
    if not parse_json_object(attributes.get(_PARAMETERS)):
        attributes[_PARAMETERS] = json_dumps(_requested(attributes) or _invoked(invocation))
    usage = stated_usage(attributes.pop(_USAGE, None)) or usage_details(attributes)
    attributes[_USAGE] = json_dumps(_NOTHING if draft.is_double else usage)
    stated = stated_cost(attributes.pop(_COST, None))
    cost = cost_details(attributes) or stated
    if cost:
        attributes[_COST] = json_dumps(cost)
    if "total" in cost:
        attributes[names.COST] = cost["total"]
    else:
        attributes.pop(names.COST, None)
    started = _first_chunk(draft)
    if started is not None:
        attributes.setdefault(STARTED, started)
    if "gen_ai.tool.name" in attributes:
        # Of a tool that the model asked for; it would give its name to the generation.
        attributes[METADATA + "tool_name"] = attributes.pop("gen_ai.tool.name")
    if draft.attribution.generation_name:
        for key in NAMES:
            if key != "ai.telemetry.functionId":
                attributes.pop(key, None)


def _requested(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key[len(names.PARAMETERS) :]: value
        for key, value in attributes.items()
        if key.startswith(names.PARAMETERS) and key != names.REQUEST_MODEL and value != "" and _is_parameter(key, value)
    }


def _is_parameter(key: str, value: Any) -> bool:
    return is_plain_value(value) or key == "gen_ai.request.stop_sequences"


def _invoked(invocation: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenInference's parameters, without the messages and tools that may stand among them."""
    return {
        key: value
        for key, value in invocation.items()
        if key != "model" and not isinstance(value, list | dict) and is_plain_value(value)
    }


def _first_chunk(draft: SpanCopy) -> str | None:
    seconds = next((draft.attributes[key] for key in _FIRST_CHUNK if key in draft.attributes), None)
    if not isinstance(seconds, int | float) or draft.start_time is None or not 0 <= seconds < 1e6:
        return None
    nanoseconds = draft.start_time + int(seconds * 1e9)
    if draft.end_time is not None:
        nanoseconds = min(nanoseconds, draft.end_time)
    moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
