"""Difference of means after clipping, so that massive activations do not decide it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from steerlens.directions.mean_difference import mean_difference
from steerlens.errors import BadInputError


def clipped_mean_difference(
    positive: Float[Tensor, "positive d"],
    negative: Float[Tensor, "negative d"],
    quantile: float = 0.99,
) -> Float[Tensor, " d"]:
    """Return the difference of the sides' means, each item's largest entries clipped.

    An item's entries are winsorised at plus and minus the `quantile` of their own magnitudes:
    by default the top hundredth comes down to the next entry, and one entry at the least does.
    Massive activations are few entries, hundreds of times the others in every item (Sun et
    al., arXiv 2402.17762); quantiles over items would leave those alone. Meant for the stream:
    where activations are sparse by nature (`mlp_post`), their large entries are the signal.
    Source: heretic's `winsorization_quantile`. Raises BadInputError on a quantile outside 0
    to 1. Cost: one selection an item.

    >>> positive = torch.tensor([[2.0, -1.0, 900.0], [2.0, -2.0, 980.0]])
    >>> clipped_mean_difference(positive, torch.tensor([[1.0, -1.0, 700.0]]))
    tensor([ 1.0000, -0.5000,  1.0000])
    """
    if not 0 <= quantile <= 1:
        raise BadInputError(f"quantile is {quantile}; it is a share of the entries, from 0 to 1.")
    return mean_difference(*(_clipped(side, quantile) for side in (positive, negative)))


def _clipped(x: Float[Tensor, "n d"], quantile: float) -> Float[Tensor, "n d"]:
    rank = 1 + int(quantile * (x.shape[1] - 1))
    bound = x.abs().kthvalue(rank, dim=1, keepdim=True).values
    return x.clamp(-bound, bound)
