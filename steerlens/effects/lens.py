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

Promoted = tuple[str, int, float]
"""A token as text, its id, and its score."""


@dataclass(frozen=True, repr=False, eq=False)
class LogitLens:
    """What adding a direction does to the logits by the straight path, through no later block.

    A score is the token's change of logit less the mean change, in standard deviations over the
    vocabulary: how long the direction is, and the scale of the final norm, cancel out.
    """

    direction: str
    promoted: tuple[Promoted, ...]
    """The tokens whose logits rise most, the first most."""
    suppressed: tuple[Promoted, ...]
    """The tokens whose logits fall most, the first most."""
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
        return card("Logit lens, in standard deviations over the vocabulary", self._told())


def logit_lens(
    model: Host, direction: Direction, k: int = 10, *, randoms: int = 100, seed: int = 0
) -> LogitLens:
    """Return the k tokens that a direction of the stream promotes most, and the k it suppresses.

    Through the final norm's gain and the unembedding alone (nostalgebraist's logit lens, applied
    to a direction): what later blocks make of it is left out, so that early directions say little
    here; `effect` measures the whole. `randoms` random directions tell how far chance reaches.

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
    scores = _scores(weights, direction.vector[None])[0]
    drawn = torch.randn(
        randoms, len(direction.vector), generator=torch.Generator().manual_seed(seed)
    )
    chance = band(torch.cat([_scores(weights, each[None]).amax(1) for each in drawn]))
    order = scores.argsort(descending=True, stable=True)
    ends = order[:k], order.flip(0)[:k]
    promoted, suppressed = (_named(model, scores, end) for end in ends)
    return LogitLens(direction.name, promoted, suppressed, scores, chance)


def _scores(weights: Components, vectors: Float[Tensor, "v d_model"]) -> Float[Tensor, "v d_vocab"]:
    """Each vector's change of the logits, standardised over the vocabulary."""
    norm, unembedding = weights.final, weights.unembedding
    seen = norm.gain * norm.centre(vectors.to(unembedding.device))
    logits = (seen @ unembedding).cpu()
    return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True).clamp_min(1e-30)


def _named(model: Host, scores: Tensor, ids: Tensor) -> tuple[Promoted, ...]:
    names = token_strings(model, ids)
    return tuple(zip(names, ids.tolist(), scores[ids].tolist(), strict=True))
