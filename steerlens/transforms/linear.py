"""Transforms along directions: add, ablate, mean-ablate, clamp."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis, orthonormal_factor
from steerlens.cards import number
from steerlens.directions import Direction
from steerlens.directions.direction import check_direction
from steerlens.errors import BadInputError
from steerlens.transforms.transform import Linear, Scaled, own


@dataclass(frozen=True, eq=False, repr=False)
class Along(Linear):
    """What transforms along a direction or a basis share: where they live, and unit vectors."""

    along: Direction | Basis
    scales: ClassVar[Scaled] = "share"

    def __post_init__(self) -> None:
        """Raise BadInputError on what is no direction or basis, or has length 0."""
        _ = self.units  # made now, so that a mistake is told here and no pass waits for it

    @cached_property
    def units(self) -> Float[Tensor, "k *unit"]:
        """Orthonormal vectors that span the direction or basis, head by head."""
        if not isinstance(self.along, Direction | Basis):
            raise BadInputError(
                f"This transform needs a Direction or a Basis; got {type(self.along).__name__}. A "
                "vector becomes one by Direction(hook_name, vector)."
            )
        return unit_vectors(self.along)

    @property
    def hook_name(self) -> str:
        """The hook point of the direction."""
        return self.along.hook_name

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of an activation there."""
        return tuple(self.units.shape[1:])

    def _coordinates(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "k batch pos ..."]:
        """Components along the unit vectors, head by head, the last dimension kept at 1."""
        return torch.stack([(x * unit).sum(-1, keepdim=True) for unit in self.units])

    def _vector(self, coordinates: Float[Tensor, "k *rest"]) -> Tensor:
        parts = zip(coordinates, self.units, strict=True)
        first, *rest = [value * unit for value, unit in parts]
        total: Tensor = sum(rest, first)
        return total


def unit_vectors(along: Direction | Basis) -> Float[Tensor, "k *unit"]:
    """Return orthonormal vectors that span a direction or a basis, head by head.

    A head whose part is zero keeps it. Raises BadInputError where everything is zero.
    """
    vectors = along.vector[None] if isinstance(along, Direction) else along.only()
    if not bool(vectors.any()):
        raise BadInputError(f"{along!r} has length 0: there is no direction to steer along.")
    if vectors.ndim == 2:
        return orthonormal_factor(vectors)
    heads = [orthonormal_factor(part) for part in vectors.unbind(1)]
    k = max(len(part) for part in heads)
    padded = [torch.cat([part, part.new_zeros(k - len(part), part.shape[1])]) for part in heads]
    return torch.stack(padded, 1)


@dataclass(frozen=True, eq=False, repr=False)
class OfVector(Linear):
    """What transforms made of one direction's vector share."""

    along: Direction
    scales: ClassVar[Scaled] = "amplitude"

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a direction."""
        check_direction(self.along, "This transform")

    @property
    def hook_name(self) -> str:
        """The hook point of the direction."""
        return self.along.hook_name

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the direction's vector."""
        return tuple(self.along.vector.shape)


@dataclass(frozen=True, eq=False, repr=False)
class Add(OfVector):
    """Δ = v. The strength scales the amplitude: 4 adds four times the vector as it is.

    Source: ActAdd (arXiv 2308.10248), CAA (arXiv 2312.06681).

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([3.0, 4.0]))
    >>> Add(up)(torch.zeros(1, 1, 2))
    tensor([3., 4.])
    """

    def at_length_one(self) -> Add:
        """Return the addition of the unit vector."""
        return Add(self.along.unit())

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "*unit"]:
        """Return the vector."""
        return self.along.vector

    def __repr__(self) -> str:
        """Return `add('refusal')`."""
        return f"add({self.along.name!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Ablate(Along):
    """Δ = -Q Qᵀx: the component in a direction, or in a basis's span, is removed. A share.

    With heads, each head's own part is removed from it; a head whose part is zero is left
    alone. Source: Arditi et al. (arXiv 2406.11717).

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 2.0]))
    >>> Ablate(up)(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[-0., -3.]]])
    """

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return minus the projection."""
        return -self._vector(self._coordinates(x))

    def __repr__(self) -> str:
        """Return `ablate('refusal')`."""
        return f"ablate({self.along.name!r})"


@dataclass(frozen=True, eq=False, repr=False)
class MeanAblate(Along):
    """Δ = Q Qᵀ(μ - x): the component becomes that of a mean activation. A share.

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 2.0]))
    >>> MeanAblate(up, mean=torch.tensor([7.0, 1.0]))(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[-0., -2.]]])
    """

    mean: Float[Tensor, "*unit"]

    def __post_init__(self) -> None:
        """Raise BadInputError on a zero vector, or a mean of another shape."""
        super().__post_init__()
        own(self, "mean")
        if tuple(self.mean.shape) != self.unit_shape:
            raise BadInputError(
                f"The mean has shape {tuple(self.mean.shape)}; {self.along!r} needs "
                f"{self.unit_shape}."
            )

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return the projection of the mean minus the activation."""
        return self._vector(self._coordinates(self.mean - x))

    def __repr__(self) -> str:
        """Return `mean_ablate('refusal')`."""
        return f"mean_ablate({self.along.name!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Clamp(Along):
    """Δ = û(clamp(ûᵀx, low, high) - ûᵀx): the component is kept in a range. A share.

    Without `low` it is a cap (as activation capping of the assistant axis); with `low` equal
    to `high` the component is set. With a basis each coordinate along its orthonormal vectors
    is kept in the range; with heads, each head's own.

    >>> up = Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 2.0]))
    >>> Clamp(up, high=1.0)(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[-0., -2.]]])
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Raise BadInputError on no bound, or on bounds the wrong way round."""
        super().__post_init__()
        if self.low is None and self.high is None:
            raise BadInputError("Clamp needs low, high or both.")
        if any(bound != bound for bound in (self.low, self.high)):
            raise BadInputError("A bound of Clamp is NaN.")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise BadInputError(f"Clamp's low {self.low} lies above its high {self.high}.")

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return what brings the component into its range."""
        found = self._coordinates(x)
        return self._vector(found.clamp(self.low, self.high) - found)

    def __repr__(self) -> str:
        """Return `clamp('refusal', low, high)`."""
        low, high = ("" if b is None else number(b) for b in (self.low, self.high))
        return f"clamp({self.along.name!r}, {low}..{high})"
