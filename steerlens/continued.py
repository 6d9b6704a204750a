"""Which text a pass goes on with: several may be under way at once, each with its KV cache.

A text is told by the object that holds its keys and values, and these are held weakly. A cache
that was never seen (a copy, or one filled before) goes on with the text whose cache stands where
it does, else with the latest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class Text:
    """A text, or a batch of them, as far as passes have come."""

    number: int
    parent: int | None = None
    """The text that it shares its beginning with."""
    tokens: Int[Tensor, "batch total"] | None = None
    """Every token id so far; -1 where a cache was filled unseen."""
    real: Bool[Tensor, "batch known"] | None = None
    """Where there are pads; None where there are none. Columns past its end are real."""
    total: int = 0
    rows: int = 0
    kept: dict[tuple[object, int], Any] = field(default_factory=dict)
    """What signals kept, each with the column at which a pass that goes on may begin."""

    def branch(self, number: int, column: int) -> Text:
        """Return another continuation of what stands before a column."""
        return replace(
            self,
            number=number,
            parent=self.number,
            tokens=None if self.tokens is None else self.tokens[:, :column],
            real=None if self.real is None else self.real[:, :column],
            total=column,
            kept={key: value for key, value in self.kept.items() if key[1] <= column},
        )


class Texts:
    """The texts under way, by their caches. Cost a pass: one look into a dictionary."""

    def __init__(self) -> None:
        """Start before the first text."""
        self.latest = Text(-1)
        """In the beginning, what a cache holds that was filled before."""
        self._begun = 0
        self._by_cache: dict[int, tuple[ref[Any], Text, int]] = {}
        """By the cache's id: the cache, its text, and the column it stands at."""

    def new(self) -> Text:
        """Begin a text; those whose cache is gone are forgotten."""
        self._by_cache = {i: each for i, each in self._by_cache.items() if each[0]() is not None}
        return Text(self._number())

    def going_on(self, cache: object, past: int) -> Text:
        """Return the text that a pass from column `past` goes on with."""
        return self.at(self._known(cache) or self._alike(past) or self.latest, past)

    def at(self, text: Text, past: int) -> Text:
        """Return the text; its branch where it has gone on beyond the column already."""
        return text.branch(self._number(), past) if 0 < past < text.total else text

    def bind(self, cache: object, text: Text) -> None:
        """Say that a cache is filled up to the end of a text."""
        known = self._by_cache.get(id(cache))
        whose = ref(cache) if known is None or known[0]() is not cache else known[0]
        self._by_cache[id(cache)] = whose, text, text.total

    def _known(self, cache: object) -> Text | None:
        whose, text, _ = self._by_cache.get(id(cache), (None, None, 0))
        return text if whose is not None and whose() is cache else None

    def _alike(self, past: int) -> Text | None:
        """The latest text whose cache stands where one that is not known does."""
        standing = (each for each in self._by_cache.values() if each[2] == past)
        alive = (text for cache, text, _ in standing if cache() is not None)
        return max(alive, key=lambda text: text.number, default=None)

    def _number(self) -> int:
        self._begun += 1
        return self._begun - 1


def appended(before: Tensor | None, tokens: Tensor | None, total: int) -> Tensor | None:
    """Return the tokens so far, ending in the new ones; -1 where a cache was filled unseen."""
    if tokens is None:
        return None
    earlier = total - tokens.shape[1]
    if earlier <= 0:
        return tokens[:, -total:]
    if before is None or len(before) != len(tokens):
        before = tokens.new_full((len(tokens), 0), -1)
    if before.shape[1] == earlier:
        return torch.cat([before, tokens], 1)
    missing = tokens.new_full((len(tokens), max(0, earlier - before.shape[1])), -1)
    return torch.cat([missing, before[:, :earlier], tokens], 1)
