"""Destinations: what leaves the app, and to where."""

from __future__ import annotations

from byline.export import metrics
from byline.export.destination import Destination
from byline.export.environment import destinations_from_environment, unused_settings
from byline.export.langfuse import Langfuse
from byline.export.options import CheckResult
from byline.export.otlp import OTLP

__all__ = [
    "OTLP",
    "CheckResult",
    "Destination",
    "Langfuse",
    "destinations_from_environment",
    "metrics",
    "unused_settings",
]
