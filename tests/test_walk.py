"""The number of functions between a request and its exported span stays bounded."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

#: Upper bounds: lower them when the way gets shorter; only a new step, such as a request's root, may raise them.
FUNCTIONS, FILES = 288, 47


@pytest.mark.integration
def test_a_request_takes_no_more_functions_than_before() -> None:
    """`python -m tests.walk` prints which functions they are."""
    walk = subprocess.run([sys.executable, "-m", "tests.walk"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"\d+ calls of (\d+) functions in (\d+) files, ", walk)
    assert found, walk
    assert int(found[1]) <= FUNCTIONS, walk
    assert int(found[2]) <= FILES, walk
