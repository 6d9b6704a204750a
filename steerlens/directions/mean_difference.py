"""Difference of the sides' means (CAA, arXiv 2312.06681; difference-in-means)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def mean_difference(
    positive: Float[Tensor, "positive d"], negative: Float[Tensor, "negative d"]
) -> Float[Tensor, " d"]:
    """Return mean(positive) - mean(negative): the least assuming finder, and hard to beat.

    >>> mean_difference(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([ 2., -1.])
    """
    return positive.mean(0) - negative.mean(0)
