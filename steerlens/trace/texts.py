"""One text that passed while a trace was on: what each intervention did to each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, repr=False, eq=False)
class TracedText:
    """One text, or batch of texts, that passed while a trace was on.

    Plain tensors on the CPU, that a loss may be built from even where the model generated under
    inference mode.
    """

    tokens: Int[Tensor, "batch pos"]
    strings: tuple[tuple[str, ...], ...]
    """The tokens as text, a row each."""
    real: Bool[Tensor, "batch pos"]
    """False at pads."""
    prompt_lengths: Int[Tensor, " batch"]
    """Real tokens of each row's prompt."""
    picked: Bool[Tensor, "intervention batch pos"]
    """True where the positions pick the token."""
    coeff: Float[Tensor, "intervention batch pos"]
    """The coefficient, wherever the positions are; NaN where nothing was recorded."""
    gate: Float[Tensor, "intervention batch pos"]
    """The gate; 0 where the positions pick nothing."""
    change_norm: Float[Tensor, "intervention batch pos"]
    """Norm of the change."""
    stream_norm: Float[Tensor, "intervention batch pos"]
    """Norm of the activation before it was changed."""
    along: Float[Tensor, "intervention batch pos"]
    """Component of the change along the intervention's direction; NaN where it has none."""
    by_head: Mapping[int, Float[Tensor, "batch pos head"]]
    """Norm of the change of each head, for interventions (by number) that write heads."""
    stream_by_head: Mapping[int, Float[Tensor, "batch pos head"]]
    """Norm of each head's activation before it was changed."""

    def __repr__(self) -> str:
        """Return its size."""
        rows, pos = self.tokens.shape
        return f"TracedText({len(self.coeff)} interventions, {rows} rows, {pos} tokens)"

    @property
    def strength(self) -> Float[Tensor, "intervention batch pos"]:
        """Coefficient times gate; 0 where nothing was written, NaN where nothing was recorded."""
        shut = (self.gate == 0) | (self.coeff == 0)  # infinity times 0 is not a number
        return torch.where(shut, 0, self.coeff * self.gate)

    @property
    def share(self) -> Float[Tensor, "intervention batch pos"]:
        """Norm of the change over the norm of the activation."""
        return self.change_norm / self.stream_norm.clamp_min(1e-12)

    @property
    def generated(self) -> Bool[Tensor, "batch pos"]:
        """True at tokens after the prompt."""
        index = self.real.int().cumsum(1) - 1
        return self.real & (index >= self.prompt_lengths[:, None])

    @property
    def recorded(self) -> Bool[Tensor, "intervention batch pos"]:
        """True at the tokens that each intervention saw pass."""
        return self.real & ~self.stream_norm.isnan()

    @property
    def written(self) -> Bool[Tensor, "intervention batch pos"]:
        """True where an intervention was at work: its strength is not 0."""
        return self.recorded & (self.strength != 0)
