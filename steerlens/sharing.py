"""Texts that begin alike: what runs once for several of them, and what then runs for each.

A plan is pure: stretches of tokens, a pass each, that fork where texts part. `passes.bare` says
where it may be carried out: a hook of somebody else's may look at a whole text, so where there is
one every text runs whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from math import inf
from typing import Any

import torch

from steerlens.host import Host, device_of
from steerlens.passes import bare
from steerlens.prefixes import (
    can_share,
    empty_cache,
    forked,
    going_on,
    keeping_nothing,
    pass_tokens,
)
from steerlens.text import Batch, Encoded, pad

STEP = 8
"""Texts part at multiples of so many tokens, so that many part at the same one."""
Row = tuple[int, tuple[int, ...]]
"""The row of the earlier stretch that it goes on from, and the texts it stands for."""


@dataclass(frozen=True)
class Stretch:
    """One pass: rows of tokens from one column on, after what an earlier stretch has computed."""

    start: int
    stop: int | None
    """The column where all rows fork; None where each runs to its text's end."""
    parents: tuple[int, ...]
    """The row of the earlier stretch that each row goes on from."""
    rows: tuple[tuple[int, ...], ...]
    """The numbers of the texts that each row stands for."""
    then: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Planner:
    """Finds what texts share, where computing it once is cheaper."""

    texts: Sequence[tuple[int, ...]]
    free: Sequence[int]
    """How many of each text's first tokens may run apart from the rest: nobody reads there."""
    room: int
    """At most so many columns times rows in a pass."""
    dear: float
    """How many tokens a pass costs by itself."""

    def stretches(self) -> list[Stretch]:
        """Return the plan for all texts."""
        return self._after([range(len(self.texts))], 0)

    def whole(self, sets: Sequence[int]) -> list[Stretch]:
        """Return the plan that shares nothing: like lengths together, texts in their order.

        Texts of one set, of which there are so many, never run with those of another, so that
        values a row of a steering stay with their items.
        """
        ends = list(accumulate(sets))
        numbers = [range(end - size, end) for end, size in zip(ends, sets, strict=True)]
        return [each for part in numbers for each in self._last([(0, (n,)) for n in part], 0, inf)]

    def _after(self, rows: Sequence[Sequence[int]], start: int) -> list[Stretch]:
        """Return what runs after rows that end at a column, each with the texts it stands for."""
        forks, last = self._forks(rows, start)
        found: list[Stretch] = []
        for stop, here in sorted(forks.items()):
            size = max(1, self.room // stop)
            for part in (here[i : i + size] for i in range(0, len(here), size)):
                parents, numbers = zip(*part, strict=True)
                then = tuple(self._after(numbers, stop))
                found.append(Stretch(start, stop, parents, numbers, then))
        return [*found, *self._last(self._merged(last), start, max(0, self.dear))]

    def _forks(
        self, rows: Sequence[Sequence[int]], start: int
    ) -> tuple[dict[int, list[Row]], list[Row]]:
        """Return the rows that fork later, by where, and those that run to their end."""
        forks: dict[int, list[Row]] = {}
        last: list[Row] = []
        for parent, numbers in enumerate(rows):
            for alike in self._alike(numbers, start):
                stop = self._parting(alike, start)
                (forks.setdefault(stop, []) if stop > start else last).append((parent, alike))
        for stop in sorted(forks, reverse=True):
            earlier = max((other for other in forks if other < stop), default=start)
            saved = (stop - earlier) * sum(len(alike) - 1 for _, alike in forks[stop])
            if saved > 2 * self.dear:  # one pass more before the fork, and one after it
                continue
            here = forks.pop(stop)
            if earlier > start:
                forks[earlier] += here
            else:
                last += [(parent, (number,)) for parent, alike in here for number in alike]
        return forks, last

    def _merged(self, rows: Sequence[Row]) -> list[Row]:
        """Return rows of the same tokens as one row."""
        same: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for parent, numbers in rows:
            same.setdefault((parent, self.texts[numbers[0]]), []).extend(numbers)
        return [(parent, tuple(numbers)) for (parent, _), numbers in same.items()]

    def _alike(self, numbers: Sequence[int], start: int) -> Iterator[tuple[int, ...]]:
        """Yield texts whose next step is the same, and may be shared; the rest one by one."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for number in numbers:
            block = self._block(number, start)
            if block is None:
                yield (number,)
            else:
                groups.setdefault(block, []).append(number)
        yield from map(tuple, groups.values())

    def _block(self, number: int, start: int) -> tuple[int, ...] | None:
        stop = start + STEP
        return self.texts[number][start:stop] if stop <= self.free[number] else None

    def _parting(self, alike: Sequence[int], start: int) -> int:
        """Return the column up to which texts go on alike; `start` where they are the same."""
        stop = start
        if len({self.texts[number] for number in alike}) == 1:
            return start
        while len(blocks := {self._block(number, stop) for number in alike}) == 1:
            if None in blocks:
                break
            stop += STEP
        return stop

    def _last(self, rows: Sequence[Row], start: int, waste: float) -> Iterator[Stretch]:
        """Yield rows that run to their end, like lengths together, with so much padding a pass."""
        order = sorted(rows, key=self._length, reverse=True)
        while order:
            longest = self._length(order[0])
            padding = accumulate(longest - self._length(row) for row in order)
            fit = sum(1 for _ in takewhile(lambda total: total <= waste, padding))
            size = max(1, min(fit, self.room // longest))
            taken, order = sorted(order[:size], key=lambda row: row[1]), order[size:]
            parents, numbers = zip(*taken, strict=True)
            yield Stretch(start, None, parents, numbers)

    def _length(self, row: Row) -> int:
        return len(self.texts[row[1][0]])


def planned(
    model: Host, sets: Sequence[Sequence[Encoded]], free: Sequence[int], room: int
) -> list[Stretch]:
    """Return how to run sets of texts: what they share once, where that is possible and cheaper."""
    tokens = [text.tokens for texts in sets for text in texts]
    planner = Planner(tokens, free, room, pass_tokens(model))
    return (
        planner.stretches()
        if can_share(model) and bare(model)
        else planner.whole([*map(len, sets)])
    )


Run = Callable[[Stretch, Batch, dict[str, Any]], None]
"""Runs one stretch: its tokens, and the options that make the model go on from a cache."""


def carry_out(
    model: Host, texts: Sequence[Encoded], stretches: Sequence[Stretch], run: Run, past: Any = None
) -> None:
    """Run every stretch after the one that it goes on from. Memory: the caches of one line."""
    for each in stretches:
        batch = _batch(model, texts, each)
        here = None
        if past is not None:
            here = forked(past, torch.tensor(each.parents, device=batch.tokens.device))
        elif each.then:
            here = empty_cache(model, len(each.rows))
        onwards = keeping_nothing(model) if here is None else going_on(model, batch.tokens, here)
        run(each, batch, onwards)
        carry_out(model, texts, each.then, run, here)


def _batch(model: Host, texts: Sequence[Encoded], stretch: Stretch) -> Batch:
    """Return a stretch's tokens, padded on the right; prompt lengths are counted from its start."""
    parts = []
    for numbers in stretch.rows:
        text = texts[numbers[0]]
        tokens = text.tokens[stretch.start : stretch.stop]
        parts.append(Encoded(tokens, text.prompt_length - stretch.start))
    return pad(model, parts, device_of(model))
