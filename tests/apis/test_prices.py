"""Cost estimates for calls without a stated cost."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from byline.call_result import CallResult
from byline.genai.pricing import estimate_cost


def called(**given: object) -> CallResult:
    result = CallResult(provider="openai", response_model="gpt-4o-2024-08-06", input_tokens=1000, output_tokens=100)
    for name, value in given.items():
        setattr(result, name, value)
    estimate_cost(result)
    return result


def test_unstated_cost_is_estimated_and_marked() -> None:
    """The parts add up to the cost."""
    result = called()
    assert result.cost is not None
    assert result.cost > 0
    assert result.cost_source == "estimate"
    assert sum(result.cost_details.values()) == pytest.approx(result.cost)


def test_stated_cost_wins() -> None:
    """A stated cost of 0 is kept."""
    result = called(cost=0.0, cost_source="gateway")
    assert (result.cost, result.cost_source, result.cost_details) == (0.0, "gateway", {})


def test_cached_tokens_cost_less() -> None:
    """Tokens from the prompt cache have a lower price."""
    plain, cached = called(), called(cache_read_tokens=900)
    assert cached.cost is not None
    assert plain.cost is not None
    assert cached.cost < plain.cost


def test_cache_hit_costs_nothing_and_has_its_savings() -> None:
    """A response from a gateway's cache is free."""
    result = called(cache_hit=True)
    assert result.cost == 0.0
    assert result.cache_savings == called().cost


def test_gateway_spelling_of_a_model_is_understood() -> None:
    """Gateways write ``provider/model``."""
    assert called(provider="openai", response_model="openai/gpt-4o").cost is not None


@pytest.mark.parametrize(
    ("provider", "model", "host"),
    [
        ("anthropic", "claude-sonnet-4-20250514", "anthropic"),
        ("google", "gemini-2.5-flash", "gcp.gemini"),
        ("openai", "gpt-4o", "openai"),
        ("groq", "llama-3.3-70b-versatile", "groq"),
    ],
)
def test_provider_that_the_gateway_chose_has_the_price(provider: str, model: str, host: str) -> None:
    """Portkey's host speaks OpenAI's API for all providers."""
    result = called(provider="portkey", gateway_provider=provider, response_model=model)
    assert result.cost == called(provider=host, response_model=model).cost
    assert result.cost_source == "estimate"


def test_gateway_provider_that_nobody_knows_changes_nothing() -> None:
    assert called(gateway_provider="somebody").cost == called().cost


def test_unknown_host_has_the_prices_of_openai_alone() -> None:
    """A gateway or a proxy may pass OpenAI's models on; other models at such a host are somebody's own."""
    assert called(provider="llm.example.com").cost == called().cost
    assert called(provider="llm.example.com", response_model="llama-3.3-70b-versatile").cost is None
    assert called(provider="groq", response_model="llama-3.3-70b-versatile").cost is not None


@pytest.mark.parametrize(
    "given", [{"response_model": "nobody-knows-me"}, {"error_type": "500"}, {"input_tokens": None}]
)
def test_no_estimate_is_made_up(given: dict[str, object]) -> None:
    """A call with an unknown model, an error or no tokens has no cost."""
    assert called(**given).cost is None


@pytest.mark.newest  # earlier price lists have no prices of these
def test_image_tokens_have_their_own_price() -> None:
    """Per million tokens of gpt-image-1: text 5, images 10, output 40 USD."""
    tokens = {"input_tokens": 50, "output_tokens": 4160}
    made = called(response_model="gpt-image-1", input_text_tokens=10, input_image_tokens=40, **tokens)
    assert made.cost == pytest.approx((10 * 5 + 40 * 10 + 4160 * 40) / 1e6)


@pytest.mark.newest  # earlier price lists have no prices of these
@pytest.mark.parametrize(
    ("model", "counts", "cost"),
    [
        ("whisper-1", {"audio_seconds": 60.0}, 0.006),
        ("tts-1", {"input_characters": 1000}, 0.015),
        ("gpt-4o-mini-tts", {"input_characters": 1000}, None),
        ("whisper-1", {"audio_seconds": 0.0}, None),
        ("meta/llama-4", {"compute_seconds": 1.0}, None),
    ],
)
def test_calls_without_tokens(model: str, counts: dict[str, float], cost: float | None) -> None:
    """Audio is billed by the second, speech of older models by the character; other prices are not guessed."""
    made = called(response_model=None, request_model=model, input_tokens=None, output_tokens=None, **counts)
    assert (made.cost, made.cost_details) == (None if cost is None else pytest.approx(cost), {})


def test_rates_give_the_price_of_the_library_for_every_model() -> None:
    """To the last digit, whatever the numbers of tokens; prices with tiers or hours are left to the library."""
    import genai_prices
    from genai_prices.data import providers

    from byline.genai import pricing

    pricing.prices.load()
    usages = [
        {"input_tokens": 1},
        {"input_tokens": 199_999, "output_tokens": 17},
        {"input_tokens": 1_234_567, "output_tokens": 7, "cache_read_tokens": 1_000_000},
        {"output_tokens": 3},
    ]
    count = 0
    for provider in providers:
        for model in provider.models:
            rates = pricing._token_rates(model.id, provider.id)
            if rates is None:
                continue
            count += 1
            for usage in usages:
                expected = genai_prices.calc_price(genai_prices.Usage(**usage), model.id, provider_id=provider.id)
                price = rates.price(**usage)
                assert price is not None
                assert (price.input_price, price.output_price, price.total_price) == (
                    expected.input_price,
                    expected.output_price,
                    expected.total_price,
                ), (provider.id, model.id, usage)
    assert count > 100
    # Longer prompts cost more.
    assert pricing._token_rates("gemini-2.5-pro", "google") is None
    # More cached tokens than input tokens are left to the library as well.
    plain = pricing._token_rates("gpt-4o", "openai")
    assert plain is not None
    assert plain.price(input_tokens=1, cache_read_tokens=2) is None


def test_list_that_the_app_replaces_is_used_from_then_on() -> None:
    """The library can update its list in the background."""
    from genai_prices import data_snapshot
    from genai_prices.data import providers

    before = called(response_model="gpt-4o").cost
    (openai,) = [provider for provider in providers if provider.id == "openai"]
    dearer = copy.deepcopy(openai)
    price: Any = next(model.prices for model in dearer.models if model.id == "gpt-4o")
    price.input_mtok *= 2
    price.output_mtok *= 2
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot(providers=[dearer], from_auto_update=False))
    try:
        after = called(response_model="gpt-4o").cost
    finally:
        data_snapshot.set_custom_snapshot(None)
    assert before is not None
    assert after == pytest.approx(2 * before)
    assert called(response_model="gpt-4o").cost == before
