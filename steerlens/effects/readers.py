"""How later heads read a direction, by their weights alone: no pass is run.

Through the norm before attention at a scale of 1, so that figures of one layer compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card
from steerlens.components import Norm, components
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.names import STREAM, split_name
from steerlens.statistics import largest

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False, eq=False)
class Readers:
    """How strongly each later head reads a direction, beside a random one.

    1 is what the head reads of random directions of the same length, by root mean square; a
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
    """Cosine of v W_V W_O with v: 1 where the head hands the direction on as it is, the norm after
    attention included."""

    def top(self, n: int = 5, by: str = "v") -> list[tuple[int, int]]:
        """Return the n heads that read it most by `q`, `k`, `v` or |`copies`|: (layer, head)."""
        if by not in ("q", "k", "v", "copies"):
            raise BadInputError(f"Heads read by q, k or v, and copy; there is no {by!r}.")
        return [(self.first + layer, head) for layer, head in largest(getattr(self, by), n)]

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
    site, layer = stream_site(model, direction)
    layers = int(model.cfg.n_layers)
    first = layer if site == "resid_pre" else layer + 1
    if first >= layers:
        raise BadInputError(f"No head reads {direction!r}: it is written after the last of them.")
    weights, found = components(model), list[tuple[Tensor, ...]]()
    for each in range(first, layers):
        norm = weights.before(each)
        vector = direction.unit().vector.to(weights.unembedding.device)
        seen = vector if norm is None else norm.gain * norm.centre(vector)
        after = weights.after(each, "attn")
        out = weights.heads(each)
        out = out if after is None else after.centre(out) * after.gain
        *queries, values = weights.reading(each)
        maps = [*queries, values @ out]
        found.append(head_scores([*map(through_norm(norm), maps)], maps, vector, seen))
    q, k, v, copies = (torch.stack(each).cpu() for each in zip(*found, strict=True))
    return Readers(direction.name, first, q, k, v, copies)


def stream_site(model: Host, direction: Direction) -> tuple[str, int]:
    """Return the site and layer of a direction of the stream. Raises BadInputError on others."""
    if not isinstance(direction, Direction):
        raise BadInputError(
            f"This reads one direction by the model's weights; got {type(direction).__name__}."
        )
    site, layer = split_name(direction.hook_name)
    if layer is None or site not in STREAM or direction.vector.shape != (int(model.cfg.d_model),):
        raise BadInputError(
            f"{direction!r} is not a direction of this model's stream. Find one at "
            f"{', '.join(STREAM)}."
        )
    return site, layer


def through_norm(norm: Norm | None) -> Callable[[Tensor], Tensor]:
    """Return what turns a map of a norm's output into one of its input, at a scale of 1."""

    def through(each: Float[Tensor, "head d_model _"]) -> Float[Tensor, "head d_model _"]:
        return each if norm is None else norm.pulled(each.mT).mT

    return through


def head_scores(
    whole: Sequence[Float[Tensor, "head d_model _"]],
    maps: Sequence[Float[Tensor, "head d_model _"]],
    vector: Float[Tensor, " d_model"],
    seen: Float[Tensor, " d_model"],
) -> tuple[Float[Tensor, " head"], ...]:
    """Return what each head reads of what it sees of a unit vector, as multiples of chance."""
    read = [einsum(seen, each, "d, head d out -> head out") for each in maps]
    chance = [each.square().sum((1, 2)).div(len(vector)).sqrt() for each in whole]
    scores = [x.norm(dim=1) / c.clamp_min(1e-12) for x, c in zip(read, chance, strict=True)]
    return *scores, torch.cosine_similarity(read[2], vector[None], dim=1)
