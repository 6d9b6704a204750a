"""Methods' trade-offs, item by item: the attribute at matched utility, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.evaluation.pareto import Along, attribute_at
from steerlens.statistics import Interval, band, expanded_level, expanded_p, resampled_rows

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """What a method buys and what it costs: each item's scores at each of its points.

    Points are doses, layers or whatever was tried, in an order of their own.
    """

    name: str
    attribute: Float[Tensor, "point item"]
    utility: Float[Tensor, "_ other_item"]
    """Of the same points; more is better, and items may be others than the attribute's."""

    def __post_init__(self) -> None:
        """Raise BadInputError where there is not one attribute and one utility a point."""
        if len(self.attribute) != len(self.utility) or len(self.attribute) == 0:
            raise BadInputError(
                f"{self.name!r} has {len(self.attribute)} points of attribute and "
                f"{len(self.utility)} of utility. Give both for each point."
            )

    @classmethod
    def from_frame(
        cls,
        name: str,
        frame: pandas.DataFrame,
        *,
        attribute: str = "score",
        utility: str = "utility",
        lower: bool = False,
    ) -> Tradeoff:
        """Return the trade-off in a table with a line for each point, `measure` and `item`.

        Such is the table of `steering_sweep(..., each_item=True)`. Points keep the table's order;
        with `lower`, `utility` names a cost, such as "kl", and its negative is taken.
        """
        sides = [_pivoted(frame, attribute), _pivoted(frame, utility)]
        return cls(name, sides[0], -sides[1] if lower else sides[1])

    @property
    def points(self) -> Float[Tensor, "point 2"]:
        """The mean attribute and utility of each point."""
        return torch.stack([each.double().mean(1) for each in (self.attribute, self.utility)], 1)

    def attribute_at(self, target: float, *, along: Along = "front") -> float:
        """Return the mean attribute where the mean utility is `target`, NaN where it never is.

        Along the front, or the curve through the points: see `pareto.attribute_at`.
        """
        attribute, utility = self.points.unbind(1)
        return float(attribute_at(attribute, utility, target, along=along))

    def part(self, points: Bool[Tensor, " point"] | Int[Tensor, " part"]) -> Tradeoff:
        """Return the trade-off at some points: those that validation items chose."""
        return replace(self, attribute=self.attribute[points], utility=self.utility[points])


