"""A vector a row: what adds another sum of directions to each text of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.transforms.exchange import Stored
from steerlens.transforms.transform import Scaled


@dataclass(frozen=True, eq=False, repr=False)
class Shift(Stored):
    """Δ = r, a vector for each row of the batch. The strength scales the amplitude.

    `reference` is (row, *unit); one row serves every row. As `Add`, where each text needs a
    vector of its own.

    >>> Shift(torch.tensor([[1.0, 2.0]])).change(torch.zeros(1, 3, 2), torch.tensor(2.0))
    tensor([[[2., 4.]]])
    """

    reference: Float[Tensor, "batch ..."]
    hook_name: str | None = None
    name: str = "shift"
    by_index: ClassVar[bool] = False  # type: ignore[misc]
    scales: ClassVar[Scaled] = "amplitude"

    def __post_init__(self) -> None:
        """Raise BadInputError on a reference that is no tensor of vectors."""
        self._keep_reference(None)
        if not bool(self.reference.isfinite().all()):
            raise BadInputError("A vector to add is finite everywhere; some entries are not.")

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of one vector."""
        return tuple(self.reference.shape[1:])

    def change(
        self,
        x: Float[Tensor, "batch pos *unit"],
        strength: Float[Tensor, "..."],
        window: Window | None = None,
    ) -> Float[Tensor, "..."]:
        """Return strength * r."""
        return strength * self._at(x, window)

    def __repr__(self) -> str:
        """Return `shift(4 stored rows)`."""
        return f"{self.name}({self._held()})"
