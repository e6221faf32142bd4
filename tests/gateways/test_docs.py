"""docs/gateways.md agrees with the code."""

from __future__ import annotations

import re

import pytest

from byline import gateways
from byline.gateways import ALL, Gateway
from tests.gateways import document
from tests.gateways.test_inject import ROWS

EVIDENCE = {"tested", "source", "documentation", "inferred"}


def test_the_page_is_up_to_date() -> None:
    """If not, run ``python -m tests.docs``."""
    assert document.PAGE.read_text("utf-8") == document.page()


def test_the_data_has_an_entry_for_each_gateway_and_no_other() -> None:
    assert list(document.DATA) == [kind.name for kind in ALL]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_each_gateway_has_rows_for_sends_reads_and_joins_with_evidence(kind: type[Gateway]) -> None:
    rows = document.gateway_rows(kind)
    assert {what for what, _, _ in rows} == {"sends", "reads", "joins"}
    assert {evidence for _, _, evidence in rows} <= EVIDENCE
    assert not [text for _, text, _ in rows if "|" in text or "\n" in text]


@pytest.mark.parametrize("name", ROWS)
def test_each_name_that_is_sent_is_on_the_page(name: str) -> None:
    """Headers in any case; members of the body by their exact names."""
    row = ROWS[name]
    kind = next(kind for kind in ALL if kind.name == name.partition(",")[0])
    sends = " ".join(text for what, text, _ in document.gateway_rows(kind) if what == "sends").lower()
    quoted = set(re.findall(r"`([^`]+)`", sends))
    prefixes = tuple(each[:-1] for each in quoted if each.endswith("*"))
    if "policy" in name:
        assert "header names of your policy" in sends
        return
    for header in row.headers:
        assert header in quoted or (prefixes and header.startswith(prefixes)), header
    for member in row.body:
        assert any(each.startswith(member.lower()) for each in quoted), member


def test_every_gateway_is_exported() -> None:
    exported = set(gateways.__all__)
    assert {made.__name__ for made in gateways.ALL} <= exported
