"""The app of `test_fleet`, whose spans go to the OTLP endpoint ``FLEET_ENDPOINT``: ``uvicorn fleet_app:app``."""

from __future__ import annotations

import os

import byline
from byline.destinations import OTLP

byline.instrument(
    destinations=[OTLP(os.environ["FLEET_ENDPOINT"], spans="llm", conventions=["langfuse", "openinference"])]
)

# Its own instrument() has no effect any more.
from tests.integration.attributed_app import app  # noqa: E402

__all__ = ["app"]