def at_matched_utility(
    tradeoffs: Sequence[Tradeoff],
    target: float,
    *,
    along: Along = "front",
    same_items: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> pandas.DataFrame:
    """Return each method's attribute where its utility is `target`, and how it differs.

    Methods share their items, which are resampled together (a paired bootstrap); with `same_items`
    the items of the utility are those of the attribute, and are resampled with them. Points are
    interpolated anew in each resample (`attribute_at`).

    Columns: `method`, `attribute` with `low` and `high` (95%), `difference` from the first method
    with `difference_low`, `difference_high` and the two-sided `p` (missing in the first's line;
    correct several with `holm`), and `reached`, the share of resamples that reach the target:
    intervals are of those alone, so choose a target well inside where it is below 1.

    Raises BadInputError where a method does not reach the target, or items differ in number.

    >>> items, doses = torch.randn(40), torch.tensor([[0.0], [1.0], [2.0]])
    >>> weak = Tradeoff("weak", items + doses, items - doses)
    >>> strong = Tradeoff("strong", items + 2 * doses, items - doses)
    >>> table = at_matched_utility([weak, strong], float(items.mean()) - 1.5, same_items=True)
    >>> table["difference"].round(3).tolist()
    [nan, 1.5]
    """
    _check(tradeoffs, same_items, along, target)
    generator = torch.Generator().manual_seed(seed)
    rows = resampled_rows(tradeoffs[0].attribute.shape[1], generator, resamples)
    others = rows
    if not same_items:
        others = resampled_rows(tradeoffs[0].utility.shape[1], generator, resamples)
    lines: list[dict[str, object]] = []
    base: tuple[float, Tensor] | None = None
    for each in tradeoffs:
        value = each.attribute_at(target, along=along)
        sides = _means(each.attribute, rows), _means(each.utility, others)
        drawn = attribute_at(sides[0], sides[1], target, along=along)
        base = base or (value, drawn)
        fewest = min(each.attribute.shape[1], each.utility.shape[1])
        lines.append(_line(each.name, value, drawn, fewest, base if lines else None))
    import pandas

    return pandas.DataFrame(lines)


def _line(
    name: str, value: float, drawn: Tensor, items: int, base: tuple[float, Tensor] | None
) -> dict[str, object]:
    low, high = _interval(drawn, items)
    line: dict[str, object] = {"method": name, "attribute": value, "low": low, "high": high}
    gaps = drawn - base[1] if base else torch.full_like(drawn, torch.nan)
    below, above = _interval(gaps, items)
    return line | {
        "difference": value - base[0] if base else torch.nan,
        "difference_low": below,
        "difference_high": above,
        "p": expanded_p(gaps[~gaps.isnan()], items) if base else torch.nan,
        "reached": float((~drawn.isnan()).double().mean()),
    }


def _interval(drawn: Tensor, items: int) -> Interval:
    known = drawn[~drawn.isnan()]
    return band(known, expanded_level(items)) if len(known) else (torch.nan, torch.nan)


def _means(
    values: Float[Tensor, "point item"], rows: Int[Tensor, "item resample"]
) -> Float[Tensor, "point resample"]:
    return torch.stack([each.double()[rows].mean(0) for each in values])


def _check(tradeoffs: Sequence[Tradeoff], same_items: bool, along: Along, target: float) -> None:
    """Raise BadInputError where trade-offs cannot be compared at the target."""
    if not tradeoffs:
        raise BadInputError("There are no trade-offs to compare. Give a Tradeoff or more.")
    first = tradeoffs[0]
    for each in tradeoffs:
        sizes = each.attribute.shape[1], each.utility.shape[1]
        if sizes != (first.attribute.shape[1], first.utility.shape[1]) or min(sizes) < 2:
            raise BadInputError(
                f"{each.name!r} has {sizes[0]} items of attribute and {sizes[1]} of utility, "
                f"{first.name!r} {first.attribute.shape[1]} and {first.utility.shape[1]}. Score "
                "all methods on the same items, two or more."
            )
        if same_items and sizes[0] != sizes[1]:
            raise BadInputError(
                f"With same_items, {each.name!r} needs a utility for each of its {sizes[0]} items "
                f"of attribute; there are {sizes[1]}."
            )
        utility = each.points[:, 1]
        if isnan(each.attribute_at(target, along=along)):
            raise BadInputError(
                f"{each.name!r} does not reach the utility {target:g} along its {along}: its "
                f"points begin at {float(utility[0]):g} and go from {float(utility.max()):g} to "
                f"{float(utility.min()):g}. Choose a target between, or try more doses."
            )


def _pivoted(frame: pandas.DataFrame, measure: str) -> Float[Tensor, "point item"]:
    """The values of a measure: points down, items across."""
    import pandas

    lines = frame[frame["measure"] == measure]
    if lines.empty:
        raise BadInputError(
            f"The table measures {list(frame['measure'].unique())}, not {measure!r}. Sweep with "
            "each_item=True, and with the task or items that give it."
        )
    points = [name for name in frame.columns if name not in ("measure", "item", "value")]
    order = lines.groupby(points, sort=False, dropna=False).ngroup()
    keyed = pandas.DataFrame({"point": order, "item": lines["item"], "value": lines["value"]})
    if keyed.duplicated(["point", "item"]).any():
        raise BadInputError(
            f"The table has {measure!r} of one item twice at one point. Give the lines of one "
            "method and one run, each coefficient once."
        )
    table = keyed.pivot(index="point", columns="item", values="value")
    if len(keyed) != table.size:
        raise BadInputError(
            f"The table lacks {measure!r} of some items at some points. Give a whole sweep's table."
        )
    return torch.tensor(table.to_numpy(dtype="float64")).float()
