"""A map that may be followed past where it leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.transforms.transform import Linear, Scaled, Transform


@dataclass(frozen=True, eq=False, repr=False)
class Extrapolate(Linear):
    """Δ of another transform, with any number as its strength where that one takes a share.

    At strength 1 the activation arrives where the map leads; beyond, it goes on along the same
    line, and below 0 away from it. For gates that have no upper bound, such as a rectifier.

    >>> import torch
    >>> from steerlens.transforms import Affine
    >>> to_one = Affine(torch.zeros(1), torch.ones(1))
    >>> Extrapolate(to_one).change(torch.zeros(1, 1, 1), torch.tensor(2.5))
    tensor([[[2.5000]]])
    """

    inner: Transform
    scales: ClassVar[Scaled] = "amplitude"

    def __post_init__(self) -> None:
        """Raise BadInputError on what does not multiply its change by a share."""
        made: Any = type(self.inner)
        plain = isinstance(self.inner, Linear) and callable(self.inner)
        if not plain or self.inner.scales != "share" or made.change is not Linear.change:
            raise BadInputError(
                f"Extrapolate takes a transform whose strength is a share, such as Affine; got "
                f"{self.inner!r}."
            )

    @property
    def hook_name(self) -> str | None:
        """The hook point of the inner transform."""
        return self.inner.hook_name

    @property
    def unit_shape(self) -> tuple[int, ...] | None:
        """The shape that the inner transform reads."""
        return self.inner.unit_shape

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "..."]:
        """Return the inner transform's Δ."""
        delta: Tensor = self.inner(x)  # type: ignore[operator]
        return delta

    def __repr__(self) -> str:
        """Return `extrapolate(affine(...))`."""
        return f"extrapolate({self.inner!r})"
