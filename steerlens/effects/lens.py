"""The logit lens of a direction: which tokens it promotes on its straight path to the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card, interval
from steerlens.components import Components, components
from steerlens.directions import Direction
from steerlens.effects.readers import stream_site
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.statistics import Interval, band
from steerlens.text import token_strings

if TYPE_CHECKING:
    import pandas

CHUNK = 16_384
"""Tokens of the vocabulary at a time, so that a large unembedding is never copied whole."""
Promoted = tuple[str, int, float]
"""A token as text, its id, and its score."""


@dataclass(frozen=True, repr=False, eq=False)
class LogitLens:
    """What adding a direction does to the logits by the straight path, through no later block.

    A score is what the token's logit gains on the mean over the vocabulary, as a multiple of what
    random directions of the same length do to that token, by root mean square. How long the
    direction is, the scale of the final norm and the length of the token's unembedding cancel out.
    """

    direction: str
    promoted: tuple[Promoted, ...]
    """The tokens of the highest scores, the first highest."""
    suppressed: tuple[Promoted, ...]
    """The tokens of the lowest scores, the first lowest."""
    scores: Float[Tensor, " d_vocab"]
    chance: Interval
    """95% band, over random directions, of the greatest score of any token."""

    @property
    def beyond_chance(self) -> int:
        """How many of `promoted` and `suppressed` random directions hardly ever reach."""
        named = (*self.promoted, *self.suppressed)
        return sum(abs(score) > self.chance[1] for _, _, score in named)

    def frame(self) -> pandas.DataFrame:
        """Return a table: `token`, `id`, `score`, from the most promoted to the most suppressed."""
        import pandas

        rows = [*self.promoted, *reversed(self.suppressed)]
        return pandas.DataFrame(rows, columns=["token", "id", "score"])

    def __repr__(self) -> str:
        """Return the first tokens of both ends."""
        return f"LogitLens({'; '.join(f'{name} {told}' for name, told in self._told().items())})"

    def _told(self) -> dict[str, str]:
        ends = {"promotes": self.promoted, "suppresses": self.suppressed}
        told = {
            f"{self.direction} {verb}": " ".join(
                f"{token!r} {score:+.1f}" for token, _, score in end[:5]
            )
            for verb, end in ends.items()
        }
        return told | {"chance reaches": interval(*self.chance, digits=1)}

    def _repr_html_(self) -> str:
        return card("Logit lens, as multiples of chance", self._told())


def logit_lens(
    model: Host, direction: Direction, k: int = 10, *, randoms: int = 100, seed: int = 0
) -> LogitLens:
    """Return the k tokens that a direction of the stream promotes most, and the k it suppresses.

    Through the final norm's gain and the unembedding alone (nostalgebraist's logit lens, applied
    to a direction): what later blocks make of it is left out, so that early directions say little
    here; `effect` measures the whole. `randoms` random directions tell how far chance reaches
    over a whole vocabulary.

    Raises BadInputError on a direction that is not of the stream, and on k outside of
    1 ... d_vocab / 2. Cost: `randoms` products with the unembedding, no pass.

    >>> logit_lens(model, directions["resid_post", 3], k=3).frame().shape
    (6, 3)
    """
    stream_site(model, direction)
    weights = components(model)
    most = weights.unembedding.shape[1] // 2
    if not 1 <= k <= most or randoms < 1:
        raise BadInputError(
            f"A logit lens shows k = 1 ... {most} tokens of either end beside 1 random direction "
            f"or more; got k = {k}, randoms = {randoms}."
        )
    drawn = torch.randn(
        randoms, direction.vector.numel(), generator=torch.Generator().manual_seed(seed)
    )
    scores, *others = _scores(weights, torch.cat([direction.vector[None], drawn]))
    chance = band(torch.stack([each.max() for each in others]))
    order = scores.argsort(descending=True, stable=True)
    ends = order[:k], order.flip(0)[:k]
    promoted, suppressed = (_named(model, scores, end) for end in ends)
    return LogitLens(direction.name, promoted, suppressed, scores, chance)


def _scores(weights: Components, vectors: Float[Tensor, "v d_model"]) -> Float[Tensor, "v d_vocab"]:
    """What each vector adds to each token's logit less the mean logit, as multiples of chance."""
    unembedding = weights.unembedding
    mean = unembedding.mean(1, keepdim=True)
    units = torch.nn.functional.normalize(vectors.to(unembedding.device), dim=1)
    found = []
    for columns in torch.split(unembedding, CHUNK, dim=1):
        read = weights.final.pulled((columns - mean).T)
        chance = read.norm(dim=1) / read.shape[1] ** 0.5
        found.append((units @ read.T / chance.clamp_min(1e-30)).cpu())
    return torch.cat(found, dim=1)


def _named(model: Host, scores: Tensor, ids: Tensor) -> tuple[Promoted, ...]:
    names = token_strings(model, ids)
    return tuple(zip(names, ids.tolist(), scores[ids].tolist(), strict=True))
