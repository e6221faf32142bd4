"""Measures what one variant costs above another, in CPU time of this thread and in one run."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Cost(float):
    """The median of several rounds, in microseconds. Differences are taken round by round."""

    rounds: tuple[float, ...]

    def __new__(cls, rounds: Sequence[float]) -> Cost:
        cost = super().__new__(cls, statistics.median(rounds))
        cost.rounds = tuple(rounds)
        return cost

    def __sub__(self, other: float) -> Cost:
        return Cost([ours - theirs for ours, theirs in zip(self.rounds, _rounds(other, self), strict=True)])

    def __add__(self, other: float) -> Cost:
        return Cost([ours + theirs for ours, theirs in zip(self.rounds, _rounds(other, self), strict=True)])

    def __truediv__(self, other: float) -> Cost:
        return Cost([ours / theirs for ours, theirs in zip(self.rounds, _rounds(other, self), strict=True) if theirs])


def _rounds(cost: float, like: Cost) -> Sequence[float]:
    return cost.rounds if isinstance(cost, Cost) else [float(cost)] * len(like.rounds)


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
        """What byline adds in parts of what the reference adds."""
        return float(self.ours) / float(self.theirs)

    @property
    def spread(self) -> tuple[float, float]:
        """The lower and the upper quartile of the ratios of the rounds."""
        if not isinstance(self.ours, Cost):
            return self.ratio, self.ratio
        lower, _, upper = statistics.quantiles((self.ours / self.theirs).rounds, n=4, method="inclusive")
        return lower, upper


def repeated(count: int) -> int:
    """Return how often to do what is to be done so often: a tenth, at least twice, if the benchmarks are only tried."""
    return max(2, count // 10) if "BENCHMARK_SMOKE" in os.environ else count


def costs(variants: Mapping[str, Callable[[int], None]], *, loops: int, rounds: int = 15) -> dict[str, Cost]:
    """Return the microseconds of one pass through each variant.

    The variants take turns, in both orders, so that a machine that slows down slows all of them.
    """
    rounds, loops = repeated(rounds), max(1, repeated(loops) if loops > 20 else loops)
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        run(max(1, loops // 10))
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for name in list(variants) if number % 2 else list(variants)[::-1]:
                begun = time.thread_time_ns()
                variants[name](loops)
                taken[name].append((time.thread_time_ns() - begun) / loops / 1000)
    finally:
        gc.enable()
    return {name: Cost(values) for name, values in taken.items()}
