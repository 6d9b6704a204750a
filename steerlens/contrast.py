"""Contrast: the two sides whose difference is the concept."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from steerlens.cards import card, count
from steerlens.errors import BadInputError, warn
from steerlens.records import records
from steerlens.text import Encoded, Item, listed

_FIELDS = (
    ("positive", "negative"),
    ("prompt", "positive_response", "negative_response"),
    ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
)


@dataclass(frozen=True, init=False)
class Contrast:
    """A positive and a negative side: the concept is what tells them apart.

    Items are texts, token ids, chat messages or (prompt, completion) tuples. With `paired`
    (the default when both sides are equally long) item i of one side belongs to item i of
    the other: splits and shuffles keep pairs together. Raises BadInputError on an empty side, and
    on pairs that do not match up.

    >>> contrast = Contrast(positive=["good", "fine"], negative=["bad", "awful"])
    >>> contrast
    Contrast(2 pairs)
    >>> fit, rest = contrast.split(0.5, seed=0)
    """

    positive: tuple[Item, ...]
    negative: tuple[Item, ...]
    paired: bool

    def __init__(
        self, positive: Iterable[Item], negative: Iterable[Item], *, paired: bool | None = None
    ) -> None:
        """Raise BadInputError on an empty side, or pairs that do not match up."""
        for side, items in (("positive", positive), ("negative", negative)):
            object.__setattr__(self, side, listed(items, f"The {side} side is"))
        alike = len(self.positive) == len(self.negative)
        if paired and not alike:
            raise BadInputError(
                f"Pairs need sides of one length; there are {len(self.positive)} positive and "
                f"{len(self.negative)} negative items. Use paired=False for unpaired sides."
            )
        object.__setattr__(self, "paired", alike if paired is None else paired)

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[Item, Item]]) -> Contrast:
        """Make a paired contrast from (positive, negative) pairs, or raise BadInputError."""
        listed = list(pairs)
        wrong = next((p for p in listed if isinstance(p, str | Mapping) or len(p) != 2), None)
        if wrong is not None:
            raise BadInputError(
                f"Pairs are (positive, negative); got {str(wrong)[:60]!r}. Records of a JSONL file "
                "become pairs by Contrast.from_jsonl(path)."
            )
        return cls([pair[0] for pair in listed], [pair[1] for pair in listed], paired=True)

    @classmethod
    def from_jsonl(cls, path: str | Path) -> Contrast:
        """Read pairs from a JSONL file, one object a line.

        Understood are `positive, negative`; `prompt, positive_response, negative_response`;
        and `question, answer_matching_behavior, answer_not_matching_behavior`. Raises
        BadInputError with the line's number where a line is none of these.
        """
        pairs = [_pair(record, where) for where, record in records(path)]
        if not pairs:
            raise BadInputError(f"{path} is empty; a contrast needs a pair or more.")
        return cls.from_pairs(pairs)

    def __len__(self) -> int:
        """Return the number of items of the longer side."""
        return max(len(self.positive), len(self.negative))

    def split(self, share: float, *, seed: int = 0) -> tuple[Contrast, Contrast]:
        """Return (first, rest), `share` of the items at random in the first."""
        if not 0 < share < 1:
            raise BadInputError(f"A split's share lies between 0 and 1; got {share}.")
        order_p = _order(len(self.positive), seed)
        order_n = order_p if self.paired else _order(len(self.negative), seed + 1)
        cut_p, cut_n = round(share * len(order_p)), round(share * len(order_n))
        if not (0 < cut_p < len(order_p) and 0 < cut_n < len(order_n)):
            raise BadInputError(
                f"{self!r} is too small to split off a share of {share}. Give more items, or a "
                "share nearer to a half."
            )
        return (
            self._taken(order_p[:cut_p], order_n[:cut_n]),
            self._taken(order_p[cut_p:], order_n[cut_n:]),
        )

    def shuffled(self, seed: int) -> Contrast:
        """Return a placebo: labels at random, within pairs where the contrast is paired."""
        rng = random.Random(seed)
        if self.paired:
            pairs = zip(self.positive, self.negative, strict=True)
            return Contrast.from_pairs(p if rng.random() < 0.5 else p[::-1] for p in pairs)
        items = [*self.positive, *self.negative]
        rng.shuffle(items)
        cut = len(self.positive)
        return Contrast(items[:cut], items[cut:], paired=False)

    @property
    def counted(self) -> str:
        """What it holds, in words: "64 pairs"."""
        if self.paired:
            return count(len(self), "pair")
        return f"{len(self.positive)} positive, {len(self.negative)} negative, unpaired"

    @cached_property
    def digest(self) -> str:
        """The sha256 of the items, for provenance."""
        return digest(self.positive, self.negative)

    def _taken(self, positive: list[int], negative: list[int]) -> Contrast:
        return Contrast(
            [self.positive[i] for i in positive],
            [self.negative[i] for i in negative],
            paired=self.paired,
        )

    def __repr__(self) -> str:
        """Return the size: `Contrast(64 pairs)`."""
        return f"Contrast({self.counted})"

    def _repr_html_(self) -> str:
        sides = {"positive": repr(self.positive[0]), "negative": repr(self.negative[0])}
        return card(repr(self), {f"first {side}": text[:200] for side, text in sides.items()})


def check_contrast(value: object, use: str) -> None:
    """Raise BadInputError on anything but a contrast; `use` is what one is wanted for."""
    if not isinstance(value, Contrast):
        raise BadInputError(
            f"{use} a Contrast; got {type(value).__name__}. Make one: "
            "Contrast(positive=[...], negative=[...]) or Contrast.from_pairs(pairs)."
        )


def warn_of_repeats(*sides: Sequence[Item]) -> None:
    """Warn where items stand twice: what is left out may then be what was fitted on."""
    texts = [[json.dumps(_plain(each)) for each in side] for side in sides]
    twice = sum(len(side) - len(set(side)) for side in texts)
    if twice:
        warn(
            f"{twice} of {count(sum(map(len, texts)), 'item')} repeat another of their side, so "
            "that what is left out may be what was fitted on, and figures on items left out look "
            "better than they are. Give each item once."
        )


def _order(length: int, seed: int) -> list[int]:
    order = list(range(length))
    random.Random(seed).shuffle(order)
    return order


def digest(*groups: object) -> str:
    """Return the sha256 of groups of items, their order included, for provenance.

    >>> digest(["good"], ["bad"])[:12] == sl.Contrast(["good"], ["bad"]).digest[:12]
    True
    """
    return sha256(json.dumps([_plain(each) for each in groups]).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Encoded):
        return [list(value.tokens), value.prompt_length]
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


def _pair(record: Any, where: str) -> tuple[Item, Item]:
    for fields in _FIELDS:
        if isinstance(record, dict) and all(isinstance(record.get(f), str) for f in fields):
            *prompt, positive, negative = (record[field] for field in fields)
            if not prompt:
                return positive, negative
            return (prompt[0], _spaced(positive)), (prompt[0], _spaced(negative))
    known = "; or ".join(", ".join(fields) for fields in _FIELDS)
    raise BadInputError(f"{where} holds none of the known sets of text fields: {known}.")


def _spaced(completion: str) -> str:
    return completion if completion[:1].isspace() else " " + completion
