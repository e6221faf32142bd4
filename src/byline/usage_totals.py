"""The sums of a request's LLM calls."""

from __future__ import annotations

from typing import Final

from byline.fork import fork_safe_lock

#: One lock for all: adding is short.
_lock: Final = fork_safe_lock()


class UsageTotals:
    """What the LLM calls of one request add up to."""

    __slots__ = ("calls", "cost", "errors", "input_tokens", "output_tokens")

    def __init__(self) -> None:
        self.calls = 0
        self.errors = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost: float | None = None

    def add(
        self,
        *,
        calls: int = 1,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cost: float | None = None,
        error: bool = False,
    ) -> None:
        """Count one call, or what came of one that has been counted (``calls=0``); several may be made at once."""
        with _lock:
            self.calls += calls
            self.errors += error
            self.input_tokens += input_tokens
            self.output_tokens += output_tokens
            if cost is not None:
                self.cost = cost + (self.cost or 0.0)
