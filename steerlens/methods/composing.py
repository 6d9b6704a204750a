"""Composing: weights and a basis make a steering, or a family of steerings in one pass.

h' = h + V α at each hook point of a basis, V its vectors (d, k) there and α the same weights at
all of them. α may be numbers, one set a row, or signals (a router's).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis
from steerlens.basis.vectors import Weights
from steerlens.directions.collection import listed
from steerlens.errors import BadInputError
from steerlens.interventions import Intervention
from steerlens.positions import Positions, selector
from steerlens.rows import Family
from steerlens.signals import Signal
from steerlens.steering import Steering, together
from steerlens.transforms import Add, Shift
from steerlens.verbs import add, steer


def composed(basis: Basis, weights: Weights, positions: Positions = "everywhere") -> Steering:
    """Return the steering that adds a weighted sum of a basis's vectors at each of its hook points.

    `weights` are one a vector, or by label, the others 0. Raises as `Basis.compose` does. Cost:
    one addition a token and hook point.

    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> composed(basis, {"good": 2}, "predicting")
    Steering(1 * add('2 * good') @ blocks.2.hook_resid_post[predicting])
    """
    each = listed(basis.compose(weights))
    # At weights 0 nothing is written at all, which keeps logits bit for bit.
    return add(each, 1.0 if any(bool(d.vector.any()) for d in each) else 0.0, positions=positions)


def by_row(
    basis: Basis, weights: Float[Tensor, "row k"], positions: Positions = "everywhere"
) -> Steering:
    """Return the steering that adds another weighted sum to each row of a batch.

    Raises BadInputError on weights that are not (row, k), or not finite. Cost: as `composed`.

    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> by_row(basis, torch.tensor([[1.0], [2.0]]))
    Steering(1 * composed(2 stored rows) @ blocks.2.hook_resid_post[everywhere])
    """
    check_weights(basis, weights)
    wide = weights.detach().cpu().double()
    shifts = [
        Shift(torch.tensordot(wide, vectors.double(), 1).float(), hook, "composed")
        for hook, vectors in basis.vectors.items()
    ]
    return steer(shifts, positions=positions)


def family(
    basis: Basis, weights: Float[Tensor, "candidate k"], positions: Positions = "everywhere"
) -> Family:
    """Return the steerings of several candidates, which run as rows of one pass.

    Raises as `by_row` does.

    >>> basis = sl.Basis.of({"good": directions["resid_post", 2]})
    >>> family(basis, torch.tensor([[1.0], [2.0]])).size
    2
    """
    return Family(by_row(basis, weights, positions), len(weights))


def routed(
    basis: Basis, weights: Sequence[Signal], positions: Positions = "predicting"
) -> Steering:
    """Return the steering that adds each vector of a basis as strongly as its signal says.

    Raises BadInputError unless there is a signal for each vector. Cost: one addition a token,
    vector and hook point.

    >>> good = directions["resid_post", 2]
    >>> routed(sl.Basis.of({"good": good}), [sl.signals.Projection(good)])
    Steering(projection('direction') * add('good') @ blocks.2.hook_resid_post[predicting])
    """
    if len(weights) != len(basis):
        raise BadInputError(
            f"{basis.name!r} has {len(basis)} vectors and meets {len(weights)} signals. Give "
            "one each."
        )
    chosen = selector(positions)
    leaves = []
    for label, weight in zip(basis.labels, weights, strict=True):
        leaves += [Intervention(d.hook_name, Add(d), chosen, weight) for d in listed(basis[label])]
    return together(leaves)


def check_weights(basis: Basis, weights: Float[Tensor, "..."]) -> None:
    """Raise BadInputError unless weights are finite, (row, k)."""
    if weights.ndim != 2 or weights.shape[1] != len(basis) or not len(weights):
        raise BadInputError(
            f"{basis.name!r} takes weights (row, {len(basis)}), one a vector "
            f"({', '.join(basis.labels)}); got {tuple(weights.shape)}."
        )
    if not torch.isfinite(weights).all():
        raise BadInputError("Weights are finite numbers; some are NaN or infinite.")
