"""Directions: what a finder returns, by hook name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerlens.cards import count, interval, number, table_card
from steerlens.directions.direction import Direction
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.names import Key, at_hook, split_name

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Directions(Mapping[str, Direction]):
    """Directions by hook name, as ActivationCache is: `directions["resid_post", 14]`.

    Raises UnknownNameError, with the layers that there are, on any other name.

    >>> directions["resid_post", 2] is directions["blocks.2.hook_resid_post"]
    True
    """

    found: Mapping[str, Direction]

    def __getitem__(self, key: Key) -> Direction:
        """Return the direction at a hook name, or at a (site, layer)."""
        return at_hook(self.found, key, "direction")

    def __iter__(self) -> Iterator[str]:
        """Iterate over hook names, in the order of the model."""
        return iter(self.found)

    def __len__(self) -> int:
        """Return the number of directions."""
        return len(self.found)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that hold a direction."""
        return tuple(sorted({d.layer for d in self.found.values() if d.layer is not None}))

    def best(self, by: str = "auc") -> Direction:
        """Return the direction of the highest held-out "auc" or "effect_size"."""
        if by not in ("auc", "effect_size"):
            raise UnknownNameError(
                f"Directions are compared by 'auc' or 'effect_size', not {by!r}."
            )
        if any(direction.quality is None for direction in self.found.values()):
            raise BadInputError(
                "best() needs held-out quality: find with quality=True, and 4 items a side or more."
            )
        return max(self.found.values(), key=lambda direction: getattr(direction.quality, by))

    def frame(self) -> pandas.DataFrame:
        """Return a table, a line a direction, in the order of the model.

        Columns: `hook_name`, `layer`, `name`, `norm`, and of its held-out quality, missing where it
        was not measured: `auc`, `auc_low`, `auc_high` (its interval), `effect_size`, `placebo_low`,
        `placebo_high` (the band of shuffled labels), `random_low`, `random_high` (that of random
        directions), `rank`, `beyond_placebo`.

        >>> directions.frame().columns[:4].tolist()
        ['hook_name', 'layer', 'name', 'norm']
        """
        import pandas

        table = pandas.DataFrame([_line(each) for each in self.found.values()])
        return table.astype({"layer": "Int64", "rank": "Int64", "beyond_placebo": "boolean"})

    def __repr__(self) -> str:
        """Return a line a direction."""
        sites = {split_name(name)[0] for name in self.found}
        head = f"Directions({count(len(self), 'direction')} at {', '.join(sorted(sites))})"
        return "\n".join([head, *(f"  {direction!r}" for direction in self.found.values())])

    def _repr_html_(self) -> str:
        found = list(self.found.values())
        told = dict.fromkeys(each.items for each in found if each.items)
        names = ", ".join(repr(name) for name in dict.fromkeys(each.name for each in found))
        title = ", ".join([f"Directions {names}: {count(len(self), 'direction')}", *told])
        head = ["at", "length", "held-out AUC", "effect size", "halves agree", "placebo", "rank"]
        return table_card(title, head, [_told(each) for each in found])


def listed(directions: Direction | Directions) -> list[Direction]:
    """Return one direction, or all of several in the order of the model, as a list.

    >>> [each.layer for each in listed(directions)] == list(directions.layers)
    True
    """
    return [directions] if isinstance(directions, Direction) else list(directions.values())


def _line(direction: Direction) -> dict[str, Any]:
    """A direction's place, length and quality, by the table's columns."""
    q = direction.quality
    nan = (float("nan"),) * 2
    bands = (nan,) * 3 if q is None else (q.auc_interval, q.shuffled_band, q.random_band)
    interval_, shuffled, random = bands
    return {
        "hook_name": direction.hook_name,
        "layer": direction.layer,
        "name": direction.name,
        "norm": direction.norm,
        "auc": nan[0] if q is None else q.auc,
        "auc_low": interval_[0],
        "auc_high": interval_[1],
        "effect_size": nan[0] if q is None else q.effect_size,
        "placebo_low": shuffled[0],
        "placebo_high": shuffled[1],
        "random_low": random[0],
        "random_high": random[1],
        "rank": None if q is None else q.rank,
        "beyond_placebo": None if q is None else q.beyond_placebo,
    }


def _told(direction: Direction) -> list[str]:
    """A direction's place, length and quality, as a line of the table."""
    line = [direction.hook_name, number(direction.norm)]
    if (q := direction.quality) is None:
        return [*line, "not measured", *[""] * 4]
    beside = (interval(*q.shuffled_band), interval(*q.random_band))
    return [
        *line,
        f"{q.auc:.2f} {interval(*q.auc_interval)}",
        f"{q.effect_size:.1f} sd",
        f"cosine {q.split_half_cosine:.2f}",
        f"labels {beside[0]}, random {beside[1]}",
        f"{q.rank} of {2 * q.placebos + 1}",
    ]
