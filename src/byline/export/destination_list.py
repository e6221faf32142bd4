"""Several destinations at once: checked, told apart, and begun together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import SpanProcessor

from byline.export.destination import Destination
from byline.settings import SettingError


def validate_destinations(destinations: Any) -> list[Destination]:
    """Return the destinations. Raises `SettingError` ``byline.E025`` where something else is among them."""
    advice = "pass a list of byline.destinations.Langfuse(…) and OTLP(…)"
    if isinstance(destinations, str) or not isinstance(destinations, Sequence):
        raise SettingError("byline.E025", f"destinations is {type(destinations).__name__}", advice)
    for each in destinations:
        if not isinstance(each, Destination):
            # Not the thing itself: it may be a URL with a key in it.
            what = f"the class {each.__name__}" if isinstance(each, type) else type(each).__name__
            raise SettingError("byline.E025", f"destinations has {what} in it", advice)
    return list(destinations)


def unique_labels(destinations: list[Destination]) -> list[Destination]:
    """Number destinations of one name, so that counters and messages tell them apart.

    Raises:
        SettingError: ``byline.E049`` where they would share a spool.
    """
    spools: dict[Path, str] = {}
    for destination in destinations:
        account = f"{destination.endpoint} {sorted(destination.headers.items())}"
        if destination.spool and spools.setdefault(destination.spool, account) != account:
            raise SettingError(
                "byline.E049",
                f"two destinations are labelled {destination.label!r}, and would send each other's spool",
                "give each a label of its own",
            )
    seen: dict[str, int] = {}
    for destination in dict.fromkeys(destinations):
        seen[destination.label] = number = seen.get(destination.label, 0) + 1
        if number > 1:
            destination.rename(f"{destination.label}-{number}")
    return list(dict.fromkeys(destinations))


def split_deadline(destinations: Sequence[Destination], seconds: float) -> Iterator[tuple[Destination, float]]:
    """Yield each destination with its share of the time that is left: one that hangs takes none of the others'."""
    until = time.monotonic() + seconds
    for number, destination in enumerate(destinations):
        yield destination, max((until - time.monotonic()) / (len(destinations) - number), 0.1)


def start_all(destinations: list[Destination]) -> list[SpanProcessor]:
    """Return the span processor of each, all of them or none."""
    try:
        return [destination.processor() for destination in destinations]
    except BaseException:
        # The first ones have begun already.
        for destination in destinations:
            destination.shutdown()
        raise
