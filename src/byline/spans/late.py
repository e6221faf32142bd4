"""Facts that wait for their span: some instrumentations make theirs after the exchange is over."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from byline.spans.attributes import AttributeValue

_MAX: Final = 2048
_SECONDS: Final = 300.0

_lock: Final = threading.Lock()
_waiting: Final[OrderedDict[str, tuple[float, Mapping[str, AttributeValue]]]] = OrderedDict()


def keep(response_id: str, attributes: Mapping[str, AttributeValue]) -> None:
    """Keep the facts of a reply until a span with its id is exported; the oldest make room."""
    now = time.monotonic()
    with _lock:
        _waiting[response_id] = (now, attributes)
        _waiting.move_to_end(response_id)
        while _waiting:
            oldest, (since, _) = next(iter(_waiting.items()))
            if len(_waiting) <= _MAX and now - since <= _SECONDS:
                break
            del _waiting[oldest]


def take(response_id: str) -> Mapping[str, AttributeValue] | None:
    """Return the facts that wait for a span with this response id. They stay for other destinations."""
    if not _waiting:
        return None
    with _lock:
        found = _waiting.get(response_id)
    return None if found is None else found[1]


def clear() -> None:
    """Let all waiting facts go."""
    with _lock:
        _waiting.clear()
