"""A logistic probe between the sides, through scikit-learn."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


def probe(
    positive: Float[Tensor, "positive d"], negative: Float[Tensor, "negative d"]
) -> Float[Tensor, " d"]:
    """Return the weights of an L2 logistic regression, in the activations' own units.

    Cost: as `fitted`.

    >>> found = probe(torch.tensor([[2.0, 1.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    >>> bool(found[0] > found[1].abs())
    True
    """
    return fitted(positive, negative)[0]


def fitted(
    positive: Float[Tensor, "positive d"],
    negative: Float[Tensor, "negative d"],
    class_weight: Literal["balanced"] | None = None,
) -> tuple[Float[Tensor, " d"], float]:
    """Return the weights and the intercept of an L2 logistic regression of the sides.

    Entries are centred each and scaled together (C = 1), so that the penalty depends neither
    on the model's scale nor on where its activations lie. Cost: one L-BFGS fit.
    """
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([positive, negative])
    centre = x.mean(0)
    scale = (x - centre).std().clamp_min(1e-12)
    labels = [1] * len(positive) + [0] * len(negative)
    probe = LogisticRegression(C=1.0, max_iter=1000, class_weight=class_weight)
    found = probe.fit(((x - centre) / scale).numpy(), labels)
    weights = torch.from_numpy(found.coef_[0]).double() / scale
    return weights.float(), float(found.intercept_[0] - weights @ centre.double())
