"""A stateful MCP server: each call of a tool is attributed to its own caller."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.matrix import environments
from tests.matrix.cells import Cell


@pytest.mark.matrix
@pytest.mark.parametrize("version", ["1.30.0"])
def test_each_message_has_its_own_caller(version: str) -> None:
    """The session was opened by the first of them; the call runs in the trace of its own request too."""
    python = environments.make(Cell(f"mcp-{version}", "MCP", (), (f"mcp=={version}", "uvicorn", "httpx")))
    command = [str(python), "-m", "tests.mcp.app"]
    run = subprocess.run(command, cwd=environments.ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert len(found["results"]) == 40
    for expected, user, trace_id, expected_trace_id in found["results"]:
        assert (user, trace_id) == (expected, expected_trace_id)
    assert not [name for name in found["stats"] if name.startswith("errors.")]
