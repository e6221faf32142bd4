"""Output of ``BYLINE_DEBUG``: the endpoints and keys in force, every post, and its response."""

from __future__ import annotations

import contextlib
import sys

from byline import settings
from byline.export.redaction.secrets import scrub


def debug_print(text: str) -> None:
    """Write a line to standard error if ``BYLINE_DEBUG`` is set."""
    with contextlib.suppress(Exception):
        if settings.find("debug").value:
            sys.stderr.write(f"byline: {scrub(text)}\n")
