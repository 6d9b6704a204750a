"""Transforms entry by entry: scale chosen ones, affine maps, and any function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Eraser
from steerlens.errors import BadInputError
from steerlens.transforms.transform import Linear, Scaled, own


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
        own(self, "factor")

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
        """Raise BadInputError on maps that are not finite, or whose parts differ in shape."""
        own(self, "weight", "bias", "low", "high")
        parts = [part for part in (self.weight, self.bias, self.low, self.high) if part is not None]
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise BadInputError(f"Affine's weight, bias and bounds share one shape; got {shapes}.")
        if self.low is not None and self.high is not None and bool((self.low > self.high).any()):
            raise BadInputError(
                "Affine's low lies above its high somewhere: nothing is in between."
            )

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
class Erase(Linear):
    """Δ = -v (wᵀ(x - μ)): what a linear probe could find of a concept is removed. A share.

    Source: LEACE (arXiv 2306.03819), fitted by `directions.Eraser.of`. With heads, all of them
    as one vector.

    >>> from steerlens.directions import Eraser
    >>> eraser = Eraser.of(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(1, 2))
    >>> Erase(eraser, "blocks.0.hook_resid_post")
    erase(d=2)
    """

    eraser: Eraser
    hook_name: str | None = None
    scales: ClassVar[Scaled] = "share"

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape that the eraser was fitted on."""
        return tuple(self.eraser.mean.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return what erasing adds."""
        return self.eraser.delta(x)

    def __repr__(self) -> str:
        """Return the size."""
        return f"erase(d={'x'.join(map(str, self.unit_shape))})"


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
        """Return the function's change. It sees a copy, so that nothing else is written.

        Raises BadInputError on a change that does not fit.
        """
        change = self.function(x.clone())
        if not isinstance(change, Tensor) or change.shape[:2] not in (x.shape[:2], (1, 1)):
            shape = tuple(change.shape) if isinstance(change, Tensor) else type(change).__name__
            raise BadInputError(
                f"{self!r} gave {shape} for activations {tuple(x.shape)}. Give (batch, pos, ...)."
            )
        return change

    def __repr__(self) -> str:
        """Return the function's name."""
        return f"function({getattr(self.function, '__name__', self.function)})"
