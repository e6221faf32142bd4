"""Tokens and cost of a model call, from every instrumentation's spelling to Langfuse's ``usage_details``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from byline.genai import attributes as names

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
#: Totals in the replies of OpenAI and Anthropic.
_REPLY_TOTALS: Final = frozenset({"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"})
_COST: Final = (names.COST, "gen_ai.usage.cost.amount", "llm.cost.total", "gen_ai.usage.total_cost")


def find_usage(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens of a generation, stated in Langfuse's own way or by any instrumentation."""
    return read_usage_details(attributes.get(USAGE_DETAILS)) or count_tokens(attributes)


def find_cost(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the cost in USD by part, ``total`` among them; empty if none is known."""
    total = next((cost for name in _COST if (cost := _to_number(attributes.get(name))) is not None), None)
    if not total and names.COST_SOURCE not in attributes:
        # Instrumentations write 0 if they do not know the model; Langfuse then takes the price of its model list.
        return _round_all(_read_numbers(parse_json_object(attributes.get(COST_DETAILS))))
    parts = {
        name[len(names.COST_DETAILS) :]: cost
        for name in attributes
        if name.startswith(names.COST_DETAILS) and (cost := _to_number(attributes[name])) is not None
    }
    return _round_all({**parts, "total": total or 0.0})


def count_tokens(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens as Langfuse adds them up: each one once, parts apart from the rest.

    Example:
        >>> count_tokens({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_read.input_tokens": 30})
        {'input': 70, 'input_cached_tokens': 30}
    """
    details: dict[str, int] = {}
    total = 0
    for side, spellings, side_parts in (("input", _INPUT, _INPUT_PARTS), ("output", _OUTPUT, _OUTPUT_PARTS)):
        count = _find_count(attributes, spellings)
        if count is None:
            continue
        total += count
        parts = {name: part for name, keys in side_parts.items() if (part := _find_count(attributes, keys))}
        details[side] = max(count - sum(parts.values()), 0)
        details.update(parts)
    stated_total = _find_count(attributes, _TOTAL)
    if stated_total is not None and (not details or stated_total >= total):
        details["total"] = stated_total
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


def _round_all(amounts: Mapping[str, float]) -> dict[str, float]:
    return {name: round_money(amount) for name, amount in amounts.items()}


def _read_numbers(stated: Mapping[str, Any]) -> dict[str, float]:
    numbers = {name: number for name, value in stated.items() if (number := _to_number(value)) is not None}
    # Zeros for everything mean that nothing is known.
    return numbers if any(numbers.values()) else {}


def _find_count(attributes: Mapping[str, Any], spellings: tuple[str, ...]) -> int | None:
    return next((int(count) for name in spellings if (count := _to_number(attributes.get(name))) is not None), None)


def _to_number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
