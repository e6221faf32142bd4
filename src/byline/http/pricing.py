"""Estimates the price of a call where no gateway states it, with the library ``genai-prices``."""

from __future__ import annotations

import functools
from typing import Any, Final

from byline import errors
from byline.call_result import CallResult

#: Facts → what the library calls them.
_USAGE: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "input_audio_tokens": "input_audio_tokens",
    "output_audio_tokens": "output_audio_tokens",
}
#: GenAI provider names → the library's.
_PROVIDERS: Final = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "azure.ai.openai": "azure",
    "aws.bedrock": "aws",
    "mistral_ai": "mistral",
    "groq": "groq",
    "deepseek": "deepseek",
    "x_ai": "x-ai",
    "cohere": "cohere",
    "perplexity": "perplexity",
}
#: Models whose price is unknown, so that each is looked for once.
_unknown: Final[set[tuple[str, str | None]]] = set()
_MAX_UNKNOWN: Final = 1000


@functools.cache
def _library() -> Any:
    """Return the library, ``None`` where the extra ``byline[prices]`` is not installed."""
    try:
        import genai_prices
    except ImportError:
        return None
    except Exception:
        # It rests on others, which may not fit each other.
        errors.report_internal_error("prices")
        return None
    return genai_prices


def preload_prices() -> None:
    """Load the library and its list now, which takes a good part of a second, and not in a request."""
    estimate_cost(CallResult(provider="openai", response_model="gpt-4o", input_tokens=1))


def estimate_cost(facts: CallResult) -> None:
    """Fill in cost, its parts and ``cost_source="estimate"`` where no cost is stated.

    A stated cost always wins. What a gateway answered from its cache costs nothing and says what it
    saved. An unknown model, an error, or a call without tokens has no estimate.
    """
    if facts.error_type is not None or facts.input_tokens is None:
        return
    if facts.cost is not None and not (facts.cache_hit and facts.cache_savings is None):
        return
    library = _library()
    price = None if library is None else _price(library, facts)
    if price is None:
        return
    total = float(price.total_price)
    if facts.cache_hit:
        facts.cost, facts.cache_savings = 0.0, total
    else:
        facts.cost = total
        facts.cost_details = {"input": float(price.input_price), "output": float(price.output_price)}
    if facts.cost_source is None:
        facts.cost_source = "estimate"


def _price(library: Any, facts: CallResult) -> Any:
    provider = _PROVIDERS.get(facts.provider or "")
    for model in (facts.response_model, facts.request_model):
        if model is None:
            continue
        # Gateways write provider/model.
        name = model.rpartition("/")[2]
        if (name, provider) in _unknown:
            continue
        try:
            usage = library.Usage(
                **{theirs: getattr(facts, ours) for ours, theirs in _USAGE.items() if getattr(facts, ours)}
            )
            return library.calc_price(usage, name, provider_id=None if "/" in model else provider)
        except Exception:
            if len(_unknown) < _MAX_UNKNOWN:
                _unknown.add((name, provider))
    return None
