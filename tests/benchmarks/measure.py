"""Measures the CPU time that one variant adds to another, on this thread and in one run."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One ratio of the table.

    Attributes:
        name: What is measured.
        reference: What it is measured against.
        theirs: What the reference adds, in microseconds.
        ours: What byline adds, in microseconds.
        bound: The highest ratio that the design allows, ``None`` where it says nothing.
    """

    name: str
    reference: str
    theirs: float
    ours: float
    bound: float | None

    @property
    def over(self) -> bool:
        """Whether the ratio is over its bound."""
        return self.bound is not None and self.ratio > self.bound

    @property
    def ratio(self) -> float:
        """Time added by byline, as a ratio of the time added by the reference."""
        return self.ours / self.theirs


def costs(variants: Mapping[str, Callable[[int], None]], *, loops: int, rounds: int = 15) -> dict[str, float]:
    """Return the microseconds of one pass through each variant.

    The variants take turns, so that a machine that slows down slows all of them; the lower quartile
    of the rounds leaves out what others did on the machine meanwhile.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run(max(1, loops // 10))
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in variants.items():
                begun = time.thread_time_ns()
                run(loops)
                taken[name].append((time.thread_time_ns() - begun) / loops / 1000)
    finally:
        gc.enable()
    return {name: statistics.quantiles(values, n=4)[0] for name, values in taken.items()}
