"""Estimates the cost of a call from the tokens, with the library ``genai-prices``."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, Final

from byline import errors
from byline.call_result import CallResult

#: Names of token counts, which `CallResult` and the library share.
_TOKEN_COUNTS: Final = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
)
#: The usage of calls whose response states no tokens.
_OTHER_COUNTS: Final = ("audio_seconds", "input_characters")
#: GenAI provider name → provider id of the library.
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
    "moonshot_ai": "moonshotai",
    "together": "together",
    "fireworks": "fireworks",
    "cerebras": "cerebras",
}
#: Provider as gateways name it → provider id of the library. Source: the providers of Portkey's gateway 1.15.
_GATEWAY_PROVIDERS: Final = {
    **{name: name for name in ("anthropic", "openai", "google", "groq", "deepseek", "x-ai", "cohere")},
    "vertex-ai": "google",
    "azure-openai": "azure",
    "bedrock": "aws",
    "mistral-ai": "mistral",
    "perplexity-ai": "perplexity",
    "together-ai": "together",
    "fireworks-ai": "fireworks",
}
#: For hosts of no known provider: OpenAI's models have the same price behind a gateway, but a model that somebody
#: serves at a host of their own has no price at all.
_DEFAULT_PROVIDER: Final = "openai"


@functools.cache
def _load_library() -> Any:
    """Return the library, ``None`` if the extra ``byline[prices]`` is not installed."""
    try:
        import genai_prices
    except ImportError:
        return None
    except Exception:
        # Its dependencies may be incompatible with each other.
        errors.report_internal_error("prices")
        return None
    return genai_prices


def preload_prices() -> None:
    """Load the library and the price list, which takes up to a second, before the first request."""
    estimate_cost(CallResult(provider="openai", response_model="gpt-4o", input_tokens=1))


def estimate_cost(result: CallResult) -> None:
    """Set cost, cost details and ``cost_source="estimate"`` if the response states no cost.

    A response from a gateway's cache costs nothing; the estimate becomes the cache's savings. Nothing is estimated
    for an unknown model, an error, or a call without tokens. A stream that was cut has the cost of the tokens
    that arrived, because providers charge for them.
    """
    counts = _TOKEN_COUNTS if result.input_tokens is not None else _OTHER_COUNTS
    if result.error_type is not None and result.stream_cut is None:
        return
    if result.input_tokens is None and not any(getattr(result, count) for count in counts):
        return
    needs_savings = result.cache_hit and result.cache_savings is None
    if result.cost is not None and not needs_savings:
        return
    price = _calculate_price(result, counts)
    if price is None:
        return
    total = float(price.total_price)
    if not total and counts is _OTHER_COUNTS:
        # The model has another price than by the second or the character.
        return
    if result.cache_hit:
        result.cost, result.cache_savings = 0.0, total
    else:
        result.cost = total
        if counts is _TOKEN_COUNTS:
            # Of other counts the library does not say to which part the price belongs.
            result.cost_details = {"input": float(price.input_price), "output": float(price.output_price)}
    if result.cost_source is None:
        result.cost_source = "estimate"


def _calculate_price(result: CallResult, counts: tuple[str, ...]) -> Any:
    library = _load_library()
    provider = _PROVIDERS.get(result.provider, _DEFAULT_PROVIDER) if result.provider else None
    if result.gateway_provider in _GATEWAY_PROVIDERS:
        # The host is the gateway's, which speaks OpenAI's API for all providers.
        provider = _GATEWAY_PROVIDERS[result.gateway_provider]
    for model in (result.response_model, result.request_model):
        if library is None or model is None:
            continue
        # Gateways write "provider/model".
        is_prefixed, name = "/" in model, model.rpartition("/")[2]
        provider_id = None if is_prefixed else provider
        if not _has_price(name, provider_id):
            continue
        usage = {count: getattr(result, count) for count in counts if getattr(result, count)}
        # Inconsistent counts, e.g. more cached tokens than input tokens, raise.
        with contextlib.suppress(Exception):
            return library.calc_price(library.Usage(**usage), name, provider_id=provider_id)
    return None


@functools.lru_cache(maxsize=1000)
def _has_price(model: str, provider_id: str | None) -> bool:
    """Return whether the library knows a model. Cached, because a search without a match takes longest."""
    library = _load_library()
    try:
        library.calc_price(library.Usage(input_tokens=1), model, provider_id=provider_id)
    except Exception:
        return False
    return True
