"""Estimates where nobody states a cost."""

from __future__ import annotations

import pytest

from byline.call_result import CallResult
from byline.http.pricing import estimate_cost


def called(**given: object) -> CallResult:
    facts = CallResult(provider="openai", response_model="gpt-4o-2024-08-06", input_tokens=1000, output_tokens=100)
    for name, value in given.items():
        setattr(facts, name, value)
    estimate_cost(facts)
    return facts


def test_unstated_cost_is_estimated_and_marked() -> None:
    """Input and output add up to the whole."""
    facts = called()
    assert facts.cost is not None
    assert facts.cost > 0
    assert facts.cost_source == "estimate"
    assert sum(facts.cost_details.values()) == pytest.approx(facts.cost)


def test_stated_cost_wins() -> None:
    """Even where it is nothing."""
    facts = called(cost=0.0, cost_source="gateway")
    assert (facts.cost, facts.cost_source, facts.cost_details) == (0.0, "gateway", {})


def test_cached_tokens_cost_less() -> None:
    """The provider's own cache is part of the price."""
    plain, cached = called(), called(cache_read_tokens=900)
    assert cached.cost is not None
    assert plain.cost is not None
    assert cached.cost < plain.cost


def test_cache_hit_costs_nothing_and_says_what_it_saved() -> None:
    """The gateway's cache has answered."""
    facts = called(cache_hit=True)
    assert facts.cost == 0.0
    assert facts.cache_savings == called().cost


def test_gateway_spelling_of_a_model_is_understood() -> None:
    """Gateways write provider/model."""
    assert called(provider="openai", response_model="openai/gpt-4o").cost is not None


@pytest.mark.parametrize(
    "given", [{"response_model": "nobody-knows-me"}, {"error_type": "500"}, {"input_tokens": None}]
)
def test_nothing_is_made_up(given: dict[str, object]) -> None:
    """No model, no success or no tokens: no cost."""
    assert called(**given).cost is None
