"""Spans that have ended before the app has read the body of their request.

What the body says may name the trace, the session and the step that they belong to. Where a model takes its
time, a batch goes meanwhile: without them, or they would be filed apart from the calls of their request.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

_MAX: Final = 2048


class BodyPendingBuffer:
    """The tickets of such spans, of one destination. Beyond a number of them the oldest wait no longer."""

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def pass_on(self, tickets: Sequence[Any]) -> Iterator[Any]:
        """Yield the tickets that wait no longer, then those of the new ones that need not wait."""
        known: list[Any] = []
        waiting: deque[Any] = deque()
        for ticket in (*self._waiting, *tickets):
            (waiting if _is_early(ticket) else known).append(ticket)
        while len(waiting) > _MAX:
            yield waiting.popleft()
        self._waiting = waiting
        yield from known

    def empty(self) -> list[Any]:
        """Return all of them, for the process or the destination is about to end."""
        found, self._waiting = list(self._waiting), deque()
        return found


def _is_early(ticket: Any) -> bool:
    request_spans = None if ticket.state is None else ticket.state.request_spans
    return request_spans is not None and request_spans.root.body_pending()
