"""Each limit of docs/security.md is spent once, and its counter tells."""

from __future__ import annotations

import pytest

import byline
from byline import internal_metrics
from tests.limits import LIMITS, Limit


@pytest.mark.parametrize("limit", [limit for limit in LIMITS if limit.counter], ids=lambda limit: limit.budget)
def test_a_limit_that_is_spent_is_counted(limit: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    internal_metrics.clear()
    limit.spend(1, monkeypatch)
    counted = byline.stats().get(limit.counter, 0)
    assert counted > 0
    # Exactly what fits is not counted.
    internal_metrics.clear()
    limit.spend(0, monkeypatch)
    assert limit.counter not in byline.stats()
