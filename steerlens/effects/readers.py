"""How later heads read a direction, by their weights alone: no pass is run.

Through the norm before attention at a scale of 1, so that figures of one layer compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card
from steerlens.components import components
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.host import Host, split_name

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False, eq=False)
class Readers:
    """How strongly each later head reads a direction, beside a random one.

    1 is what the head reads of a random direction of the same length, in the mean over such; a
    head whose keys read it strongly attends to tokens that carry it, one whose values do
    moves it on.
    """

    direction: str
    first: int
    """The first layer that can read it."""
    q: Float[Tensor, "layer head"]
    """|v W_Q|, as a multiple of chance; of layers from `first` on."""
    k: Float[Tensor, "layer head"]
    v: Float[Tensor, "layer head"]
    """|v W_V W_O|, as a multiple of chance."""
    copies: Float[Tensor, "layer head"]
    """Cosine of v W_V W_O with v: 1 where the head hands the direction on as it is."""

    def top(self, n: int = 5, by: str = "v") -> list[tuple[int, int]]:
        """Return the n heads that read it most by `q`, `k`, `v` or |`copies`|: (layer, head)."""
        values = getattr(self, by).abs() if by in ("q", "k", "v", "copies") else None
        if values is None:
            raise BadInputError(f"Heads read by q, k or v, and copy; there is no {by!r}.")
        order = values.flatten().argsort(descending=True, stable=True)[:n].tolist()
        return [(self.first + i // values.shape[1], i % values.shape[1]) for i in order]

    def frame(self) -> pandas.DataFrame:
        """Return a table: `layer`, `head`, `q`, `k`, `v`, `copies`."""
        import pandas

        layers, heads = self.q.shape
        places = [(layer, head) for layer in range(layers) for head in range(heads)]
        columns = {
            name: [float(getattr(self, name)[place]) for place in places]
            for name in ("q", "k", "v", "copies")
        }
        at = {"layer": [self.first + i for i, _ in places], "head": [i for _, i in places]}
        return pandas.DataFrame(at | columns)

    def __repr__(self) -> str:
        """Return who reads it most."""
        return f"Readers({'; '.join(f'{name} {told}' for name, told in self._told().items())})"

    def _told(self) -> dict[str, str]:
        return {
            f"{self.direction} by {by}": ", ".join(
                f"L{layer}H{head} {float(getattr(self, by)[layer - self.first, head]):.2g}"
                for layer, head in self.top(3, by)
            )
            for by in ("q", "k", "v")
        }

    def _repr_html_(self) -> str:
        return card(f"Who reads {self.direction}, as multiples of chance", self._told())


def readers(model: Host, direction: Direction) -> Readers:
    """Return how strongly later heads read a direction of the stream, by their weights.

    Norms of queries and keys that follow their projections (Qwen3, OLMo-2) are left out. Raises
    BadInputError on a direction that is not of the stream, or after the last layer. Cost: one
    product a head and projection, no pass.

    >>> readers(model, directions["resid_post", 2]).q.shape
    torch.Size([3, 8])
    """
    site, layer = split_name(direction.hook_name)
    width, layers = int(model.cfg.d_model), int(model.cfg.n_layers)
    if layer is None or direction.vector.shape != (width,):
        raise BadInputError(f"{direction!r} is not a direction of the stream.")
    first = layer if site == "resid_pre" else layer + 1
    if first >= layers:
        raise BadInputError(f"No head reads {direction!r}: it is written after the last of them.")
    weights, found = components(model), list[tuple[Tensor, ...]]()
    for each in range(first, layers):
        norm = weights.before(each)
        vector = direction.unit().vector.to(weights.unembedding.device)
        seen = vector if norm is None else norm.gain * norm.centre(vector)
        gain = torch.ones_like(vector) if norm is None else norm.gain
        found.append(_head_scores(weights.reading(each), weights.heads(each), vector, seen, gain))
    q, k, v, copies = (torch.stack(each).cpu() for each in zip(*found, strict=True))
    return Readers(direction.name, first, q, k, v, copies)


def _head_scores(
    projections: tuple[Float[Tensor, "head d_model d_head"], ...],
    out: Float[Tensor, "head d_head d_model"],
    vector: Float[Tensor, " d_model"],
    seen: Float[Tensor, " d_model"],
    gain: Float[Tensor, " d_model"],
) -> tuple[Float[Tensor, " head"], ...]:
    """What each head reads of what it sees of a unit vector, as multiples of chance."""
    maps = [*projections[:2], projections[2] @ out]
    read = [einsum(seen, each, "d, head d out -> head out") for each in maps]
    chance = [(gain[:, None] * each).square().sum((1, 2)).div(len(gain)).sqrt() for each in maps]
    scores = [x.norm(dim=1) / c.clamp_min(1e-12) for x, c in zip(read, chance, strict=True)]
    return *scores, torch.cosine_similarity(read[2], vector[None], dim=1)
