"""Statistics over scores: AUC, effect size, bootstrap intervals; nothing here knows a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.errors import BadInputError

Interval = tuple[float, float]


def auc(
    positive: Float[Tensor, "positive *columns"], negative: Float[Tensor, "negative *columns"]
) -> Float[Tensor, "*columns"]:
    """Return the chance that a positive score exceeds a negative one, ties counted half.

    The Mann-Whitney statistic over ranks, one value a column. Raises BadInputError on NaN, which
    has no rank. Cost: one sort.

    >>> auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])).item()
    0.875
    """
    scores = torch.cat([positive, negative])
    if bool(scores.isnan().any()):
        raise BadInputError(
            f"{int(scores.isnan().sum())} of {scores.numel()} scores are NaN: they have no rank, "
            "and so no AUC. Look for a model or a steering that overflows."
        )
    from scipy.stats import rankdata

    ranks = torch.from_numpy(rankdata(scores.cpu().double().numpy(), axis=0)).to(scores.device)
    n_positive, n_negative = len(positive), len(negative)
    smallest = n_positive * (n_positive + 1) / 2
    return ((ranks[:n_positive].sum(0) - smallest) / (n_positive * n_negative)).float()


def effect_size(
    positive: Float[Tensor, " positive"], negative: Float[Tensor, " negative"]
) -> float:
    """Return Cohen's d: the difference of the means, over the root of the sides' mean variance.

    Infinite where the sides differ and neither varies, NaN where they are one number.

    >>> effect_size(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 3.0]))
    1.41...
    """
    spread = ((positive.var() + negative.var()) / 2).sqrt()
    return float((positive.mean() - negative.mean()) / spread)


def largest(values: Float[Tensor, "row column"], n: int) -> list[tuple[int, int]]:
    """Return the places of the `n` largest values, whatever their sign, the largest first.

    >>> largest(torch.tensor([[1.0, -3.0], [2.0, 0.0]]), 2)
    [(0, 1), (1, 0)]
    """
    order = values.abs().flatten().argsort(descending=True, stable=True)[:n].tolist()
    return [divmod(i, values.shape[1]) for i in order]


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


def expanded_level(count: int) -> float:
    """Return the share of bootstrap means to keep for a 95% interval from `count` items.

    Resamples of a small sample vary too little, by n / (n - 1) and as a normal does beside
    Student's t; so a little more than 95% of them is kept (Hesterberg, 2015, expanded percentile
    interval).

    >>> round(expanded_level(20), 3), round(expanded_level(10_000), 3)
    (0.968, 0.95)
    """
    from scipy.stats import t

    return erf(float(t.ppf(0.975, max(1, count - 1))) * _inflation(count) / 2**0.5)


def expanded_p(values: Float[Tensor, " resample"], count: int) -> float:
    """Return the two-sided p-value of 0 among bootstrap means of `count` items.

    Twice the smaller share on either side of 0, by the correction of `expanded_level`: below 0.05
    where that interval leaves out 0, up to the chance of one resample.

    >>> expanded_p(torch.arange(-10.0, 990.0), 20)
    0.04...
    """
    from scipy.stats import norm, t

    least = 1 + int(min((values <= 0).sum(), (values >= 0).sum()))
    tail = min(0.5, least / (len(values) + 1))
    return float(min(1.0, 2 * t.sf(norm.isf(tail) / _inflation(count), max(1, count - 1))))


def _inflation(count: int) -> float:
    """How much wider a mean of so many spreads than means of resamples do."""
    return float((count / max(1, count - 1)) ** 0.5)


def mean_interval(values: Float[Tensor, " n"], *, seed: int = 0) -> tuple[float, Interval]:
    """Return the mean with its bootstrap 95% interval; for paired data, give differences.

    Widened for few values, as Student's t is (`expanded_level`).

    >>> mean, (low, high) = mean_interval(torch.arange(100.0))
    >>> low < mean < high
    True
    """
    if len(values) < 2:
        raise BadInputError(f"A bootstrap needs two items or more; there are {len(values)}.")
    rows = resampled_rows(len(values), torch.Generator().manual_seed(seed))
    return float(values.mean()), band(values[rows].mean(0), expanded_level(len(values)))


def share_interval(count: int, total: int) -> Interval:
    """Return Wilson's 95% interval of a share, sound also at 0 and 1.

    >>> low, high = share_interval(0, 100)
    >>> low, round(high, 3)
    (0.0, 0.037)
    """
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(method="wilson")
    return float(low), float(high)


def ratio_interval(over: Float[Tensor, " n"], under: Tensor) -> Interval:
    """Return the bootstrap 95% interval of a ratio of sums; NaN of a single item.

    >>> ratio_interval(torch.ones(9), torch.full((9,), 2.0))
    (0.5, 0.5)
    """
    if len(over) < 2:
        return torch.nan, torch.nan
    return band(resampled_ratios(over, under), expanded_level(len(over)))


def resampled_ratios(
    over: Float[Tensor, " n"], under: Tensor, *, seed: int = 0
) -> Float[Tensor, " resample"]:
    """Return the ratios of sums over bootstrap resamples, both of the same items."""
    rows = resampled_rows(len(over), torch.Generator().manual_seed(seed))
    return over[rows].sum(0) / under[rows].sum(0)


@dataclass(frozen=True)
class Difference:
    """How far one method's mean lies above another's on the same items, and how sure that is."""

    mean: float
    interval: Interval
    """95% over items, by bootstrap; with several seeds Student's, over both."""
    p: float
    """Two-sided: below 0.05 where the interval leaves out 0, up to the chance of one resample."""
    items: int
    seeds: int


