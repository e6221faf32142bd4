"""A model call as Langfuse's generation: model, parameters, tokens, cost, and time of the first token.

Tokens and cost come in the spelling of any instrumentation, and become Langfuse's ``usage_details``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from byline.export.redaction.allow_list import is_plain_value
from byline.export.span_copy import SpanCopy
from byline.genai import attributes as names
from byline.genai.attributes import json_dumps
from byline.genai.call_results import strip_usage

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
#: Parameters that have names of their own in the conventions → their names in Langfuse.
_FURTHER_PARAMETERS: Final = {
    names.OUTPUT_TYPE: "output_type",
    names.DIMENSIONS: "dimensions",
    names.SERVICE_TIER: "service_tier",
}
_STOP_SEQUENCES: Final = "gen_ai.request.stop_sequences"

USAGE_DETAILS: Final = "langfuse.observation.usage_details"
COST_DETAILS: Final = "langfuse.observation.cost_details"

#: The spellings of each count; the first one present is taken.
_INPUT: Final = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
    "usage.prompt_tokens",
    "usage.input_tokens",
)
_OUTPUT: Final = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
    "usage.completion_tokens",
    "usage.output_tokens",
)
_TOTAL: Final = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total", "usage.total_tokens")
#: Langfuse's name of a part of the input or output → its spellings.
_INPUT_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "input_cached_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "llm.token_count.prompt_details.cache_read",
        "llm.usage.cache_read_input_tokens",
        "usage.prompt_tokens_details.cached_tokens",
        "usage.input_tokens_details.cached_tokens",
    ),
    "input_cache_creation": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
        "llm.token_count.prompt_details.cache_write",
        "llm.usage.cache_creation_input_tokens",
        "usage.prompt_tokens_details.cache_write_tokens",
        "usage.input_tokens_details.cache_write_tokens",
    ),
    "input_audio_tokens": (
        "gen_ai.usage.audio.input_tokens",
        "llm.token_count.prompt_details.audio",
        "usage.prompt_tokens_details.audio_tokens",
    ),
}
_OUTPUT_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "output_reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
        "llm.usage.reasoning_tokens",
        "usage.completion_tokens_details.reasoning_tokens",
        "usage.output_tokens_details.reasoning_tokens",
    ),
    "output_audio_tokens": (
        "gen_ai.usage.audio.output_tokens",
        "llm.token_count.completion_details.audio",
        "usage.completion_tokens_details.audio_tokens",
    ),
}
REASONING: Final = "output_reasoning_tokens"
#: Spelling → the count it states; ``filter`` keeps this order, in which the first spelling of a count is taken.
_COUNTS: Final = {
    spelling: count
    for count, spellings in {
        "input": _INPUT,
        "output": _OUTPUT,
        "total": _TOTAL,
        **_INPUT_PARTS,
        **_OUTPUT_PARTS,
    }.items()
    for spelling in spellings
}
#: Totals in the replies of OpenAI and Anthropic.
_REPLY_TOTALS: Final = frozenset({"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"})
_COST: Final = (names.COST, "gen_ai.usage.cost.amount", "llm.cost.total", "gen_ai.usage.total_cost")


def map_generation(span: SpanCopy) -> None:
    """Write model, parameters, usage, and cost onto a model call; Langfuse guesses the missing ones."""
    attributes = span.attributes
    invocation: Mapping[str, Any] = {}
    for name in filter(attributes.__contains__, _INVOCATIONS):
        invocation = invocation or parse_json_object(attributes[name])
    model = next(filter(None, map(attributes.get, _MODELS)), None) or invocation.get("model")
    if model:
        attributes.setdefault(_MODEL, str(model))
    if _PARAMETERS not in attributes or not parse_json_object(attributes[_PARAMETERS]):
        attributes[_PARAMETERS] = json_dumps(
            _request_parameters(attributes) or (_invocation_parameters(invocation) if invocation else {})
        )
    cost = find_cost(attributes)
    attributes.pop(COST_DETAILS, None)
    attributes.pop(names.COST, None)
    if cost:
        attributes[COST_DETAILS] = json_dumps(cost)
    if "total" in cost:
        attributes[names.COST] = cost["total"]
    stated = read_usage_details(attributes[USAGE_DETAILS]) if USAGE_DETAILS in attributes else {}
    usage = stated or count_tokens(attributes)
    if "total" not in cost and "output" in usage and REASONING in usage:
        # Langfuse prices these tokens: reasoning like the output with most models, and not at all with some, such
        # as gpt-5.4-mini.
        reasoning = usage.pop(REASONING)
        usage["output"] += reasoning
        attributes.setdefault(METADATA + "reasoning_tokens", reasoning)
    # If a generation states no tokens, Langfuse counts and prices the words of the conversation.
    attributes[USAGE_DETAILS] = json_dumps({"input": 0, "output": 0} if span.is_duplicate else usage)
    if not attributes.keys().isdisjoint(_FIRST_CHUNK):
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
    if any(map(attributes.get, _MODELS)):
        attributes[USAGE_DETAILS] = json_dumps({"input": 0, "output": 0})
    return attributes


def _request_parameters(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``gen_ai.request.*`` without prompts, which some instrumentations put there, and what belongs to it."""
    further = {key: attributes[name] for name, key in _FURTHER_PARAMETERS.items() if name in attributes}
    return further | {
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
    seconds = next(span.attributes[name] for name in _FIRST_CHUNK if name in span.attributes)
    if not isinstance(seconds, int | float) or span.start_time is None or not 0 <= seconds < 1e6:
        return None
    nanoseconds = span.start_time + int(seconds * 1e9)
    if span.end_time is not None:
        nanoseconds = min(nanoseconds, span.end_time)
    moment = _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def find_cost(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the cost in USD by part, ``total`` among them; empty if none is known."""
    amounts = [_to_number(attributes[name]) for name in _COST if name in attributes]
    total = next((amount for amount in amounts if amount is not None), None) if amounts else None
    if not total and names.COST_SOURCE not in attributes:
        # Instrumentations write 0 if they do not know the model; Langfuse then takes the price of its model list.
        stated = _read_numbers(parse_json_object(attributes[COST_DETAILS])) if COST_DETAILS in attributes else {}
        return {name: round_money(amount) for name, amount in stated.items()}
    parts = {
        name[len(names.COST_DETAILS) :]: round_money(amount)
        for name in attributes
        if name.startswith(names.COST_DETAILS) and (amount := _to_number(attributes[name])) is not None
    }
    return {**parts, "total": round_money(total or 0.0)}


def count_tokens(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens as Langfuse adds them up: each one once, parts apart from the rest.

    Example:
        >>> count_tokens({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_read.input_tokens": 30})
        {'input': 70, 'input_cached_tokens': 30}
    """
    counts: dict[str, int] = {}
    for name in filter(attributes.__contains__, _COUNTS):
        if _COUNTS[name] not in counts and (number := _to_number(attributes[name])) is not None:
            counts[_COUNTS[name]] = int(number)
    details: dict[str, int] = {}
    for side, parts in (("input", _INPUT_PARTS), ("output", _OUTPUT_PARTS)):
        if side in counts:
            details[side] = counts[side]
            for part in filter(counts.get, parts):
                details[side] -= counts[part]
                details[part] = counts[part]
            details[side] = max(details[side], 0)
    if "total" in counts and (not details or counts["total"] >= counts.get("input", 0) + counts.get("output", 0)):
        details["total"] = counts["total"]
    return details


def read_usage_details(text: Any) -> dict[str, int]:
    """Return tokens that an instrumentation states in Langfuse's own attribute, a JSON object.

    Example:
        >>> read_usage_details('{"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": 3}}')
        {'input': 8, 'input_cached_tokens': 3}
    """
    stated = parse_json_object(text)
    numbers = {name: int(number) for name, number in _read_numbers(stated).items()}
    if _REPLY_TOTALS.isdisjoint(numbers):
        return numbers
    # OpenAI's replies: parts are included in the totals, and stand in objects of their own.
    parts = {f"{name}.{part}": count for name in stated for part, count in parse_json_object(stated[name]).items()}
    counted = count_tokens({f"usage.{name}": count for name, count in {**stated, **parts}.items()})
    # Anthropic's replies: parts stand beside the totals and keep their names.
    beside = {name: count for name, count in numbers.items() if name not in _REPLY_TOTALS | {"total_tokens"}}
    return {**counted, **beside}


def parse_json_object(value: Any) -> dict[str, Any]:
    """Return a JSON object, parsed from a text; an empty one for any other value."""
    try:
        parsed = json.loads(value) if isinstance(value, str | bytes) else value
    except (ValueError, RecursionError):
        return {}
    return dict(parsed) if isinstance(parsed, Mapping) else {}


def round_money(amount: float) -> float:
    """Return an amount without the noise of added floats: 0.00043499999999999995 is 0.000435.

    Example:
        >>> round_money(0.00043499999999999995)
        0.000435
    """
    return round(amount, 12)


def _read_numbers(stated: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: number for name, value in stated.items() if (number := _to_number(value)) is not None}
    # Zeros for everything mean that nothing is known.
    return numbers if any(numbers.values()) else {}


def _to_number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
