"""Choosing a method's configuration on validation items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from steerlens.cards import count, number
from steerlens.evaluation.tasks import Task
from steerlens.host import Host
from steerlens.rows import at_rows
from steerlens.steering import Steering

if TYPE_CHECKING:
    import pandas

C = TypeVar("C", bound=Any)


@dataclass(frozen=True, eq=False, repr=False)
class Chosen:
    """The configuration that did best on validation items, and what each did.

    >>> from steerlens.methods import caa
    >>> weak, strong = caa.Config(coeff=1), caa.Config(coeff=4)
    >>> Chosen(strong, 0.75, 0.5, ((weak, 0.5), (strong, 0.75)), 16)
    Chosen(Config(layer=None, coeff=4, ...): 0.75 on 16 items, unsteered 0.5; best of 2)
    """

    config: Any
    score: float
    """Its mean score."""
    base: float
    """The unsteered model's."""
    tried: tuple[tuple[Any, float], ...]
    """Every configuration with its mean score."""
    items: int
    """How many validation items."""

    def frame(self) -> pandas.DataFrame:
        """Return a table, a line a configuration: its fields, and `validation`, its mean score."""
        import pandas

        rows = [
            {
                **{each.name: getattr(config, each.name) for each in fields(config)},
                "validation": score,
            }
            for config, score in self.tried
        ]
        return pandas.DataFrame(rows)

    def __repr__(self) -> str:
        """Return the choice, its score and the unsteered one."""
        return (
            f"Chosen({self.config!r}: {number(self.score)} on {count(self.items, 'item')}, "
            f"unsteered {number(self.base)}; best of {len(self.tried)})"
        )


def alike(configs: Sequence[C], **fixed: object) -> list[tuple[C, list[int]]]:
    """Return the places of configurations that are equal once some fields are fixed.

    Not by a hash: a config may hold a slice, which has none.

    >>> from steerlens.methods import caa
    >>> alike([caa.Config(coeff=1), caa.Config(layer=2), caa.Config(coeff=4)], coeff=0.0)
    [(Config(layer=None, coeff=0.0, ...), [0, 2]), (Config(layer=2, ...), [1])]
    """
    found: list[tuple[C, list[int]]] = []
    for place, each in enumerate(configs):
        shared = replace(each, **fixed)
        same = [places for other, places in found if other == shared]
        if same:
            same[0].append(place)
        else:
            found.append((shared, [place]))
    return found


def mean_by_row(model: Host, task: Task, steering: Steering) -> float:
    """Return the mean score of a task whose items are each steered by their own row.

    `steering` holds values a row for `task.prompts`. Cost: the task's passes, item by item.
    """
    total = len(task)
    scores: Sequence[float] = [
        float(task.part([i]).scores(model, at_rows(steering, [i], 1, total)).values[0, 0])
        for i in range(total)
    ]
    return sum(scores) / total
