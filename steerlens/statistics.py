"""Statistics over scores: AUC, effect size, bootstrap intervals; nothing here knows a model."""

from __future__ import annotations

import torch
from jaxtyping import Float
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
    """Return Cohen's d: the difference of the means in pooled standard deviations."""
    spread = ((positive.var() + negative.var()) / 2).sqrt()
    return float((positive.mean() - negative.mean()) / spread.clamp_min(1e-12))


def resampled(
    values: Float[Tensor, " n"], generator: torch.Generator, resamples: int = 1000
) -> Float[Tensor, "n resamples"]:
    """Return bootstrap resamples of `values`, one a column."""
    rows = torch.randint(len(values), (len(values), resamples), generator=generator)
    return values[rows]


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
    return float(values.mean()), band(resampled(values, generator).mean(0))
