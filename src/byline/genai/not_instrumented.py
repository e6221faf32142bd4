"""Says that requests come in and nobody signs: without ``instrument()`` a door is silent, and so is all else."""

from __future__ import annotations

from byline import errors, settings

#: Whether it may still have to be said. Doors look at this with each request, and at no more.
warning_pending = True


def mark_instrumented() -> None:
    """There is somebody who signs."""
    global warning_pending
    warning_pending = False


def warn_if_not_instrumented() -> None:
    """Say it, unless byline has been turned off."""
    mark_instrumented()
    try:
        off = settings.find("disabled").value
    except settings.SettingError:
        # That is for `instrument` to say.
        off = False
    if not off:
        errors.warn_once(
            "absent",
            "byline.E019: a request came in before byline.instrument() was called: its LLM spans are not signed. "
            "Call it at start",
        )
