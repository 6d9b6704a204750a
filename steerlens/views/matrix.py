"""Numbers by two lists of names: what compositions do to tasks, how concepts lie together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerlens.basis import Basis
from steerlens.cards import count
from steerlens.errors import BadInputError
from steerlens.methods.prior import correlation
from steerlens.methods.steer2adapt import Effects
from steerlens.views.maps import MOST_HOVERS, MOST_NUMBERS, Cells, table
from steerlens.views.page import View
from steerlens.views.scale import numbers
from steerlens.views.theme import text


def matrix(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    unit: str = "",
    over: str = "",
    title: str = "Matrix",
    subtitle: str = "",
) -> View:
    """Draw a number for each pair of names as a coloured cell; static.

    - `values`: shape `row column`.
    - `unit`: what a number is, for the legend; `over`: what the columns are.

    Colours are of one scale, blue above zero and vermilion below. Raises BadInputError where names
    and values do not fit.

    >>> view = matrix([[0.5, -0.25]], ["joy"], ["a", "b"], unit="accuracy")
    >>> "joy, b: −0.25" in view.static
    True
    """
    grid = numbers(values)
    if grid.shape != (len(rows), len(columns)) or not grid.size:
        raise BadInputError(
            f"A matrix of {len(rows)} rows and {len(columns)} columns meets values of shape "
            f"{grid.shape}. Give a number for each pair of names, one or more."
        )
    cells = Cells.of(grid)
    bare = len(columns) > MOST_NUMBERS
    lines = []
    for name, line in zip(rows, grid, strict=True):
        told = (
            f"{name}, {c}: {cells.told(v)}" for c, v in zip(columns, line.tolist(), strict=True)
        )
        hovers = list(told) if grid.size <= MOST_HOVERS else [""] * len(columns)
        lines.append((name, cells.row(line, hovers, bare)))
    head = f'<tr><th><th colspan="{len(columns)}">{text(over)}' if over else ""
    head += "<tr><th>" + "".join(f"<th>{text(name)}" for name in columns)
    width = 0 if bare else max(len(cells.written(value)) for value in grid.flat)
    static = table(head, lines, "sl-bare" if bare else "", width)
    return View(title, static, subtitle=subtitle, legend=cells.legend(unit))


def concepts(basis: Basis, *, title: str = "How the concepts lie together") -> View:
    """Draw the cosine of each concept with each other, a mean over hook points; static.

    >>> import torch
    >>> basis = Basis({"hook_embed": torch.tensor([[1.0, 0.0], [3.0, 3.0]])}, ["joy", "fear"])
    >>> "joy, fear: 0.707" in concepts(basis).static
    True
    """
    places = count(len(basis.vectors), "hook point")
    return matrix(
        correlation(basis),
        basis.labels,
        basis.labels,
        unit="cosine",
        title=title,
        subtitle=f"{basis.name}: {count(len(basis), 'vector')}, mean over {places}",
    )


def compositions(
    effects: Effects, *, title: str = "What each composition does to each task"
) -> View:
    """Draw the change of each task's score under each composition; static.

    >>> import torch
    >>> found = Effects(("joy",), ("a", "b"), torch.tensor([[0.5, 0.2]]), torch.tensor([0.4, 0.4]),
    ...                 ("accuracy", "accuracy"))
    >>> "joy, b: −0.2" in compositions(found).static
    True
    """
    measures = " or ".join(dict.fromkeys(effects.measures)).replace("_", " ")
    base = ", ".join(
        f"{name} {value:.2f}" for name, value in zip(effects.tasks, effects.base, strict=True)
    )
    return matrix(
        effects.change,
        effects.compositions,
        effects.tasks,
        unit=f"change of {measures}",
        over="task",
        title=title,
        subtitle=f"without steering: {base}",
    )
