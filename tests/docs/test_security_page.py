"""Each promise of docs/security.md names a test that exists, and each limit is the number in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from byline import attribution, settings
from byline.inbound import body

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("named", re.findall(r"`(tests/[^`]+)` \|", PAGE))
def test_the_test_of_a_promise_exists(named: str) -> None:
    path, _, function = named.partition("::")
    source = (ROOT / path).read_text(encoding="utf-8")
    assert not function or f"def {function}(" in source


@pytest.mark.parametrize(
    "number",
    [
        f"{attribution.MAX_ID} characters; {attribution.MAX_TAGS} tags",
        f"{attribution.MAX_METADATA} keys of {attribution.MAX_METADATA_KEY} characters",
        f"values of {attribution.MAX_METADATA_VALUE}",
        f"{settings.find('body_limit', {}).value >> 20} MiB (`body_limit`)",
        f"beyond {body._SMALL >> 10} KiB each | {body.MAX_BUFFERED >> 20} MiB",
        f"{body._MAX_DECODED >> 10} KiB; {body._MAX_MEMBER >> 10} KiB of one member",
    ],
)
def test_limits_are_those_of_the_code(number: str) -> None:
    assert number in PAGE
