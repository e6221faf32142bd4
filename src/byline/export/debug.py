"""What ``BYLINE_DEBUG`` shows: which endpoints and keys are in force, every post, and the answer."""

from __future__ import annotations

import contextlib
import sys

from byline import settings
from byline.export.redaction.secrets import scrub


def debug_print(text: str) -> None:
    """Say on standard error what is sent where, if ``BYLINE_DEBUG`` is set."""
    with contextlib.suppress(Exception):
        if settings.find("debug").value:
            sys.stderr.write(f"byline: {scrub(text)}\n")
