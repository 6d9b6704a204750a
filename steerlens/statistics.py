"""Statistics over scores: AUC, effect size, bootstrap intervals; nothing here knows a model."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.errors import BadInputError

Interval = tuple[float, float]


def auc(
    positive: Float[Tensor, "positive *columns"], negative: Float[Tensor, "negative *columns"]
) -> Float[Tensor, "*columns"]:
    """Return the chance that a positive score exceeds a negative one, ties counted half.

    The Mann-Whitney statistic over ranks, one value a column. Cost: one sort.

    >>> auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])).item()
    0.875
    """
    scores = torch.cat([positive, negative]).double()
    ranks = _mid_ranks(scores)
    n_positive, n_negative = len(positive), len(negative)
    smallest = n_positive * (n_positive + 1) / 2
    return ((ranks[:n_positive].sum(0) - smallest) / (n_positive * n_negative)).float()


def _mid_ranks(scores: Tensor) -> Tensor:
    """Ranks from 1 along the first dimension, the mean rank where scores tie."""
    ordered = scores.movedim(0, -1).contiguous().sort(-1).values
    values = scores.movedim(0, -1).contiguous()
    below = torch.searchsorted(ordered, values, side="left")
    through = torch.searchsorted(ordered, values, side="right")
    return ((below + 1 + through).double() / 2).movedim(-1, 0)


def effect_size(
    positive: Float[Tensor, " positive"], negative: Float[Tensor, " negative"]
) -> float:
    """Return Cohen's d: the difference of the means in pooled standard deviations.

    Infinite where the sides differ and neither varies, NaN where they are one number.
    """
    spread = ((positive.var() + negative.var()) / 2).sqrt()
    return float((positive.mean() - negative.mean()) / spread)


def resampled_rows(
    count: int, generator: torch.Generator, resamples: int = 1000
) -> Int[Tensor, "count resamples"]:
    """Return the rows of bootstrap resamples of `count` items, one resample a column."""
    return torch.randint(count, (count, resamples), generator=generator)


def band(values: Float[Tensor, " n"], level: float = 0.95) -> Interval:
    """Return the central interval that holds `level` of the values.

    >>> band(torch.arange(101.0))
    (2.5..., 97.5...)
    """
    tail = (1 - level) / 2
    low, high = values.double().quantile(torch.tensor([tail, 1 - tail]).double())
    return float(low), float(high)


def mean_interval(values: Float[Tensor, " n"], *, seed: int = 0) -> tuple[float, Interval]:
    """Return the mean with its bootstrap 95% interval; for paired data, give differences.

    >>> mean, (low, high) = mean_interval(torch.arange(100.0))
    >>> low < mean < high
    True
    """
    if len(values) < 2:
        raise BadInputError(f"A bootstrap needs two items or more; there are {len(values)}.")
    generator = torch.Generator().manual_seed(seed)
    rows = resampled_rows(len(values), generator)
    return float(values.mean()), band(values[rows].mean(0))


def share_interval(count: int, total: int) -> Interval:
    """Return Wilson's 95% interval of a share, sound also at 0 and 1.

    >>> low, high = share_interval(0, 100)
    >>> low, round(high, 3)
    (0.0, 0.037)
    """
    z = 1.959964
    share, spread = count / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * ((share * (1 - share) + spread / 4) / total) ** 0.5 / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
