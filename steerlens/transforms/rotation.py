"""Rotations in a plane: by an angle, and to an angle. Both keep norms (of all heads together).

Source: angular steering (arXiv 2510.26243), with the change in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite, pi
from typing import Any, ClassVar, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis, orthonormal_factor
from steerlens.cards import number
from steerlens.directions import Direction
from steerlens.directions.direction import check_direction
from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.transforms.transform import Linear, Scaled

P = TypeVar("P", bound="Planar")


@dataclass(frozen=True, eq=False, repr=False)
class Planar(Linear):
    """The plane of two directions: the first axis is the first one, the second lies on its left."""

    first: Direction
    second: Direction

    def __post_init__(self) -> None:
        """Raise BadInputError on parallel directions, and on what are none."""
        _ = self.plane  # made now, so that a mistake is told here and no pass waits for it

    @property
    def hook_name(self) -> str:
        """The hook point of the first direction."""
        return self.first.hook_name

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of an activation there."""
        return tuple(self.first.vector.shape)

    @classmethod
    def of(cls: type[P], basis: Basis, **options: Any) -> P:
        """Return the transform in the plane of a basis of two. Raises BadInputError on others."""
        if len(basis) != 2:
            raise BadInputError(
                f"A plane is spanned by two directions; {basis!r} has {len(basis)}."
            )
        first, second = (basis[label] for label in basis)
        made: P = cast(Any, cls)(first, second, **options)
        return made

    @cached_property
    def plane(self) -> Float[Tensor, "2 *unit"]:
        """The two axes, orthonormal over all heads together."""
        for each in (self.first, self.second):
            check_direction(each, "This transform")
        self.first.check_beside(self.second)
        flat = torch.stack([self.first.vector, self.second.vector]).flatten(1)
        axes = orthonormal_factor(flat)
        if len(axes) < 2:
            raise BadInputError(
                f"{self.first.name!r} and {self.second.name!r} are parallel: they span no plane "
                "to rotate in."
            )
        return axes.reshape(2, *self.unit_shape)

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Components along the two axes, over heads too."""
        a, b = (x.flatten(2) @ self.plane.flatten(1).T).unbind(-1)
        shape = (*a.shape, *[1] * (x.ndim - 2))
        return a.reshape(shape), b.reshape(shape)

    def _turned(self, x: Tensor, angle: Tensor) -> Tensor:
        """What turning by an angle (radians, from the first axis to the second) adds.

        cos θ - 1 is taken as -2 sin²(θ/2), so that a small turn does not drown in rounding.
        """
        a, b = self._coordinates(x)
        sine, less = torch.sin(angle), -2 * torch.sin(angle / 2) ** 2
        one, other = self.plane
        change: Tensor = (less * a - sine * b) * one + (sine * a + less * b) * other
        return change


@dataclass(frozen=True, eq=False, repr=False)
class Rotate(Planar):
    """Turns activations in the plane of two directions; the strength is the angle in radians.

    >>> e = torch.eye(2)
    >>> right, up = (Direction("blocks.0.hook_resid_post", v) for v in e)
    >>> turn = Rotate(right, up).change(torch.tensor([[[2.0, 0.0]]]), torch.tensor(pi / 2))
    >>> turn.round()
    tensor([[[-2.,  2.]]])
    """

    scales: ClassVar[Scaled] = "angle"

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return what the turn adds."""
        return self._turned(x, strength)

    def __repr__(self) -> str:
        """Return `rotate('a' to 'b')`."""
        return f"rotate({self.first.name!r} to {self.second.name!r})"


@dataclass(frozen=True, eq=False, repr=False)
class RotateTo(Planar):
    """Turns the part in the plane to an angle from the first direction; the strength is a share.

    The shorter way round. An activation without a part in the plane stays as it is.
    """

    angle: float = 0.0
    scales: ClassVar[Scaled] = "share"

    def __post_init__(self) -> None:
        """Raise BadInputError on parallel directions, or an angle that is not finite."""
        super().__post_init__()
        if not isfinite(self.angle):
            raise BadInputError(f"An angle is a finite number of radians; got {self.angle}.")

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return what the turn adds."""
        a, b = self._coordinates(x)
        left = torch.remainder(self.angle - torch.atan2(b, a) + pi, 2 * pi) - pi
        return self._turned(x, strength * left)

    def __repr__(self) -> str:
        """Return `rotate_to(angle, 'a' to 'b')`."""
        return f"rotate_to({number(self.angle)}, {self.first.name!r} to {self.second.name!r})"
