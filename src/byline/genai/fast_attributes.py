"""Reads and writes several attributes of a span at once.

The SDK locks and copies its container for each read and cleans each value again, which costs more than the
rest of setting an attribution. If the container has the known private members, these functions use them;
otherwise they use the SDK's methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span

from byline.genai.attributes import CALLER_USER_AGENT, REJECTED, ROUTE, AttributeValue

#: Texts that are no ids, and that no destination adds.
_MAY_BE_CUT: Final = frozenset({CALLER_USER_AGENT, REJECTED, ROUTE})


def peek_attributes(span: ReadableSpan | Span) -> Mapping[str, Any]:
    """Return the live attributes of a span: read them at once, neither change nor store them."""
    try:
        inner: Any = span._attributes._dict  # type: ignore[union-attr]
    except AttributeError:
        inner = None
    return inner if type(inner) is dict else getattr(span, "attributes", None) or {}


def set_attributes(span: Span, attributes: Mapping[str, AttributeValue], *, may_cut: bool = False) -> None:
    """Set attributes that need no cleaning: texts, numbers, and tuples of texts.

    Args:
        span: The span.
        attributes: The attributes.
        may_cut: Whether texts that are longer than the span's limit are cut. They are left out otherwise, because a cut
            id is another id; destinations add such a text.
    """
    container: Any = getattr(span, "_attributes", None)
    try:
        inner: dict[str, AttributeValue] = container._dict
        is_writable = (
            (container.maxlen is None or len(inner) + len(attributes) <= container.maxlen)
            and container.max_value_len is None
            and not container._immutable
            and span.is_recording()
        )
        lock = container._lock
    except AttributeError:
        is_writable = False
    if not is_writable:
        limit = getattr(container, "max_value_len", None)
        span.set_attributes(attributes if limit is None or may_cut else _without_long(attributes, limit))
        return
    with lock:
        if not inner.keys().isdisjoint(attributes):
            # As in the SDK, a key that is set again moves to the end.
            for key in inner.keys() & attributes.keys():
                del inner[key]
        inner.update(attributes)


def _without_long(attributes: Mapping[str, AttributeValue], limit: int) -> dict[str, AttributeValue]:
    def fits(value: AttributeValue) -> bool:
        texts = value if isinstance(value, tuple) else (value,)
        return all(not isinstance(text, str) or len(text) <= limit for text in texts)

    return {key: value for key, value in attributes.items() if key in _MAY_BE_CUT or fits(value)}


def remove_attributes(span: Span, keys: Iterable[str]) -> None:
    """Remove attributes from a span that has not ended; the SDK has no method for that."""
    container: Any = getattr(span, "_attributes", None)
    for key in keys:
        try:
            del container[key]
        except (KeyError, TypeError):
            continue
