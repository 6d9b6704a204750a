"""How well one component's activation tells the sides apart on items left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.directions.probe import fitted

FOLDS = 5
FEWEST = 4
"""Items a side below which nothing is left out, and the accuracy is not a number."""
Folds = tuple[Int[Tensor, " positive"], Int[Tensor, " negative"]]
"""The fold of each item, a side."""
Score = Callable[[Tensor], Tensor]
"""Above 0 where an example is told to be positive."""


def folds(positive: int, negative: int, *, paired: bool, seed: int) -> Folds | None:
    """Return random folds, pairs kept together; None with fewer than 4 items a side.

    >>> first, second = folds(6, 6, paired=True, seed=0)
    >>> bool((first == second).all()), sorted(set(first.tolist()))
    (True, [0, 1, 2, 3, 4])
    """
    if min(positive, negative) < FEWEST:
        return None
    generator = torch.Generator().manual_seed(seed)
    number = min(FOLDS, positive, negative)
    first = torch.randperm(positive, generator=generator) % number
    if paired:
        return first, first
    return first, torch.randperm(negative, generator=generator) % number


def head_accuracy(
    positive: Float[Tensor, "positive head d_head"],
    negative: Float[Tensor, "negative head d_head"],
    parts: Folds | None,
) -> Float[Tensor, " head"]:
    """Return the held-out accuracy of a logistic probe on each head's z (ITI, arXiv 2306.03341).

    The mean of both sides' shares told right: chance is 0.5 whatever their sizes. Entries are
    centred each and scaled together, so that the probe does not depend on the basis inside the
    head. Cost: a fit a head and fold.
    """
    heads = range(positive.shape[1])
    if parts is None:
        return torch.full((len(heads),), torch.nan)
    each = [_told_right(positive[:, head], negative[:, head], parts, _probe) for head in heads]
    return torch.stack(each)


def neuron_accuracy(
    positive: Float[Tensor, "positive neuron"],
    negative: Float[Tensor, "negative neuron"],
    parts: Folds | None,
) -> Float[Tensor, " neuron"]:
    """Return the held-out accuracy of a threshold on each neuron, halfway between the means.

    As for heads, the mean of both sides' shares told right; a tie counts half.
    """
    if parts is None:
        return torch.full((positive.shape[1],), torch.nan)
    return _told_right(positive, negative, parts, _threshold)


def _told_right(
    positive: Float[Tensor, "positive *unit"],
    negative: Float[Tensor, "negative *unit"],
    parts: Folds,
    fit: Callable[[Tensor, Tensor], Score],
) -> Float[Tensor, "..."]:
    """The mean of both sides' shares told right by the sign of a score fitted without them."""
    right: tuple[list[Tensor], list[Tensor]] = [], []
    for fold in range(int(torch.cat(parts).max()) + 1):
        out, other_out = (part == fold for part in parts)
        score = fit(positive[~out], negative[~other_out])
        right[0].append(score(positive[out]).sign())
        right[1].append(-score(negative[other_out]).sign())
    shares = [(torch.cat(signs) / 2 + 0.5).mean(0) for signs in right]
    return (shares[0] + shares[1]) / 2


def _probe(positive: Float[Tensor, "p d_head"], negative: Float[Tensor, "n d_head"]) -> Score:
    weights, bias = fitted(positive, negative, "balanced")
    return lambda x: x @ weights + bias


def _threshold(positive: Float[Tensor, "p neuron"], negative: Float[Tensor, "n neuron"]) -> Score:
    up, down = positive.mean(0), negative.mean(0)
    return lambda x: (x - (up + down) / 2) * (up - down)
