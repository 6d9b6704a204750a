"""Conditions on the prompt, as CAST has them: a direction, a bound for its score, and the search.

A prompt is one vector, and its score cos(h, tanh(P h)) is compared with a bound. Layer, bound and
side are those of the highest F1 on prompts that meet the condition and prompts that do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.activations import Activations, collect
from steerlens.cards import card, number
from steerlens.contrast import Contrast
from steerlens.directions import Direction, find_directions
from steerlens.errors import BadInputError, warn
from steerlens.host import Host
from steerlens.names import hook_name as full_name
from steerlens.positions import Positions
from steerlens.signals import At, OfPrompt, ProjectedCosine, Threshold
from steerlens.signals.projected import projected_cosine

if TYPE_CHECKING:
    import pandas

Side = Literal["above", "below"]
Pool = Literal["mean", "last"]
SIDES: tuple[Side, ...] = ("above", "below")
READ: Mapping[Pool, str] = {"mean": "prompt", "last": "last_prompt_token"}
"""Where a prompt is read that is pooled so."""


@dataclass(frozen=True)
class Point:
    """A bound for scores, the side of it on which a condition is met, and the F1 that gives."""

    bound: float
    side: Side
    f1: float


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """A condition on the prompt: `.gate` is the signal, `.frame()` what every layer came to.

    Gates combine: `steering.when(harm.gate | ~legal.gate)`.
    """

    direction: Direction
    point: Point
    pool: Pool
    tried: Mapping[int, Point]
    """The best point of every layer searched."""
    always: float
    """The F1 of a gate that is always open: what a condition has to surpass."""

    @property
    def layer(self) -> int:
        """The layer at which the prompt is scored."""
        layer = self.direction.layer
        assert layer is not None
        return layer

    @property
    def gate(self) -> Threshold:
        """1 in rows whose prompt meets the condition, 0 in the others."""
        pooled = OfPrompt(ProjectedCosine(self.direction), self.pool)
        score = At(pooled, self.direction.hook_name)
        return Threshold(score, self.point.bound, above=self.point.side == "above")

    def frame(self) -> pandas.DataFrame:
        """Return a line a layer searched: `layer`, `bound`, `side`, `f1`."""
        import pandas

        lines = [(layer, each.bound, each.side, each.f1) for layer, each in self.tried.items()]
        return pandas.DataFrame(lines, columns=["layer", "bound", "side", "f1"])

    def __repr__(self) -> str:
        """Return place, bound and F1."""
        return (
            f"Condition(score at {self.direction.hook_name} {self.point.side} "
            f"{number(self.point.bound)}, F1 {self.point.f1:.2f} on its own items; always open "
            f"{self.always:.2f})"
        )

    def _repr_html_(self) -> str:
        rows = {
            f"layer {layer}": f"{each.side} {number(each.bound)}: F1 {each.f1:.2f}"
            for layer, each in self.tried.items()
        }
        return card(repr(self), rows)


def search(
    model: Host,
    contrast: Contrast,
    layers: Sequence[int],
    *,
    pool: Pool = "mean",
    bounds: Sequence[float] | None = None,
    sides: Sequence[Side] = SIDES,
    progress: bool = True,
) -> Condition:
    """Return the condition whose score tells a contrast's prompts apart best.

    - `contrast`: prompts that meet it, in pairs with prompts that do not. Of items with a
      completion the prompt alone is read.
    - `layers`: where to look; of several that tell equally well the first is taken.
    - `bounds`: those to try; by default the middles between neighbouring scores.

    Its F1 is that on the items it was found on; it warns where that is no better than a gate
    that is always open. Raises BadInputError on unpaired sides. Cost: two forward passes an
    item, up to the highest layer.

    >>> search(model, contrast, [1, 2], progress=False)
    Condition(score at blocks....hook_resid_post ..., F1 ... on its own items; always open 0.67)
    """
    directions = components(model, contrast, layers, READ[pool], "condition", progress)
    names = [each.hook_name for each in directions]
    positive, negative = (
        collect(model, side, names, READ[pool], progress=progress)
        for side in (contrast.positive, contrast.negative)
    )
    points = [
        best_point(_scores(positive, each), _scores(negative, each), bounds=bounds, sides=sides)
        for each in directions
    ]
    best = max(range(len(points)), key=lambda i: points[i].f1)
    found = Condition(
        directions[best],
        points[best],
        pool,
        dict(zip(layers, points, strict=True)),
        always=2 * len(positive.rows) / (2 * len(positive.rows) + len(negative.rows)),
    )
    if found.point.f1 <= found.always:
        warn(
            f"{found!r} tells prompts apart no better than a gate that is always open. Give more "
            "or clearer prompts, or other layers."
        )
    return found


def best_point(
    positive: Float[Tensor, " positive"],
    negative: Float[Tensor, " negative"],
    *,
    bounds: Sequence[float] | None = None,
    sides: Sequence[Side] = SIDES,
) -> Point:
    """Return the bound and side of the highest F1 for the scores of two sides.

    Of several the lowest bound, and there the first side. By default the middles between
    neighbouring scores are tried: no other bound gives more, but one that opens to all.

    >>> best_point(torch.tensor([0.5, 0.7]), torch.tensor([0.1, 0.3]), sides=["above"])
    Point(bound=0.400..., side='above', f1=1.0)
    """
    positive, negative = positive.double(), negative.double()
    tried = _middles(torch.cat([positive, negative]))
    if bounds is not None:
        tried = torch.tensor(bounds, dtype=torch.float64).sort().values
    found = torch.stack([_f1(positive, negative, tried, each) for each in sides], 1)
    bound, side = (found == found.max()).nonzero()[0].tolist()
    return Point(float(tried[bound]), sides[side], float(found[bound, side]))


def components(
    model: Host,
    contrast: Contrast,
    layers: Sequence[int],
    where: Positions | None,
    name: str,
    progress: bool,
) -> list[Direction]:
    """Return the first principal component of centred pairs at each layer, at length 1.

    Pairs centred on their middles are ± d / 2, whose components are those of the differences d
    about zero. The positive side scores higher. Raises BadInputError on unpaired sides.
    """
    if not contrast.paired:
        raise BadInputError(
            f"CAST centres pairs, and the {name}, {contrast!r}, has none. Give sides of one "
            "length; a pair may be any two items, one of each side."
        )
    names = [full_name("resid_post", layer) for layer in layers]
    found = find_directions(
        model,
        contrast,
        "pca",
        hook_names=names,
        positions=where,
        name=name,
        quality=False,
        progress=progress,
    )
    return [found[each].unit() for each in names]


def _scores(side: Activations, direction: Direction) -> Float[Tensor, " n"]:
    examples = side.examples[direction.hook_name]
    return projected_cosine(examples.flatten(1), direction.vector.flatten())


def _f1(
    positive: Float[Tensor, " positive"],
    negative: Float[Tensor, " negative"],
    bounds: Float[Tensor, " bound"],
    side: Side,
) -> Float[Tensor, " bound"]:
    """F1 of "beyond the bound" as a sign of the positive side, bound by bound."""
    hits, alarms = (
        ((each[:, None] > bounds) if side == "above" else (each[:, None] < bounds)).double().sum(0)
        for each in (positive, negative)
    )
    return 2 * hits / (hits + alarms + len(positive))


def _middles(scores: Float[Tensor, " n"]) -> Float[Tensor, " bound"]:
    """The middle between every two neighbouring scores; where all are one, that one."""
    ordered: Tensor = torch.unique(scores)
    return (ordered[1:] + ordered[:-1]) / 2 if len(ordered) > 1 else ordered
