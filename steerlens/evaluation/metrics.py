"""Metrics: pure functions over tensors and texts, of what a steering gains and what it costs."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.statistics import Interval, mean_interval

Words = str | Sequence[int] | Sequence[str]
"""A text, cut at its spaces, or the words or token ids of one."""


@dataclass(frozen=True)
class Divergence:
    """KL(base || steered) over tokens, in nats."""

    mean: float
    p95: float
    """The 95th percentile: what one token in twenty exceeds."""


@dataclass(frozen=True, eq=False)
class Steerability:
    """How propensity answers to the coefficient, item by item."""

    slopes: Float[Tensor, " item"]
    """Least-squares slope of each item's propensity on the coefficient."""

    @property
    def slope(self) -> float:
        """The mean slope: the steerability of the whole set."""
        return float(self.slopes.mean())

    @property
    def variance(self) -> float:
        """The variance of slopes over items (unbiased); NaN with one item."""
        return float(self.slopes.var()) if len(self.slopes) > 1 else float("nan")

    @property
    def anti_steerable(self) -> float:
        """The share of items that steering moves the wrong way: of negative slope."""
        return float((self.slopes < 0).float().mean())


def kl(
    base: Float[Tensor, "*token vocab"], steered: Float[Tensor, "*token vocab"]
) -> Float[Tensor, "*token"]:
    """Return KL(base || steered) in nats of each token's distributions, given as log-probabilities.

    >>> halves, sure = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.75, 0.25]).log()
    >>> kl(halves, sure), kl(halves, halves)
    (tensor(0.1438), tensor(0.))
    """
    nats = base.exp() * (base - steered)
    return torch.where(base == -math.inf, 0, nats).sum(-1).clamp_min(0)


def kl_summary(
    nats: Float[Tensor, " _token"] | Sequence[Float[Tensor, " _token"]],
) -> Divergence:
    """Return the mean and the 95th percentile a token, every token weighing the same.

    Takes nats a token, or a list of these, item by item. Raises BadInputError without a token.

    >>> kl_summary([torch.zeros(10), torch.full((10,), 1.0)])
    Divergence(mean=0.5, p95=1.0)
    """
    every = nats if isinstance(nats, Tensor) else torch.cat(list(nats) or [torch.zeros(0)])
    if every.numel() == 0:
        raise BadInputError("There are no tokens to take a mean KL over. Give one or more.")
    wide = every.double()
    return Divergence(float(wide.mean()), float(quantile(wide, 0.95)))


def quantile(values: Float[Tensor, "n *unit"], share: float) -> Float[Tensor, "*unit"]:
    """Return a quantile of each entry, interpolated; 0 is the smallest value, 1 the largest.

    `torch.quantile` refuses more than 16 million numbers.
    """
    ordered: Tensor = values.sort(0).values
    place = share * (len(values) - 1)
    below = min(int(place), max(0, len(values) - 2))
    return torch.lerp(ordered[below], ordered[min(below + 1, len(values) - 1)], place - below)


def perplexity_ratio(base: Float[Tensor, " item"], steered: Float[Tensor, " item"]) -> float:
    """Return steered over base perplexity, from mean log-probabilities a token of the same items.

    1 where the steering costs nothing, above where text has become less likely.

    >>> perplexity_ratio(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -2.0]) - 0.6931472)
    2.0...
    """
    return float((base - steered).double().mean().exp())


def entropy(log_probs: Float[Tensor, "*token vocab"]) -> Float[Tensor, "*token"]:
    """Return the entropy of next-token distributions in nats, from log-probabilities or logits.

    Low where the model repeats itself, high where it has lost the thread.

    >>> entropy(torch.zeros(4))
    tensor(1.3863)
    """
    nats: Tensor = torch.special.entr(log_probs.softmax(-1))
    return nats.sum(-1)


def distinct(texts: Sequence[Words], n: int = 2) -> float:
    """Return distinct-n: different n-grams over all n-grams, of all texts together.

    NaN where no text is n words long. Source: distinct-1 and -2 of arXiv 1510.03055.

    >>> distinct(["a cat a cat", "a dog"])
    0.75
    """
    found = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(found)) / len(found) if found else float("nan")


def repetition(texts: Sequence[Words], n: int = 4) -> Float[Tensor, " text"]:
    """Return the share of each text's n-grams that stood in it before; 0 where it is shorter.

    Source: seq-rep-n of arXiv 1908.04319.

    >>> repetition(["so it goes", "so it goes so it goes so it goes"], n=2)
    tensor([0.0000, 0.6250])
    """
    return torch.tensor([_repeated(_ngrams(text, n)) for text in texts])


def compression_ratio(texts: Sequence[str]) -> Float[Tensor, " text"]:
    """Return how many times smaller zlib makes each text's bytes: high where it repeats itself.

    Short texts lie below 1, as zlib adds some bytes, so compare texts of like length; an empty one
    gives 1. Source: compression as a measure of repetition, arXiv 2403.00553.

    >>> plain, looping = compression_ratio(["a day in the park with a dog", "a day " * 5])
    >>> bool(plain < 1.1), bool(looping > 1.5)
    (True, True)
    """
    raw = [text.encode() for text in texts]
    return torch.tensor([len(each) / len(zlib.compress(each, 9)) if each else 1.0 for each in raw])


def accuracy_delta(
    base: Float[Tensor, " base"] | Bool[Tensor, " base"],
    steered: Float[Tensor, " steered"] | Bool[Tensor, " steered"],
    *,
    seed: int = 0,
) -> tuple[float, Interval]:
    """Return steered minus base accuracy on the same items, with its paired bootstrap interval.

    Raises BadInputError where the items are not the same number, or fewer than two.

    >>> accuracy_delta(torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 1.0]))[0]
    0.5
    """
    if len(base) != len(steered):
        raise BadInputError(
            f"Base scores are of {len(base)} items and steered ones of {len(steered)}; a paired "
            "difference needs the same items."
        )
    return mean_interval(steered.float() - base.float(), seed=seed)


def steerability(propensity: Float[Tensor, "coeff item"], coeffs: Sequence[float]) -> Steerability:
    """Return how each item's propensity answers to the coefficient: slopes by least squares.

    Raises BadInputError where coefficients are not one a row, or all the same. Source: arXiv
    2407.12404.

    >>> found = steerability(torch.tensor([[0.0, 1.0], [2.0, 0.0], [4.0, -1.0]]), [-1, 0, 1])
    >>> found.slopes, found.slope, found.anti_steerable
    (tensor([ 2., -1.]), 0.5, 0.5)
    """
    if len(coeffs) != len(propensity):
        raise BadInputError(
            f"{len(coeffs)} coefficients do not fit {len(propensity)} rows of propensities. Give "
            "a row for each."
        )
    if len(set(coeffs)) < 2:
        raise BadInputError("A slope needs two coefficients that differ. Score at one more.")
    x = torch.tensor([float(each) for each in coeffs], dtype=torch.float64)
    x = (x - x.mean())[:, None]
    y = propensity.double().cpu()
    return Steerability(((x * (y - y.mean(0))).sum(0) / x.square().sum()).float())


def _ngrams(text: Words, n: int) -> list[tuple[int | str, ...]]:
    if n < 1:
        raise BadInputError(f"An n-gram has a word or more; got n={n}.")
    words: Sequence[int | str] = text.split() if isinstance(text, str) else list(text)
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _repeated(ngrams: list[tuple[int | str, ...]]) -> float:
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
