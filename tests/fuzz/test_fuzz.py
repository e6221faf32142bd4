"""Each reader of foreign bytes, with a bounded number of inputs. ``python -m tests.fuzz`` goes on until stopped."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.fuzz.inputs import INPUTS
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
@given(data=INPUTS)
def test_any_bytes(target: str, data: bytes) -> None:
    TARGETS[target](data)
