"""Says that requests come in and nobody signs: without ``instrument()`` a door is silent, and so is all else."""

from __future__ import annotations

from byline import guard, settings

#: Whether it may still have to be said. Doors look at this with each request, and at no more.
unsaid = True


def end() -> None:
    """There is somebody who signs."""
    global unsaid
    unsaid = False


def say() -> None:
    """Say it, unless byline has been turned off."""
    end()
    try:
        off = settings.find("disabled").value
    except settings.SettingError:
        # That is for `instrument` to say.
        off = False
    if not off:
        guard.warn_once(
            "absent",
            "byline.E019: a request came in before byline.instrument() was called: its LLM spans are not signed. "
            "Call it at start",
        )
