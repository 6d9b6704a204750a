"""Pushing an activation further to the side of a direction on which it stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.transforms.linear import OfVector


@dataclass(frozen=True, eq=False, repr=False)
class Piecewise(OfVector):
    """Δ = sign(xᵀv) v: further out on x's own side of v; below 0, back towards the middle.

    Nothing where xᵀv is 0. With heads, one sign for all of them together. Source: RepE's
    piecewise operation (arXiv 2310.01405).

    >>> from steerlens import Direction
    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 2.0]))
    >>> Piecewise(up)(torch.tensor([[[5.0, 3.0], [5.0, -3.0]]]))
    tensor([[[ 0.,  2.],
             [-0., -2.]]])
    """

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return the vector, on the side of each activation."""
        vector = self.along.vector
        side = torch.sign(x.flatten(2) @ vector.flatten())
        return side.reshape(*side.shape, *[1] * (x.ndim - 2)) * vector

    def __repr__(self) -> str:
        """Return `piecewise('refusal')`."""
        return f"piecewise({self.along.name!r})"
