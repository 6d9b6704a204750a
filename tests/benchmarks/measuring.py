"""Runs in turn, the ratio of each pair, the median with its interval, and the verdict of a goal."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import NamedTuple

import torch

from steerlens.statistics import Interval, band, expanded_level, resampled_rows

Run = Callable[[], object]
NARROW = 0.1
"""An interval narrower than this may reach over its goal."""


class Usage(NamedTuple):
    """What one run took in a process of its own: CPU seconds, and MB before and at the peak."""

    seconds: float
    before: float
    peak: float


@dataclass(frozen=True)
class Figure:
    """A measured number, and how sure it is."""

    value: float
    interval: Interval | None = None
    """Bootstrap 95% interval of the median; None of a number that was measured once."""


@dataclass(frozen=True)
class Goal:
    """What a figure shall be: at most, or at least, so much."""

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"

    def verdict(self, figure: Figure) -> str:
        """Return "met", "missed", or "undecided" where the interval is wide and holds the goal."""
        low, high = figure.interval or (figure.value, figure.value)
        best, worst = (high, low) if self.at_least else (low, high)

        def right(side: float) -> bool:
            return side >= self.bound if self.at_least else side <= self.bound

        if right(worst) or (right(best) and high - low < NARROW):
            return "met"
        return "undecided" if right(best) else "missed"


def interleaved(
    runs: Mapping[str, Run], rounds: int, *, wall: bool = False
) -> dict[str, list[float]]:
    """Return the seconds of every run in each round: A B C, A B C, ...; one of each goes before.

    Runs of a round stand beside each other in time, so that what slows the machine slows them all.
    Seconds are the process's on the CPU, which others' work on the machine hardly touches, or
    `wall` ones, for runs that wait: for a GPU, or for workers.
    """
    clock = perf_counter if wall else process_time
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            gc.collect()
            start = clock()
            answer = run()
            elsewhere = isinstance(answer, Usage) and not wall
            seconds[name].append(answer.seconds if elsewhere else clock() - start)
    return seconds


def ratio(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Figure:
    """Return the median of first / second, pair by pair, with its bootstrap interval."""
    ratios = torch.tensor([a / b for a, b in zip(first, second, strict=True)], dtype=torch.float64)
    return median(ratios, seed)


def median(values: torch.Tensor, seed: int = 0) -> Figure:
    """Return the median of some numbers with its bootstrap 95% interval."""
    middle = statistics.median(values.tolist())
    if len(values) < 2:
        return Figure(middle)
    rows = resampled_rows(len(values), torch.Generator().manual_seed(seed), resamples=10_000)
    medians = values[rows].double().quantile(0.5, dim=0)
    return Figure(middle, band(medians, expanded_level(len(values))))