def paired_difference(
    first: Float[Tensor, "*seed item"],
    second: Float[Tensor, "..."],
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> Difference:
    """Return by how much the first mean exceeds the second, with interval and p-value.

    Scores of the same items, (item) or (seed, item): each seed's run scores all items. With one
    seed, items are resampled, each score with its partner, and interval and p-value are widened as
    Student's t is (`expanded_level`, `expanded_p`). Of a few seeds resamples tell too little: with
    several, both are Student's, of the variance between seeds and that between items, as sure as
    Satterthwaite (1946) has them together; two seeds that disagree make nothing sure. Raises
    BadInputError on unlike shapes, fewer than two items, or scores that are not finite.

    >>> found = paired_difference(torch.arange(20.0) + 1, torch.arange(20.0))
    >>> found.mean, round(found.interval[0], 6), found.p < 0.01
    (1.0, 1.0, True)
    """
    if first.shape != second.shape or first.ndim not in (1, 2) or first.shape[-1] < 2:
        raise BadInputError(
            f"A paired difference needs two scores of the same items, two or more, as (item) or "
            f"(seed, item); got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    gaps = (first.double() - second.double()).reshape(-1, first.shape[-1])
    if not bool(gaps.isfinite().all()):
        raise BadInputError(
            f"{int((~gaps.isfinite()).sum())} of {gaps.numel()} paired scores are not finite (NaN "
            "or infinity): nothing can be said of their mean."
        )
    found = _students(gaps) if len(gaps) > 1 else _resampled(gaps[0], seed, resamples)
    return Difference(float(gaps.mean()), *found, gaps.shape[1], gaps.shape[0])


def _resampled(gaps: Float[Tensor, " item"], seed: int, resamples: int) -> tuple[Interval, float]:
    """The bootstrap's interval and p-value of a mean."""
    rows = resampled_rows(len(gaps), torch.Generator().manual_seed(seed), resamples)
    means = gaps[rows].mean(0)
    return band(means, expanded_level(len(gaps))), expanded_p(means, len(gaps))


def _students(gaps: Float[Tensor, "seed item"]) -> tuple[Interval, float]:
    """Student's interval and p-value of a mean over seeds and items.

    Where seeds are what differs, the interval holds the truth 95% of the time with five, 93% with
    three, and 87% with two, which may agree by chance (1,000 draws each).
    """
    parts = [(float(gaps.mean(1 - axis).var()) / n, n - 1) for axis, n in enumerate(gaps.shape)]
    return students(float(gaps.mean()), parts)


def students(mean: float, parts: Sequence[tuple[float, int]]) -> tuple[Interval, float]:
    """Return Student's 95% interval and two-sided p-value of a mean.

    - `parts`: variances of the mean that add up, such as that between seeds and that between items,
      each with the degrees of freedom that it is known with.

    Together they are as sure as Satterthwaite (1946) has them.

    >>> (low, high), p = students(1.0, [(0.25, 4)])
    >>> round(low, 3), round(high, 3), round(p, 3)
    (-0.388, 2.388, 0.116)
    """
    from scipy.stats import t

    total = sum(variance for variance, _ in parts)
    if total == 0:
        return (mean, mean), float(mean == 0)
    freedom = total**2 / sum(variance**2 / free for variance, free in parts)
    half = float(t.ppf(0.975, freedom)) * total**0.5
    return (mean - half, mean + half), float(2 * t.sf(abs(mean) / total**0.5, freedom))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values corrected for being several, in the order given (Holm, 1979).

    What stays below 0.05 is significant with a chance of 0.05 that any of them is so wrongly. The
    smallest is multiplied by their number, the next by one less, and so on; none falls below a
    smaller one's. Raises BadInputError outside 0 to 1.

    >>> holm([0.01, 0.5, 0.02])
    (0.03, 0.5, 0.04)
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise BadInputError(f"p-values lie between 0 and 1; got {list(p_values)}.")
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[i]))
        corrected[i] = highest
    return tuple(corrected)


@dataclass(frozen=True)
class Rank:
    """Where a value stands among placebos' values."""

    rank: int
    """1 if it is above every placebo's; a tie counts for the placebo."""
    placebos: int
    band: Interval
    """The placebos' central 95%."""

    @property
    def p(self) -> float:
        """The chance of such a rank, or a better one, were the value a placebo's itself."""
        return self.rank / (self.placebos + 1)


def rank_among(value: float, placebos: Float[Tensor, " placebo"]) -> Rank:
    """Return the rank of a value among placebos'. Raises BadInputError without any, or on NaN.

    >>> rank_among(0.9, torch.tensor([0.4, 0.5, 0.95]))
    Rank(rank=2, placebos=3, band=(0.40..., 0.92...))
    """
    if len(placebos) == 0:
        raise BadInputError("There are no placebos to rank among. Give one or more.")
    if value != value or bool(placebos.isnan().any()):
        raise BadInputError("A value or a placebo's is NaN: there is no rank.")
    return Rank(1 + int((placebos >= value).sum()), len(placebos), band(placebos))
