"""Attribute against utility: fronts, their volume, and the attribute at some utility.

Here more is better in every measure: give the negative of a cost such as KL. Choose points on
validation items, and give the figures of those points on test items: the best of many points looks
better on the items that chose it than it is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.evaluation.tasks import one_of

if TYPE_CHECKING:
    import pandas

Along = Literal["front", "curve"]


def front(points: Float[Tensor, "point measure"]) -> Bool[Tensor, " point"]:
    """Return which points no other one dominates: as good in every measure, better in one.

    Equal points stand or fall together; a point with NaN is never on the front. Cost: compares
    every pair.

    >>> front(torch.tensor([[0.0, 3.0], [1.0, 1.0], [2.0, 1.0], [1.0, 0.0]]))
    tensor([ True, False,  True, False])
    """
    known = ~points.isnan().any(1)
    as_good = (points[:, None] >= points[None]).all(2)
    better = (points[:, None] > points[None]).any(2)
    return known & ~(as_good & better).any(0)


def front_lines(
    frame: pandas.DataFrame,
    measures: Sequence[str],
    *,
    lower: Collection[str] = (),
    by: Sequence[str] = (),
) -> pandas.DataFrame:
    """Return the lines of a table that are on the front of some of its columns.

    Of the `measures`, those in `lower` are better the lower they are. With `by`, each group has a
    front of its own. Raises BadInputError where a column is not there.

    >>> import pandas
    >>> frame = pandas.DataFrame({"score": [0.1, 0.5, 0.4], "kl": [0.0, 0.2, 0.3]})
    >>> front_lines(frame, ["score", "kl"], lower=["kl"]).index.tolist()
    [0, 1]
    """
    absent = [name for name in (*measures, *lower, *by) if name not in frame.columns]
    if absent or not measures:
        raise BadInputError(
            f"The table has no columns {absent} to draw a front of; it has {list(frame.columns)}."
        )
    signs = torch.tensor([-1.0 if name in lower else 1.0 for name in measures]).double()
    values = torch.tensor(frame[list(measures)].to_numpy(dtype="float64")) * signs
    groups = frame.groupby(list(by), sort=False, dropna=False).ngroup() if by else [0] * len(frame)
    number = torch.tensor(list(groups), dtype=torch.long)
    kept = torch.zeros(len(frame), dtype=torch.bool)
    for each in range(int(max(groups, default=-1)) + 1):
        kept[number == each] = front(values[number == each])
    return frame[kept.numpy()]


def hypervolume(
    points: Float[Tensor, "point measure"], reference: Float[Tensor, " measure"]
) -> float:
    """Return the volume that points dominate above a reference, in the product of their units.

    In two measures, the area under the front's staircase. Points that are not above the reference
    in every measure add nothing. Exact, by slicing along one measure after another (Knowles, 2002);
    cost: a sort in two measures, and a further factor of the number of points for each one more.

    >>> hypervolume(torch.tensor([[1.0, 3.0], [2.0, 1.0]]), torch.zeros(2))
    4.0
    """
    above = points[(points > reference).all(1)].double() - reference.double()
    return float(_volume(above))


def _volume(points: Tensor) -> Tensor:
    """The volume between zero and points above it, in slabs of the last measure."""
    if len(points) == 0:
        return torch.zeros((), dtype=torch.float64)
    if points.shape[1] == 1:
        return points.max()
    points = points[front(points)]
    points = points[points[:, -1].argsort(descending=True)]
    heights = torch.cat([points[:, -1], torch.zeros(1)])
    if points.shape[1] == 2:
        areas = points[:, 0].cummax(0).values
    else:
        areas = torch.stack([_volume(points[: i + 1, :-1]) for i in range(len(points))])
    return (areas * (heights[:-1] - heights[1:])).sum()


def attribute_at(
    attribute: Float[Tensor, "point *batch"],
    utility: Float[Tensor, "point *batch"],
    target: float,
    *,
    along: Along = "front",
) -> Float[Tensor, "*batch"]:
    """Return the attribute where the utility is `target`, interpolated in a straight line.

    - Along the "front" of the points: what one can have at this utility or more. Between two
      points of the front it is what drawing lots between them gives.
    - Along the "curve" through the points in their order, by growing dose: between the last point
      before the utility first falls below the target, and that one.

    NaN where it is not reached: all of the front has less utility, or the curve starts below or
    stays above. Cost: a few passes over the numbers.

    >>> attribute, utility = torch.tensor([0.0, 0.6, 0.8]), torch.tensor([1.0, 0.9, 0.5])
    >>> attribute_at(attribute, utility, 0.7)
    tensor(0.7000)
    """
    one_of("along", along, get_args(Along))
    interpolated = _along_curve if along == "curve" else _along_front
    return interpolated(attribute, utility, target)


def _along_front(attribute: Tensor, utility: Tensor, target: float) -> Float[Tensor, "*batch"]:
    known = attribute.isfinite() & utility.isfinite()
    lowest = torch.full_like(attribute, -torch.inf)
    enough = known & (utility >= target)
    here = attribute.where(enough, lowest).amax(0)
    here_at = utility.where(enough & (attribute == here), lowest).amax(0)
    beyond = known & (utility < target) & (attribute > here)
    there_at = utility.where(beyond, lowest).amax(0)
    there = attribute.where(beyond & (utility == there_at), lowest).amax(0)
    share = (here_at - target) / (here_at - there_at)
    between = torch.where(beyond.any(0), here + share * (there - here), here)
    return between.where(enough.any(0), torch.full_like(between, torch.nan))


def _along_curve(attribute: Tensor, utility: Tensor, target: float) -> Float[Tensor, "*batch"]:
    below = utility < target
    second = below.int().argmax(0, keepdim=True)
    first = (second - 1).clamp_min(0)
    a, b = (attribute.gather(0, each).squeeze(0) for each in (first, second))
    u, v = (utility.gather(0, each).squeeze(0) for each in (first, second))
    between = a + (u - target) / (u - v) * (b - a)
    nowhere = torch.full_like(between, torch.nan)
    # A curve that ends above the target may still touch it, at the last point that does.
    touching = (utility == target).int()
    last = len(utility) - 1 - touching.flip(0).argmax(0, keepdim=True)
    touched = attribute.gather(0, last).squeeze(0).where(touching.any(0), nowhere)
    return torch.where(below.any(0), between.where(~below[0], nowhere), touched)
