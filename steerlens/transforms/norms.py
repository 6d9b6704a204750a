"""A wrapper that keeps the norm of what it steers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.transforms.transform import Linear, Scaled, Transform

VANISHED = 1e-4
"""Share of an activation's length below which what is left of it is rounding."""


@dataclass(frozen=True, eq=False, repr=False)
class KeepNorm(Linear):
    """Another transform's change, stretched so that the activation keeps its length.

    Where the other leaves nothing of an activation (`VANISHED` of its length or less) there is
    nothing to stretch, and it stays as it is. With heads, each head keeps its own. The strength
    means what it means to the other.

    >>> import torch
    >>> from steerlens import Direction
    >>> from steerlens.transforms import Add
    >>> up = Add(Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 4.0])))
    >>> x = torch.tensor([[[3.0, 0.0]]])
    >>> x + KeepNorm(up).change(x, torch.tensor(1.0))
    tensor([[[1.8000, 2.4000]]])
    """

    inner: Transform

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a transform."""
        if not isinstance(self.inner, Transform):
            raise BadInputError(
                f"KeepNorm wraps a transform, such as Add(direction); got "
                f"{type(self.inner).__name__}."
            )

    @property
    def scales(self) -> Scaled:
        """What the inner transform's strength scales."""
        return self.inner.scales

    @property
    def hook_name(self) -> str | None:
        """The inner transform's hook point."""
        return self.inner.hook_name

    @property
    def unit_shape(self) -> tuple[int, ...] | None:
        """The inner transform's shape."""
        return self.inner.unit_shape

    def change(
        self, x: Tensor, strength: Float[Tensor, "..."], window: Window | None = None
    ) -> Float[Tensor, "..."]:
        """Return what leads from x to the steered activation at x's length."""
        steered = x + self.inner.change(x, strength, window)
        length, before = (each.norm(dim=-1, keepdim=True) for each in (steered, x))
        change = steered * (before / length.clamp_min(1e-12)) - x
        return torch.where(length > VANISHED * before, change, 0)

    def __repr__(self) -> str:
        """Return `keep_norm(inner)`."""
        return f"keep_norm({self.inner!r})"
