"""A number for each head: layers down, heads across, the MLPs beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any

import numpy as np

from steerlens.cards import count
from steerlens.errors import BadInputError
from steerlens.views.page import View
from steerlens.views.scale import Floats, Number, Scale, numbers, shown
from steerlens.views.theme import text

MOST_NUMBERS = 17
"""Columns up to which a number stands in each cell; beyond, colours and hovers tell."""
MOST_NAMES = 40
"""Columns up to which each one has its name above it; beyond, every eighth."""
MOST_HOVERS = 1_500
"""Cells beyond which there is no hover text."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def head_map(
    values: Any,
    *,
    mlp_last: bool = False,
    errors: Any = None,
    unit: str = "",
    first_layer: int = 0,
    title: str = "Heads",
    subtitle: str = "",
) -> View:
    """Draw a number for each head as a coloured cell; static.

    - `values`: shape `layer head`: parts of an effect, responses, importance, ...
    - `mlp_last`: whether the last column is the layer's MLP, as in `Mediation.carried`.
    - `errors`: standard errors in the same shape, told on hover.
    - `unit`: what a number is, for the legend.
    - `first_layer`: the layer of the first row, as in `Readers.first`.
    - `title`, `subtitle`: what stands above the view.

    The numbers stand in the cells up to 17 columns, to a common power of ten (the legend's);
    a cell's hover tells it in full. About 90 bytes a cell, above 1,500 cells 40.

    >>> view = head_map([[0.5, -0.25], [0.0, 0.125]], unit="logits")
    >>> "L0H1: −0.25" in view.static, "L1H1: +0.125" in view.static
    (True, True)

    Raises BadInputError on values that are not two-dimensional, or errors of another shape.
    """
    grid = numbers(values)
    beside = np.full(grid.shape, np.nan) if errors is None else numbers(errors)
    _check(grid, beside)
    if not grid.size:
        return View(title, '<div class="sl-muted">No heads to show.</div>')
    heads = grid.shape[1] - mlp_last
    cells = Cells.of(grid)
    bare = grid.shape[1] > MOST_NUMBERS
    rows = []
    for layer, (line, spread) in enumerate(zip(grid, beside, strict=True), first_layer):
        names = [f"L{layer}H{head}" for head in range(heads)] + [f"L{layer} MLP"] * mlp_last
        hovers = map(cells.told, line.tolist(), spread.tolist())
        full = [f"{name}: {told}" for name, told in zip(names, hovers, strict=True)]
        hover = full if grid.size <= MOST_HOVERS else [""] * len(full)
        rows.append((str(layer), cells.row(line, hover, bare)))
    kinds = "sl-mlp " * mlp_last + "sl-bare" * bare
    width = 0 if bare else max(len(cells.written(value)) for value in grid.flat)
    static = table(headings(heads, mlp_last), rows, kinds, width)
    told = f"{count(len(grid), 'layer')}, {count(heads, 'head')}"
    told += " and an MLP each" if mlp_last else " each"
    whole = f"{subtitle}; {told}" if subtitle else told
    return View(title, static, subtitle=whole, legend=cells.legend(unit))


@dataclass(frozen=True)
class Cells:
    """How the numbers of one map are coloured and written: one scale, one power of ten."""

    scale: Scale
    """Of the values in units of the power."""
    power: int
    decimals: int

    @classmethod
    def of(cls, values: Floats) -> Cells:
        """Return what shows two digits of the largest value, without zeros before them.

        >>> cells = Cells.of(numbers([0.0422, -0.0115]))
        >>> cells.power, cells.written(0.0422), cells.written(-0.0115)
        (-3, '+42', '−12')
        """
        largest = Scale.of(values).top
        place = floor(log10(largest))
        power = 0 if -1 <= place <= 2 else max(-300, 3 * floor(place / 3))
        scale = Scale.of(values / 10.0**power)
        return cls(scale, power, max(0, 1 - (place - power)))

    def written(self, value: Number) -> str:
        """Return a value as it stands in a cell: in units of the power, rounded alike."""
        if not isfinite(value):
            return ""
        rounded = f"{abs(value) / 10.0**self.power:.{self.decimals}f}"
        if not float(rounded):
            return "0"
        sign = "−" if value < 0 else "+" if self.scale.signed else ""
        return sign + rounded

    def row(self, values: Floats, hovers: Sequence[str], bare: bool) -> str:
        """Return coloured cells; hovers are escaped here, `bare` cells hold no numbers."""
        made = []
        for value, hover in zip(values.tolist(), hovers, strict=True):
            paint = self.scale.paint(value / 10.0**self.power)
            title = f' title="{text(hover)}"' if hover else ""
            made.append(f"<td {paint}{title}>" + ("" if bare else self.written(value)))
        return "".join(made)

    def told(self, value: Number, error: Number = float("nan")) -> str:
        """Return a value in full, with its standard error if there is one."""
        sign = "+" if self.scale.signed and value > 0 else ""
        return f"{sign}{shown(value)}" + (f" ± {error:.2g}" if isfinite(error) else "")

    def legend(self, unit: str) -> str:
        """Return the legend, with the power of ten that the cells are written in."""
        power = f"× 10{str(self.power).translate(_RAISED)}" if self.power else ""
        return self.scale.legend(f"{power} {unit}".strip())


def table(head: str, rows: Sequence[tuple[str, str]], kinds: str = "", characters: int = 0) -> str:
    """Return named rows of ready cells under ready headings.

    - `kinds`: further classes: `sl-mlp` sets the last column apart, `sl-bare` is for small cells.
    - `characters`: how many each cell has room for, so that columns are equally wide.
    """
    room = f' style="--sl-cell:{max(28, round(7.2 * characters))}px"' if characters else ""
    body = "".join(f"<tr><th>{text(name)}{cells}" for name, cells in rows)
    kinds = f"sl-grid {kinds}".strip()
    return f'<table class="{kinds}"{room}><thead>{head}<tbody>{body}</table>'


def headings(heads: int, mlp_last: bool = False) -> str:
    """Return two lines of headings: heads by number, and the MLP beside them."""
    names = "".join(f"<th>{head}" for head in range(heads))
    if heads > MOST_NAMES:
        wide = ((head, min(8, heads - head)) for head in range(0, heads, 8))
        names = "".join(f'<th class="sl-from" colspan="{n}">{head}' for head, n in wide)
    over = f'<th colspan="{heads}">head' if heads else ""
    return f"<tr><th>{over}{'<th>' * mlp_last}<tr><th>layer{names}{'<th>MLP' * mlp_last}"


def _check(grid: Floats, errors: Floats) -> None:
    if grid.ndim != 2:
        raise BadInputError(
            f"A map of heads has layers and heads; got values of shape {grid.shape}. "
            "Give them as (layer, head)."
        )
    if grid.shape != errors.shape:
        raise BadInputError(
            f"Errors of shape {errors.shape} do not fit values of shape {grid.shape}. "
            "Give one for each value."
        )
