"""What an edit changes, in factors: rank-1 changes of writers, gates of heads, embeddings.

Everything here is plain tensors in float32, never a dense change of a weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steerlens.components import Place as Place
from steerlens.components import label
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.names import hook_name


@dataclass(frozen=True, eq=False)
class Factors:
    """Rank-1 changes of some heads or neurons of one block: each weight gets λ k vᵀ more.

    A head's W_O (d_head, d_model) gets λ outer(k, v); a neuron's row of W_out gets λ k v, with k a
    number. So the block writes (Σ λ k·x + bias) v more, x what goes into each: steering along v
    with a coefficient that is read off the components.
    """

    place: Place
    of: int
    """How many heads or neurons the block has."""
    units: Int[Tensor, " unit"]
    """Which of them are changed."""
    strengths: Float[Tensor, " unit"]
    """λ."""
    reads: Float[Tensor, "unit d_in"]
    """k: of a head d_head numbers, of a neuron one."""
    writes: Float[Tensor, " d_model"]
    """v, at the output projection."""
    toward: Float[Tensor, " d_model"]
    """The unit direction in the stream that v serves; v itself where no norm follows the block."""
    bias: float = 0.0
    """What the block's bias gets more, along v."""
    norm: str | None = None
    """The norm between the block and the stream, by name."""

    def __post_init__(self) -> None:
        """Raise BadInputError on shapes that do not go together, or values that are not finite."""
        n, units = len(self.units), self.units
        if self.strengths.shape != (n,) or self.reads.shape[:1] != (n,) or self.reads.ndim != 2:
            raise BadInputError(
                f"An edit of {n} components needs {n} strengths and {n} vectors that read; got "
                f"{tuple(self.strengths.shape)} and {tuple(self.reads.shape)}."
            )
        if n and (
            int(units.min()) < 0 or int(units.max()) >= self.of or len(set(units.tolist())) < n
        ):
            raise BadInputError(
                f"The components of {self.name} are {n} different ones from 0 to {self.of - 1}; "
                f"got {units.tolist()[:8]}."
            )
        if self.writes.shape != self.toward.shape or self.writes.ndim != 1:
            raise BadInputError(f"What {self.name} writes and what it serves differ in shape.")
        for each in (self.strengths, self.reads, self.writes, self.toward):
            if not torch.isfinite(each).all() or not isfinite(self.bias):
                raise BadInputError(f"The factors of {self.name} are not all finite numbers.")

    @property
    def name(self) -> str:
        """The block's hook point: where what it writes arrives."""
        layer, block = self.place
        return hook_name(f"{block}_out", layer)

    @property
    def labels(self) -> list[str]:
        """The components' names, as `L3H5` or `L3N120`."""
        return [label(*self.place, i) for i in self.units.tolist()]

    def scaled(self, factor: float) -> Factors:
        """Return the same change, so many times as strong."""
        return replace(self, strengths=factor * self.strengths, bias=factor * self.bias)

    def readout(self) -> Direction:
        """Return Σ λ k as one vector over everything that goes into the block.

        Its shape is that of the activation: (head, d_head) at `z`, (neuron) at `mlp_post`.
        """
        layer, block = self.place
        whole = torch.zeros(self.of, self.reads.shape[1])
        whole[self.units] = self.strengths[:, None] * self.reads
        site, vector = ("z", whole) if block == "attn" else ("mlp_post", whole[:, 0])
        return Direction(hook_name(site, layer), vector, name=", ".join(self._short()))

    def _short(self) -> list[str]:
        labels = self.labels
        return labels if len(labels) <= 3 else [*labels[:2], f"{len(labels) - 2} more"]


@dataclass(frozen=True, eq=False)
class Gates:
    """Fixed gates and offsets on heads' z: z' = gain * z + offset, entry by entry.

    In the weights: W_O' = diag(gain) W_O, and b_O gets offset @ W_O more.
    """

    layer: int
    gain: Float[Tensor, "head d_head"]
    offset: Float[Tensor, "head d_head"]

    def __post_init__(self) -> None:
        """Raise BadInputError on shapes that differ, or values that are not finite."""
        if self.gain.shape != self.offset.shape or self.gain.ndim != 2:
            raise BadInputError(
                f"Gains and offsets of layer {self.layer} are both (head, d_head); got "
                f"{tuple(self.gain.shape)} and {tuple(self.offset.shape)}."
            )
        if not (torch.isfinite(self.gain).all() and torch.isfinite(self.offset).all()):
            raise BadInputError(f"Gains or offsets of layer {self.layer} are not finite.")

    @property
    def place(self) -> Place:
        """The layer, and attention."""
        return self.layer, "attn"

    @property
    def units(self) -> Int[Tensor, " unit"]:
        """The heads whose gains or offsets do anything."""
        return ((self.gain != 1) | (self.offset != 0)).any(-1).nonzero().flatten()

    @property
    def labels(self) -> list[str]:
        """Their names, as `L3H5`."""
        return [label(*self.place, i) for i in self.units.tolist()]

    def scaled(self, factor: float) -> Gates:
        """Return gates so many times as far from doing nothing."""
        return Gates(self.layer, 1 + factor * (self.gain - 1), factor * self.offset)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """A direction taken out of token and position embeddings: W - share (W û) ûᵀ."""

    direction: Float[Tensor, " d_model"]
    """û, of length 1."""
    share: float = 1.0

    def __post_init__(self) -> None:
        """Raise BadInputError on a share outside 0 to 1: an ablation has no other strength."""
        if not 0 <= self.share <= 1:
            raise BadInputError(
                f"A direction is taken out of embeddings by a share from 0 to 1; got {self.share}."
            )

    def scaled(self, factor: float) -> Embeddings:
        """Return the same with another share."""
        return replace(self, share=factor * self.share)
