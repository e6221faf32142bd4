"""docs/gateways.md says what the code does."""

from __future__ import annotations

import re

import pytest

from byline.gateways import ALL, Gateway
from tests.gateways import document
from tests.gateways.test_sending import ROWS

SURE = {"run for real", "source", "documentation", "inference"}


def test_the_page_is_up_to_date() -> None:
    """Else run ``python -m tests.gateways.document``."""
    assert document.PAGE.read_text("utf-8") == document.page()


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.name)
def test_every_gateway_says_what_it_sends_reads_and_joins_and_how_surely(made: type[Gateway]) -> None:
    assert {what for what, _, _ in made.notes} == {"sends", "reads", "joins"}
    assert {sure for _, _, sure in made.notes} <= SURE
    assert not [text for _, text, _ in made.notes if "|" in text or "\n" in text]


@pytest.mark.parametrize("name", ROWS)
def test_every_name_that_leaves_is_on_the_page(name: str) -> None:
    """Headers as HTTP has them, in any case; members of the body by their own names."""
    row = ROWS[name]
    made = next(made for made in ALL if made.name == name.partition(",")[0])
    said = " ".join(text for what, text, _ in made.notes if what == "sends").lower()
    quoted = set(re.findall(r"`([^`]+)`", said))
    starts = tuple(each[:-1] for each in quoted if each.endswith("*"))
    if "policy" in name:
        assert "header names of your policy" in said
        return
    for header in row.headers:
        assert header in quoted or (starts and header.startswith(starts)), header
    for member in row.body:
        assert any(each.startswith(member.lower()) for each in quoted), member
