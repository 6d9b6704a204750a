"""Norms: keeping the norm of what is steered, and adding in front of a norm layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Window
from steerlens.transforms.linear import OfVector
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


@dataclass(frozen=True, eq=False, repr=False)
class AddBeforeNorm(OfVector):
    """A vector added in front of a norm, written where the norm has divided by its scale.

    At `hook_normalized` an RMSNorm or LayerNorm holds x / s, with s = sqrt(mean(x²) + ε). The
    vector v added to x makes of it (x + v) / s', which is (h + v / s) / sqrt(mean((h + v / s)²)
    + ε / s²), and ε / s² is 1 - mean(h²): so only the strength needs s, as c / s (read
    `hook_scale` with `signals.Reciprocal`). A LayerNorm's x has its mean taken out: give v
    without one. Reconstruction of ours; exact, to rounding.

    >>> import torch
    >>> from steerlens import Direction
    >>> v = Direction("blocks.0.ln1_post.hook_normalized", torch.tensor([0.0, 1.0]))
    >>> AddBeforeNorm(v).change(torch.tensor([[[2.0**0.5, 0.0]]]), torch.tensor(2.0**0.5))
    tensor([[[-0.4142,  1.0000]]])
    """

    def change(
        self,
        x: Float[Tensor, "batch pos d_model"],
        strength: Float[Tensor, "..."],
        window: Window | None = None,
    ) -> Float[Tensor, "..."]:
        """Return what leads from x / s to the norm of x + c v; the strength is c / s."""
        added = x + strength * self.along.vector
        rest = (1 - x.square().mean(-1, keepdim=True)).clamp_min(0)
        return added * (added.square().mean(-1, keepdim=True) + rest).rsqrt() - x

    def __repr__(self) -> str:
        """Return `add_before_norm('refusal')`."""
        return f"add_before_norm({self.along.name!r})"
