"""How well one component's activation tells the sides apart on items left out."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

FOLDS = 5
FEWEST = 4
"""Items a side below which nothing is left out, and the accuracy is not a number."""
Folds = tuple[Int[Tensor, " positive"], Int[Tensor, " negative"]]
"""The fold of each item, a side."""


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
    return torch.tensor([_probed(positive[:, head], negative[:, head], parts) for head in heads])


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
    right = [torch.zeros(positive.shape[1]), torch.zeros(positive.shape[1])]
    for fold in range(int(parts[0].max()) + 1):
        out = [part == fold for part in parts]
        up, down = positive[~out[0]].mean(0), negative[~out[1]].mean(0)
        for side, (x, sign) in enumerate(((positive, 1), (negative, -1))):
            told = sign * ((x[out[side]] - (up + down) / 2) * (up - down)).sign()
            right[side] += ((told + 1) / 2).sum(0)
    return (right[0] / len(positive) + right[1] / len(negative)) / 2


def _probed(
    positive: Float[Tensor, "positive d_head"],
    negative: Float[Tensor, "negative d_head"],
    parts: Folds,
) -> float:
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([positive, negative])
    label = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))])
    fold, right = torch.cat(parts), torch.zeros(len(x))
    for each in range(int(fold.max()) + 1):
        out = fold == each
        centre = x[~out].mean(0)
        scale = (x[~out] - centre).std().clamp_min(1e-12)
        scaled = (x - centre) / scale
        probe = LogisticRegression(C=1.0, max_iter=1000, class_weight="balanced")
        probe.fit(scaled[~out].numpy(), label[~out].numpy())
        told = torch.from_numpy(probe.predict(scaled[out].numpy()))
        right[out] = (told == label[out]).float()
    return float(right[label == 1].mean() + right[label == 0].mean()) / 2
