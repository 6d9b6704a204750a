"""How: transforms, each given as its change Δ(x) in closed form, in float32.

A transform is a frozen value that maps activations (batch, pos, *unit) to a change of the
same shape; the last dimension is the vector space, and a dimension of heads before it is
taken head by head. It says what the strength c * g scales: the amplitude of the change, or
a share of it from 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.errors import BadInputError

Scaled = Literal["amplitude", "share"]


@runtime_checkable
class Transform(Protocol):
    """The change Δ that a steering makes, before strength."""

    scales: ClassVar[Scaled]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape (*unit) of the activations it fits."""

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "*broadcast"]:
        """Return the change, of a shape that broadcasts to x."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Transform:
        """Return it with its tensors on a device, in a computing dtype."""


@dataclass(frozen=True, eq=False)
class Add:
    """Δ = v. The strength scales the amplitude: 4 adds four times the vector as it is.

    Source: ActAdd (arXiv 2308.10248), CAA (arXiv 2312.06681).

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([3.0, 4.0]))
    >>> Add(up)(torch.zeros(1, 1, 2))
    tensor([3., 4.])
    """

    direction: Direction
    vector: Tensor | None = None
    scales: ClassVar[Scaled] = "amplitude"

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the direction's vector."""
        return tuple(self.direction.vector.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "*unit"]:
        """Return the vector."""
        return self.direction.vector if self.vector is None else self.vector

    def to(self, device: torch.device, dtype: torch.dtype) -> Add:
        """Return it with the vector moved."""
        return replace(self, vector=self.direction.vector.to(device, dtype))

    def __repr__(self) -> str:
        """Return `add('refusal')`."""
        return f"add({self.direction.name!r})"


@dataclass(frozen=True, eq=False)
class Ablate:
    """Δ = -û(ûᵀx): the component along the direction is removed. The strength is a share.

    With heads, each head's own part of the direction is removed from it; a head whose part
    is zero is left alone. Source: Arditi et al. (arXiv 2406.11717).

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 2.0]))
    >>> Ablate(up)(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[-0., -3.]]])
    """

    direction: Direction
    vector: Tensor | None = None
    scales: ClassVar[Scaled] = "share"

    def __post_init__(self) -> None:
        """Raise BadInputError on a zero vector."""
        if self.direction.norm == 0:
            raise BadInputError(f"{self.direction!r} has length 0: there is nothing to ablate.")
        if self.vector is None:
            vector = self.direction.vector
            norm = vector.norm(dim=-1, keepdim=True)
            unit = torch.where(norm > 0, vector / norm, torch.zeros_like(vector))
            object.__setattr__(self, "vector", unit)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the direction's vector."""
        return tuple(self.direction.vector.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return minus the projection on the direction."""
        assert self.vector is not None
        return -(x * self.vector).sum(-1, keepdim=True) * self.vector

    def to(self, device: torch.device, dtype: torch.dtype) -> Ablate:
        """Return it with the unit vector moved."""
        assert self.vector is not None
        return replace(self, vector=self.vector.to(device, dtype))

    def __repr__(self) -> str:
        """Return `ablate('refusal')`."""
        return f"ablate({self.direction.name!r})"
