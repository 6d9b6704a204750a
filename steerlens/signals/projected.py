"""The score of a condition in CAST: how much of an activation its projection on a direction is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.directions.direction import check_direction
from steerlens.signals.moment import Moment
from steerlens.signals.signal import Combining, Values


@dataclass(frozen=True, eq=False)
class ProjectedCosine(Combining):
    """cos(x, tanh(P x)), with P = c cᵀ / cᵀc: CAST's score of a condition c (arXiv 2409.05907).

    At most 1, and the same for c and -c: P x points to the same side as x. While P x is small it is
    |cos(x, c)|; tanh, entry by entry, bounds what single large entries count for, and where they
    are most of P x it may fall below 0.
    Compare it to make a gate, of the prompt as a whole:

    >>> condition = directions["resid_post", 1]
    >>> from steerlens.signals import OfPrompt
    >>> OfPrompt(ProjectedCosine(condition)).at(condition.hook_name) > 0.05
    (of_prompt(projected_cosine('direction'), 'mean').at('blocks.1.hook_resid_post') > 0.05)
    """

    direction: Direction

    def __post_init__(self) -> None:
        """Raise BadInputError on anything but a direction."""
        check_direction(self.direction, "A projected cosine")

    def __call__(self, moment: Moment) -> Values:
        """Return the score of each token, 0 where the activation or its projection is."""
        return projected_cosine(moment.x.flatten(2), moment.beside(self.direction.vector).flatten())

    def __repr__(self) -> str:
        """Return `projected_cosine('harm')`."""
        return f"projected_cosine({self.direction.name!r})"


def projected_cosine(
    x: Float[Tensor, "*rows d"], direction: Float[Tensor, " d"]
) -> Float[Tensor, "*rows"]:
    """Return cos(x, tanh(P x)) of each row, P the projection on a direction of any length.

    >>> projected_cosine(torch.tensor([3.0, 4.0]), torch.tensor([2.0, 0.0]))
    tensor(0.6000)
    """
    c = direction.to(x.device, x.dtype)
    unit = c / c.norm().clamp_min(1e-12)
    squashed = torch.tanh((x @ unit)[..., None] * unit)
    lengths = x.norm(dim=-1) * squashed.norm(dim=-1)
    score: Tensor = (x * squashed).sum(-1) / lengths.clamp_min(1e-12)
    return score.clamp(-1, 1)  # rounding takes it beyond
