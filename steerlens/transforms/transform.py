"""How: what a transform is, and what its strength scales.

A transform is a frozen value that maps activations (batch, pos, *unit) and a strength c * g,
which broadcasts against them, to a change of the same shape. The last dimension is the vector
space; a dimension of heads before it is taken head by head.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Window

Scaled = Literal["amplitude", "share", "angle"]
"""What the strength scales: any number, a share from 0 to 1, or an angle in radians."""
T = TypeVar("T")


@runtime_checkable
class Transform(Protocol):
    """The change that a steering makes."""

    scales: ClassVar[Scaled]

    @property
    def hook_name(self) -> str | None:
        """The hook point it was made for, where it is known."""

    @property
    def unit_shape(self) -> tuple[int, ...] | None:
        """The shape (*unit) of the activations it reads; None where any will do."""

    def change(
        self,
        x: Float[Tensor, "batch pos *unit"],
        strength: Float[Tensor, "..."],
        window: Window | None = None,
    ) -> Float[Tensor, "..."]:
        """Return the change of that strength, of a shape that broadcasts to the activation."""


class Linear:
    """A transform whose strength multiplies a change Δ(x) in closed form."""

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return strength * Δ(x)."""
        delta: Tensor = self(x)  # type: ignore[operator]
        try:
            return strength * delta
        except RuntimeError:
            raise BadInputError(
                f"{self!r} gave a change of shape {tuple(delta.shape)}, which does not fit the "
                f"strength {tuple(strength.shape)}: it has other dimensions than what is written."
            ) from None


def own(value: object, *names: str) -> None:
    """Make a transform's tensors its own: copied, detached. Raises BadInputError on others.

    A field may be None; numbers that are not finite are refused.
    """
    for name in names:
        given = getattr(value, name)
        if given is None:
            continue
        if not isinstance(given, Tensor) or not given.is_floating_point():
            raise BadInputError(
                f"{type(value).__name__}'s {name} is a tensor of floats, shaped as an activation; "
                f"got {type(given).__name__}."
            )
        if not torch.isfinite(given).all():
            raise BadInputError(f"{type(value).__name__}'s {name} must be finite everywhere.")
        object.__setattr__(value, name, given.detach().clone())


def moved(value: T, device: torch.device, dtype: torch.dtype) -> T:
    """Return a transform or signal with its tensors on a device, floats in a computing dtype.

    >>> from steerlens.transforms import Scale
    >>> moved(Scale(torch.ones(2)), torch.device("cpu"), torch.float64).factor.dtype
    torch.float64
    """
    if isinstance(value, Tensor):
        return cast(T, value.to(device, dtype if value.is_floating_point() else value.dtype))
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed: dict[str, Any] = {}
    for each in fields(value):
        if not each.init:
            continue
        old = getattr(value, each.name)
        new = moved(old, device, dtype) if isinstance(old, Tensor | Linear) else old
        if new is not old:
            changed[each.name] = new
    return replace(value, **changed) if changed else value
