"""How: what a transform is, and what its strength scales.

A transform is a frozen value that maps activations (batch, pos, *unit) and a strength c * g,
which broadcasts against them, to a change of the same shape. The last dimension is the vector
space; a dimension of heads before it is taken head by head.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import fields, is_dataclass
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
    """Return a transform with every tensor in it on a device, floats in a computing dtype.

    Those that it was given and those that it made of them, also in what it holds: transforms of
    anybody's, directions and other dataclasses, tuples, lists and dictionaries; not what a function
    closes over, nor modules. For running alone: directions in it are no longer float32 on the CPU.
    Where nothing is to be moved, the value itself.

    >>> from steerlens.transforms import KeepNorm, Scale
    >>> there = moved(KeepNorm(Scale(torch.ones(2))), torch.device("cpu"), torch.float64)
    >>> there.inner.factor.dtype
    torch.float64
    """
    if isinstance(value, Tensor):
        return cast(T, value.to(device, dtype if value.is_floating_point() else value.dtype))
    changed = {}
    for at, part in _parts(value).items():
        new = moved(part, device, dtype)
        if new is not part:
            changed[at] = new
    return _with(value, changed) if changed else value


def _parts(value: object) -> Mapping[Any, Any]:
    """What a value is made of, by name, key or place; nothing of what is not looked into."""
    if type(value) in (tuple, list):
        return dict(enumerate(cast(Any, value)))
    if type(value) is dict:
        return value
    transform = hasattr(value, "change")  # `isinstance(value, Transform)` takes 10 µs a string
    if isinstance(value, type) or not (transform or is_dataclass(value)):
        return {}
    named = fields(value) if is_dataclass(value) else ()  # those of a class with slots
    return {each.name: getattr(value, each.name) for each in named} | getattr(value, "__dict__", {})


def _with(value: T, changed: Mapping[Any, Any]) -> T:
    """The value with some of its parts changed. Not made anew: that would make its own anew too."""
    if isinstance(value, tuple | list):
        return cast(T, type(value)(changed.get(i, each) for i, each in enumerate(value)))
    made: Any = copy(value)
    for at, part in changed.items():
        if isinstance(made, dict):
            made[at] = part
        else:
            object.__setattr__(made, at, part)
    return cast(T, made)
