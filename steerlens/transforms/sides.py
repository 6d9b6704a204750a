"""Pushing an activation further to the side of a direction on which it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.transforms.linear import check_along
from steerlens.transforms.transform import Linear, Scaled


@dataclass(frozen=True, eq=False, repr=False)
class Piecewise(Linear):
    """Δ = sign(xᵀv) v: further out on x's own side of v; below 0, back towards the middle.

    Nothing where xᵀv is 0. With heads, one sign for all of them together. Source: RepE's
    piecewise operation (arXiv 2310.01405).

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 2.0]))
    >>> Piecewise(up)(torch.tensor([[[5.0, 3.0], [5.0, -3.0]]]))
    tensor([[[ 0.,  2.],
             [-0., -2.]]])
    """

    along: Direction
    vector: Tensor | None = None
    scales: ClassVar[Scaled] = "amplitude"

    def __post_init__(self) -> None:
        """Take the direction's vector. Raises BadInputError on anything but a direction."""
        if self.vector is None:
            check_along(self.along, Direction)
            object.__setattr__(self, "vector", self.along.vector)

    @property
    def hook_name(self) -> str:
        """The hook point of the direction."""
        return self.along.hook_name

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the direction's vector."""
        return tuple(self.along.vector.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return the vector, on the side of each activation."""
        assert self.vector is not None
        side = torch.sign(x.flatten(2) @ self.vector.flatten())
        return side.reshape(*side.shape, *[1] * (x.ndim - 2)) * self.vector

    def __repr__(self) -> str:
        """Return `piecewise('refusal')`."""
        return f"piecewise({self.along.name!r})"
