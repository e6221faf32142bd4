"""Thousands of jobs of interleaved users over every carrier: each gets its own name, none another's."""

from __future__ import annotations

import pytest

from tests.hops import CARRIERS

#: Carriers within a process; `tests.queues` and `tests.mcp` run the others.
COUNTS = {"threads": 3000, "tasks": 1000, "queue": 3000, "services": 500}


@pytest.fixture(autouse=True)
def signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYLINE_SIGNING_KEY", "k" * 32)


@pytest.mark.parametrize("carrier", COUNTS)
def test_every_job_has_its_own_user(carrier: str) -> None:
    assert CARRIERS[carrier][0](COUNTS[carrier]) == {"right": COUNTS[carrier]}


@pytest.mark.integration
@pytest.mark.parametrize("carrier", ["processes", "http"])
def test_every_job_in_another_process_or_service_has_its_own_user(carrier: str) -> None:
    assert CARRIERS[carrier][0](1000) == {"right": 1000}
