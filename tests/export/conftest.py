"""Fixtures of the tests of destinations."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _only_asked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let destinations send when a test flushes or closes them, not when a busy machine has let their delay pass.

    Processes that a test starts have their own delay.
    """
    if request.node.get_closest_marker("integration") is None:
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
