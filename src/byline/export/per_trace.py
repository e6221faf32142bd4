"""What the spans of a request say of their trace, beyond what is known of the request.

One request may belong to several traces, and one job may work for many users: what is said of one must
not be written onto another.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from byline.fork import fork_safe_lock

if TYPE_CHECKING:
    from byline.export.request_spans import RequestSpans

T = TypeVar("T")

#: A job may go on for ever, with a trace for each of its items.
_MAX_TRACES: Final = 500
_adding: Final = fork_safe_lock()


class PerTrace(Generic[T]):
    """Values by name, of each of the traces that a request has lately had spans in."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: dict[int, dict[str, T]] = {}

    def of(self, trace: int) -> dict[str, T]:
        """Return the values of a trace, to be looked at and added to."""
        found = self._found.get(trace)
        if found is None:
            with _adding:
                while len(self._found) >= _MAX_TRACES:
                    del self._found[next(iter(self._found))]
                found = self._found.setdefault(trace, {})
        return found

    def look(self, trace: int, name: str) -> T | None:
        """Return one value of a trace, ``None`` where there is none."""
        found = self._found.get(trace)
        return None if found is None else found.get(name)


class TraceValue:
    """A value, and the part of the request that says it; nobody's where two parts say different ones."""

    __slots__ = ("_by", "value")

    def __init__(self, value: Any, by: RequestSpans) -> None:
        self.value = value
        self._by = weakref.ref(by)

    @property
    def by(self) -> RequestSpans | None:
        """Who said it, ``None`` where that is over."""
        return self._by()

    def dispute(self) -> None:
        """Let nobody repeat it any more."""
        self.value = None
