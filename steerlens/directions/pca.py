"""First principal component of the pairs' differences (RepE, arXiv 2310.01405)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError


def pca(
    positive: Float[Tensor, "positive d"], negative: Float[Tensor, "negative d"]
) -> Float[Tensor, " d"]:
    """Return the unit vector along which the pairs' differences are largest, about zero.

    Differences are not centred: centring would remove the very shift that the pairs share.
    (RepE flips random pairs and centres, which is the same in expectation.) Its sign is not
    determined; `find_directions` fixes it. Raises BadInputError on unpaired sides.
    Cost: one SVD of (pair, d).

    >>> pca(torch.tensor([[3.0, 0.0], [5.0, 0.1]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])).abs()
    tensor([0.9998, 0.0200])
    """
    if len(positive) != len(negative):
        raise BadInputError("PCA of differences needs pairs; give a paired Contrast.")
    components: Tensor = torch.linalg.svd(positive - negative, full_matrices=False).Vh
    return components[0]
