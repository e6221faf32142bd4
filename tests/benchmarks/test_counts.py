"""The bytecodes that byline executes for a request, a span and a chunk stay within their recorded numbers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks import counts


@pytest.mark.newest
@pytest.mark.integration
def test_no_count_has_grown() -> None:
    """`python -m tests.benchmarks.counts` prints them, and with ``--record`` writes them."""
    bounds = counts.recorded()
    if bounds is None:
        pytest.skip(f"no counts are recorded for Python {counts.version()}")
    # In a process of its own, because other tests patch clients and set providers.
    program = "import json; from tests.benchmarks import counts; print(json.dumps(counts.measure()))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    measured = json.loads(printed.splitlines()[-1])
    assert measured.keys() == bounds.keys()
    assert counts.exceeded(measured, bounds) == []


def test_a_count_that_grows_by_more_than_five_percent_is_named() -> None:
    assert counts.exceeded({"span": 105.0, "chunk": 10.6, "new": 1.0}, {"span": 100.0, "chunk": 10.0}) == [
        "chunk: 10.6 bytecodes, 10.0 recorded: +6%",
        "new: 1.0 is not recorded",
    ]
