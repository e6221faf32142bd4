"""Destinations, and how ended spans get there."""

from __future__ import annotations

from byline.export.destination import Destination
from byline.export.environment import destinations_from_environment, set_variables, unused_settings
from byline.export.langfuse import Langfuse
from byline.export.otlp import OTLP
from byline.export.self_test import CheckResult

__all__ = [
    "OTLP",
    "CheckResult",
    "Destination",
    "Langfuse",
    "destinations_from_environment",
    "set_variables",
    "unused_settings",
]
