"""Reads and writes the attributes of a span at once, past the SDK's care for single ones.

The SDK locks and copies its container for each look and cleans each value anew, which costs more
than all the rest of a stamp. Where the container is as it is known, it is used as it is; everywhere
else the SDK does the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span

from byline.genai.attributes import AttributeValue


def peek_attributes(span: ReadableSpan | Span) -> Mapping[str, Any]:
    """Return the attributes of a span, to be looked at and not to be kept."""
    found: Any = getattr(span, "_attributes", None)
    inner = getattr(found, "_dict", None)
    return inner if isinstance(inner, dict) else getattr(span, "attributes", None) or {}


def set_attributes(span: Span, attributes: Mapping[str, AttributeValue]) -> None:
    """Set attributes that are clean already: texts, numbers, and tuples of texts."""
    container: Any = getattr(span, "_attributes", None)
    try:
        inner: dict[str, AttributeValue] = container._dict
        plain = (
            (container.maxlen is None or len(inner) + len(attributes) <= container.maxlen)
            and container.max_value_len is None
            and not container._immutable
        )
        lock = container._lock
    except AttributeError:
        plain = False
    if not plain or not span.is_recording():
        span.set_attributes(attributes)
        return
    with lock:
        # Setting a key anew makes it the youngest, as the SDK does.
        for key in inner.keys() & attributes.keys():
            del inner[key]
        inner.update(attributes)


def remove_attributes(span: Span, keys: Iterable[str]) -> None:
    """Take attributes off a span that still records; the SDK has no way of its own for that."""
    container: Any = getattr(span, "_attributes", None)
    for key in keys:
        try:
            del container[key]
        except (KeyError, TypeError):
            continue
