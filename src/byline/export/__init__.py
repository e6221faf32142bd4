"""Destinations: what leaves the app, and to where."""

from __future__ import annotations

from byline import settings
from byline.export import metrics
from byline.export.destination import Destination
from byline.export.langfuse import Langfuse
from byline.export.options import CheckResult
from byline.export.otlp import OTLP

__all__ = ["OTLP", "CheckResult", "Destination", "Langfuse", "from_environment", "metrics"]


def from_environment() -> list[Destination]:
    """Return the destinations that the environment names.

    Raises:
        SettingError: ``byline.E041`` where only one of the two Langfuse keys is set.
    """
    found: list[Destination] = []
    if settings.find("langfuse_public_key").value or settings.find("langfuse_secret_key").value:
        found.append(Langfuse())
    if settings.find("otlp_endpoint").value:
        found.append(OTLP())
    return found
