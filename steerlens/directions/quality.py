"""Held-out quality of a finder at one hook point, beside two kinds of placebo.

Shuffled labels make a permutation test: found and scored on the same false labels, the AUC is
0.5 in expectation, and its band says how far chance carries a sample of this size. Random
directions, turned to the right side by the labels, say how far any direction would come.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions.direction import Quality
from steerlens.errors import BadInputError
from steerlens.statistics import (
    Interval,
    auc,
    band,
    effect_size,
    expanded_level,
    resampled_rows,
)

Finder = Callable[[Tensor, Tensor], Tensor]
"""(positive d), (negative d) -> a vector (d)."""


@dataclass(frozen=True)
class Sides:
    """Both sides' examples, flattened to vectors."""

    positive: Float[Tensor, "positive d"]
    negative: Float[Tensor, "negative d"]

    def halves(self, paired: bool, seed: int) -> tuple[Sides, Sides]:
        """Return two random halves, pairs kept together."""
        generator = torch.Generator().manual_seed(seed)
        order_p = torch.randperm(len(self.positive), generator=generator)
        order_n = order_p if paired else torch.randperm(len(self.negative), generator=generator)
        cut_p, cut_n = len(order_p) // 2, len(order_n) // 2
        return (
            Sides(self.positive[order_p[:cut_p]], self.negative[order_n[:cut_n]]),
            Sides(self.positive[order_p[cut_p:]], self.negative[order_n[cut_n:]]),
        )

    def shuffled(self, paired: bool, seed: int) -> Sides:
        """Return the sides with labels at random, within pairs where they are paired."""
        generator = torch.Generator().manual_seed(seed)
        if paired:
            swap = torch.rand(len(self.positive), 1, generator=generator) < 0.5
            return Sides(
                torch.where(swap, self.negative, self.positive),
                torch.where(swap, self.positive, self.negative),
            )
        both = torch.cat([self.positive, self.negative])
        both = both[torch.randperm(len(both), generator=generator)]
        return Sides(both[: len(self.positive)], both[len(self.positive) :])


def oriented(
    finder: Finder, positive: Float[Tensor, "positive d"], negative: Float[Tensor, "negative d"]
) -> Float[Tensor, " d"]:
    """Return the finder's vector, turned so that the positive side scores higher.

    Raises BadInputError where the finder returns anything but a finite vector (d).
    """
    vector = torch.as_tensor(finder(positive, negative)).to(positive)
    if vector.shape != positive.shape[1:] or not torch.isfinite(vector).all():
        raise BadInputError(
            f"The finder returned shape {tuple(vector.shape)}; it must return a finite vector "
            f"of shape {tuple(positive.shape[1:])}."
        )
    gap = (positive.mean(0) - negative.mean(0)) @ vector
    return -vector if gap < 0 else vector


def _found(finder: Finder, sides: Sides) -> Tensor:
    return oriented(finder, sides.positive, sides.negative)


def measure(
    finder: Finder,
    positive: Float[Tensor, "positive d"],
    negative: Float[Tensor, "negative d"],
    *,
    paired: bool,
    placebos: int,
    seed: int,
) -> Quality | None:
    """Return the held-out quality of a finder, or None with fewer than 4 items a side.

    Cost: 2 fits, and 2 more for each placebo.
    """
    sides = Sides(positive, negative)
    if min(len(positive), len(negative)) < 4:
        return None
    first, second = sides.halves(paired, seed)
    vectors = _found(finder, first), _found(finder, second)
    scores = _scores(second, vectors[0]), _scores(first, vectors[1])
    value = _mean_auc(scores)
    shuffled = torch.tensor(
        [_shuffled_auc(finder, sides, paired, seed, k) for k in range(placebos)]
    )
    random = _random_aucs(first, second, placebos, seed)
    rank = 1 + int((shuffled >= value).sum()) + int((random >= value).sum())
    return Quality(
        auc=value,
        auc_interval=_auc_interval(scores, paired, seed),
        effect_size=sum(effect_size(*half) for half in scores) / 2,
        split_half_cosine=float(torch.cosine_similarity(*vectors, dim=0)),
        shuffled_band=band(shuffled) if placebos else (0.0, 1.0),
        random_band=band(random) if placebos else (0.0, 1.0),
        rank=rank,
        placebos=placebos,
    )


Scores = tuple[Tensor, Tensor]


def _scores(sides: Sides, vector: Tensor) -> Scores:
    unit = vector / vector.norm().clamp_min(1e-12)
    return sides.positive @ unit, sides.negative @ unit


def _mean_auc(halves: tuple[Scores, Scores]) -> float:
    return sum(float(auc(*half)) for half in halves) / 2


def _shuffled_auc(finder: Finder, sides: Sides, paired: bool, seed: int, k: int) -> float:
    """AUC, on shuffled labels, of directions found with those labels: 0.5 in expectation."""
    first, second = sides.shuffled(paired, seed * 1009 + k).halves(paired, seed)
    crossed = (second, _found(finder, first)), (first, _found(finder, second))
    return _mean_auc((_scores(*crossed[0]), _scores(*crossed[1])))


def _random_aucs(first: Sides, second: Sides, placebos: int, seed: int) -> Tensor:
    """AUC of random directions, each turned by one half and scored on the other."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(first.positive.shape[1], placebos, generator=generator)
    gaps = [(half.positive.mean(0) - half.negative.mean(0)) @ vectors for half in (first, second)]
    values = [auc(half.positive @ vectors, half.negative @ vectors) for half in (second, first)]
    turned = [torch.where(g < 0, 1 - v, v) for g, v in zip(gaps, values, strict=True)]
    return (turned[0] + turned[1]) / 2


def _auc_interval(halves: tuple[Scores, Scores], paired: bool, seed: int) -> Interval:
    """Resample the items of each half: pairs where they are paired, else each side."""
    generator = torch.Generator().manual_seed(seed)
    values = []
    for positive, negative in halves:
        rows = resampled_rows(len(positive), generator)
        others = rows if paired else resampled_rows(len(negative), generator)
        values.append(auc(positive[rows], negative[others]))
    fewest = min(sum(len(half[side]) for half in halves) for side in (0, 1))
    return band((values[0] + values[1]) / 2, expanded_level(fewest))
