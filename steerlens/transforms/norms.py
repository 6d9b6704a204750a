"""A wrapper that keeps the norm of what it steers."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from steerlens.positions import Window
from steerlens.transforms.transform import Linear, Scaled, Transform


@dataclass(frozen=True, eq=False, repr=False)
class KeepNorm(Linear):
    """Another transform's change, stretched so that the activation keeps its length.

    With heads, each head keeps its own. The strength means what it means to the other.

    >>> import torch
    >>> from steerlens import Direction
    >>> from steerlens.transforms import Add
    >>> up = Add(Direction("blocks.0.hook_resid_post", torch.tensor([0.0, 4.0])))
    >>> x = torch.tensor([[[3.0, 0.0]]])
    >>> x + KeepNorm(up).change(x, torch.tensor(1.0))
    tensor([[[1.8000, 2.4000]]])
    """

    inner: Transform

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
        length = steered.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        change: Tensor = steered * (x.norm(dim=-1, keepdim=True) / length) - x
        return change

    def __repr__(self) -> str:
        """Return `keep_norm(inner)`."""
        return f"keep_norm({self.inner!r})"
