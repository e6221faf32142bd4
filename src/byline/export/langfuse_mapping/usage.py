"""Tokens and cost of a model call, from any instrumentation's spelling to Langfuse's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from byline.export.langfuse_mapping.sanitize import parse_json_object
from byline.genai import attributes as names

#: The spellings of each count, the first one found counts.
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
#: Langfuse's name of a part → its spellings.
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
#: What providers' replies call the sums of their tokens.
_REPLIES: Final = frozenset({"prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"})
_OF_REPLIES: Final = _REPLIES | {"total_tokens"}
_COST: Final = (names.COST, "gen_ai.usage.cost.amount", "llm.cost.total", "gen_ai.usage.total_cost")


def usage_details(attributes: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens as Langfuse counts them: each one once, the parts apart from the rest.

    Example:
        >>> usage_details({"gen_ai.usage.input_tokens": 100, "gen_ai.usage.cache_read.input_tokens": 30})
        {'input': 70, 'input_cached_tokens': 30}
    """
    details: dict[str, int] = {}
    total = 0
    for whole, spellings, parts in (("input", _INPUT, _INPUT_PARTS), ("output", _OUTPUT, _OUTPUT_PARTS)):
        count = _count(attributes, spellings)
        if count is None:
            continue
        total += count
        found = {name: part for name, keys in parts.items() if (part := _count(attributes, keys))}
        details[whole] = max(count - sum(found.values()), 0)
        details.update(found)
    stated = _count(attributes, _TOTAL)
    if not details and stated is not None:
        return {"total": stated}
    if details and stated is not None and stated >= total:
        details["total"] = stated
    return details


def cost_details(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the cost in USD by part, ``total`` among them; empty where none is known."""
    total = next((cost for key in _COST if (cost := _number(attributes.get(key))) is not None), None)
    if not total and names.COST_SOURCE not in attributes:
        # Instrumentations write 0 where they do not know the model; Langfuse then takes its own price.
        return {}
    parts = {
        key[len(names.COST_DETAILS) :]: cost
        for key in attributes
        if key.startswith(names.COST_DETAILS) and (cost := _number(attributes[key])) is not None
    }
    return {**parts, "total": total or 0.0}


def stated_usage(text: Any) -> dict[str, int]:
    """Return the tokens that an instrumentation has written in Langfuse's own way, a JSON object.

    Example:
        >>> stated_usage('{"prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": 3}}')
        {'input': 8, 'input_cached_tokens': 3}
    """
    stated = parse_json_object(text)
    flat = _numbers(stated)
    if _REPLIES.isdisjoint(flat):
        return {key: int(number) for key, number in flat.items()}
    # As OpenAI's replies have them: the parts are within the sums, and objects of their own.
    parts = {f"{whole}.{key}": value for whole in stated for key, value in parse_json_object(stated[whole]).items()}
    counted = usage_details({f"usage.{key}": value for key, value in {**stated, **parts}.items()})
    # Anthropic's are beside the sums, and stay what they are called.
    return {**counted, **{key: int(number) for key, number in flat.items() if key not in _OF_REPLIES}}


def stated_cost(text: Any) -> dict[str, float]:
    """Return the cost that an instrumentation has written in Langfuse's own way, a JSON object.

    Example:
        >>> stated_cost('{"total": "0.5", "currency": "USD"}')
        {'total': 0.5}
    """
    return _numbers(parse_json_object(text))


def _numbers(stated: Mapping[str, Any]) -> dict[str, float]:
    found = {key: number for key, value in stated.items() if (number := _number(value)) is not None}
    # Zeros all over say that nothing is known.
    return found if any(found.values()) else {}


def _count(attributes: Mapping[str, Any], spellings: tuple[str, ...]) -> int | None:
    for key in spellings:
        count = _number(attributes.get(key))
        if count is not None:
            return int(count)
    return None


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
