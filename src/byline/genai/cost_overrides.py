"""What calls have cost, as they were found to: some instrumentations write a guess of theirs over it at the end."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from opentelemetry.sdk.trace import Span

from byline.fork import fork_safe_lock

_MAX: Final = 4096

_lock: Final = fork_safe_lock()
_costs: Final[OrderedDict[int, float]] = OrderedDict()


def set_cost(span: Span, cost: float | None) -> None:
    """Remember what the call of this span has cost in USD; the oldest make room."""
    if cost is None:
        return
    with _lock:
        _costs[span.get_span_context().span_id] = cost
        while len(_costs) > _MAX:
            _costs.popitem(last=False)


def get_cost(span_id: int) -> float | None:
    """Return what the call of a finished span has cost, ``None`` where nobody said it."""
    return _costs.get(span_id)


def clear() -> None:
    """Forget all of it."""
    with _lock:
        _costs.clear()
