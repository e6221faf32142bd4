"""Each promise of docs/security.md names a test that exists, and each limit is spent by tests/test_limits.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.limits import LIMITS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("named", re.findall(r"`(tests/[^`]+)` \|", PAGE))
def test_the_test_of_a_promise_exists(named: str) -> None:
    path, _, function = named.partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert not function or f"def {function}(" in source


def test_the_table_of_limits_is_that_of_the_code() -> None:
    """Row by row: the budget, the number as the constants of the code say, and the counter."""
    table = PAGE.partition("## Limits")[2].partition("## ")[0]
    rows = [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in re.findall(r"^\|.*\|$", table, re.M)]
    assert rows[2:] == [(limit.budget, limit.number, f"`{limit.counter}`" if limit.counter else "") for limit in LIMITS]
