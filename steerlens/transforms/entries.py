"""Transforms entry by entry: scale chosen ones, affine maps, and any function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.transforms.transform import Linear, Scaled


@dataclass(frozen=True, eq=False, repr=False)
class Scale(Linear):
    """Δ = m ⊙ x: the entries of a mask grow by a share of themselves, the others stay.

    Strength 1 doubles what the mask marks with 1; -1 removes it. Source: SADI (arXiv
    2410.12299), eq. 5 in its additive form.

    >>> Scale(torch.tensor([1.0, 0.0]))(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[5., 0.]]])
    """

    factor: Float[Tensor, "*unit"]
    hook_name: str | None = None
    scales: ClassVar[Scaled] = "amplitude"

    def __post_init__(self) -> None:
        """Raise BadInputError on factors that are not finite."""
        _check_finite("Scale's factor", self.factor)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the mask."""
        return tuple(self.factor.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return the entries times their factors; 0 where the factor is 0, whatever the entry."""
        return torch.where(self.factor != 0, self.factor * x, 0)

    def __repr__(self) -> str:
        """Return how many entries are scaled."""
        return f"scale({int((self.factor != 0).sum())} of {self.factor.numel()} entries)"


@dataclass(frozen=True, eq=False, repr=False)
class Affine(Linear):
    """Δ = (w - 1) ⊙ x + b, entry by entry, inside an optional interval of support. A share.

    Source: Linear-AcT (arXiv 2410.23054, eq. 4), which leaves entries outside the interval that
    it was fitted on alone.

    >>> Affine(torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0]))(torch.tensor([[[5.0, 3.0]]]))
    tensor([[[5., 1.]]])
    """

    weight: Float[Tensor, "*unit"]
    bias: Float[Tensor, "*unit"]
    low: Float[Tensor, "*unit"] | None = None
    high: Float[Tensor, "*unit"] | None = None
    hook_name: str | None = None
    scales: ClassVar[Scaled] = "share"

    def __post_init__(self) -> None:
        """Raise BadInputError on maps that are not finite."""
        _check_finite("Affine's weight and bias", torch.stack([self.weight, self.bias]))

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the map."""
        return tuple(self.weight.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return what the map adds, 0 for entries outside their interval."""
        change = (self.weight - 1) * x + self.bias
        inside = torch.ones_like(x, dtype=torch.bool)
        if self.low is not None:
            inside &= x >= self.low
        if self.high is not None:
            inside &= x <= self.high
        return torch.where(inside, change, 0)

    def __repr__(self) -> str:
        """Return `affine(...)` with its size."""
        support = "" if self.low is None and self.high is None else ", within its support"
        return f"affine({self.weight.numel()} entries{support})"


@dataclass(frozen=True, eq=False, repr=False)
class Function(Linear):
    """Δ = f(x): any function of the user's, from activations to their change. An amplitude.

    >>> Function(lambda x: -x)(torch.ones(1, 1, 2))
    tensor([[[-1., -1.]]])
    """

    function: Callable[[Tensor], Tensor]
    hook_name: str | None = None
    scales: ClassVar[Scaled] = "amplitude"
    unit_shape: ClassVar[None] = None

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "..."]:
        """Return the function's change. Raises BadInputError on one that does not fit."""
        change = self.function(x)
        if not isinstance(change, Tensor) or change.shape[:2] not in (x.shape[:2], (1, 1)):
            shape = tuple(change.shape) if isinstance(change, Tensor) else type(change).__name__
            raise BadInputError(
                f"{self!r} gave {shape} for activations {tuple(x.shape)}. Give (batch, pos, ...)."
            )
        return change

    def __repr__(self) -> str:
        """Return the function's name."""
        return f"function({getattr(self.function, '__name__', self.function)})"


def _check_finite(what: str, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise BadInputError(f"{what} must be finite everywhere.")
