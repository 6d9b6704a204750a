"""Transforms that bring in activations of another pass: replace, and interchange along a basis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.basis import Basis
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.transforms.linear import Along, unit_vectors
from steerlens.transforms.transform import Linear, Scaled


class Stored(Linear):
    """Activations of a reference pass: one a row (batch, *unit), or (batch, index, *unit)."""

    reference: Tensor
    by_index: bool

    def _at(self, x: Tensor, window: Window | None) -> Tensor:
        """The stored activations for these rows and positions, shaped like `x`."""
        if len(self.reference) not in (1, len(x)):
            raise BadInputError(
                f"{self!r} holds {len(self.reference)} rows and meets a batch of {len(x)}. It "
                "serves the prompts whose pass was stored."
            )
        rows = self.reference.expand(len(x), *self.reference.shape[1:])
        if not self.by_index:
            return rows[:, None]
        if window is None:
            raise BadInputError(f"{self!r} needs to know where its tokens stand.")
        index = window.index.clamp(0, rows.shape[1] - 1)
        return rows[torch.arange(len(x), device=index.device)[:, None], index]

    def _stored(self, x: Tensor, window: Window | None) -> Tensor:
        """Which positions the reference covers, to leave the others alone."""
        if not self.by_index or window is None:
            return torch.ones(1, 1, *[1] * (x.ndim - 2), dtype=torch.bool, device=x.device)
        covered = window.index < self.reference.shape[1]
        return covered.reshape(*covered.shape, *[1] * (x.ndim - 2))


@dataclass(frozen=True, eq=False, repr=False)
class Replace(Stored):
    """Δ = r - x: activations become those of a reference pass. A share.

    `reference` holds one activation a row, or with `by_index` one for each absolute position of
    each row (BOS is 0); positions past it are left alone. One row serves every row.

    >>> Replace(torch.tensor([[1.0, 2.0]])).change(torch.zeros(1, 3, 2), torch.tensor(1.0))
    tensor([[[1., 2.],
             [1., 2.],
             [1., 2.]]])
    """

    reference: Float[Tensor, "batch ..."]
    by_index: bool = False
    hook_name: str | None = None
    scales: ClassVar[Scaled] = "share"

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of one stored activation."""
        return tuple(self.reference.shape[2 if self.by_index else 1 :])

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return the share of the way to the stored activation."""
        gap = self._at(x, window) - x
        return torch.where(self._stored(x, window), strength * gap, 0)

    def __repr__(self) -> str:
        """Return how many rows are stored."""
        return f"replace({len(self.reference)} stored rows)"


@dataclass(frozen=True, eq=False, repr=False)
class Interchange(Stored, Along):
    """Δ = Q Qᵀ(r - x): the component along a direction or basis becomes the reference's. A share.

    Source: interchange interventions (Geiger et al., arXiv 2106.02997).
    """

    along: Direction | Basis
    reference: Float[Tensor, "batch ..."]
    by_index: bool = False
    units: Tensor | None = None
    scales: ClassVar[Scaled] = "share"

    def __post_init__(self) -> None:
        """Raise BadInputError on a reference of another shape."""
        if self.units is None:
            object.__setattr__(self, "units", unit_vectors(self.along))
        if tuple(self.reference.shape[2 if self.by_index else 1 :]) != self.unit_shape:
            raise BadInputError(
                f"The reference has shape {tuple(self.reference.shape)}; a row of it should be "
                f"{self.unit_shape}{' a position' if self.by_index else ''}."
            )

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return the share of the way to the stored component."""
        gap = self._vector(self._coordinates(self._at(x, window) - x))
        return torch.where(self._stored(x, window), strength * gap, 0)

    def __repr__(self) -> str:
        """Return `interchange('truth', 4 stored rows)`."""
        return f"interchange({self.along.name!r}, {len(self.reference)} stored rows)"
