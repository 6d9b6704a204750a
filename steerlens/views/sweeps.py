"""The table of a sweep over layers and coefficients, drawn along either of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from steerlens.errors import BadInputError
from steerlens.statistics import mean_interval
from steerlens.views.page import View
from steerlens.views.plots import Line, Panel, panels
from steerlens.views.scale import shown

if TYPE_CHECKING:
    import pandas

NAMES = {
    "score": "score",
    "utility": "utility",
    "kl": "KL(base || steered), nats a token",
    "parsed": "share of texts the judge could read",
}
"""What `steering_sweep` measures, as its axes are called."""


def dose_response(
    table: pandas.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    title: str = "Dose and response",
) -> View:
    """Draw a sweep's measures over its coefficients, a line a layer; static, a few kB.

    - `table`: of `steering_sweep`; with `each_item=True` means have a bootstrap 95% interval over
      items. Where several rows share a layer and a coefficient (seeds), their mean. Columns that
      are no numbers, and `seed`, are not drawn.
    - `names`: what the measures are called, such as `{"score": "share positive"}`.

    Raises BadInputError on a table without columns `layer`, `coeff` and a measure.

    >>> import pandas
    >>> rows = [(1, 0.0, 0.1), (1, 4.0, 0.6), (2, 0.0, 0.1), (2, 4.0, 0.9)]
    >>> view = dose_response(pandas.DataFrame(rows, columns=["layer", "coeff", "score"]))
    >>> view.static.count("<circle")
    4
    """
    return _drawn(table, "coeff", "layer", "coefficient", "layer {}", names, title)


def layer_sweep(
    table: pandas.DataFrame,
    *,
    names: Mapping[str, str] | None = None,
    title: str = "Layer by layer",
) -> View:
    """Draw a sweep's measures over its layers, a line a coefficient; as `dose_response` does.

    >>> import pandas
    >>> rows = [(1, 0.0, 0.1), (1, 4.0, 0.6), (2, 0.0, 0.1), (2, 4.0, 0.9)]
    >>> view = layer_sweep(pandas.DataFrame(rows, columns=["layer", "coeff", "score"]))
    >>> "coefficient 4, 2: 0.9" in view.static
    True
    """
    return _drawn(table, "layer", "coeff", "layer", "coefficient {}", names, title)


def _drawn(
    table: pandas.DataFrame,
    x: str,
    by: str,
    x_label: str,
    line: str,
    names: Mapping[str, str] | None,
    title: str,
) -> View:
    long = _long(table)
    told = NAMES | dict(names or {})
    parts = []
    for measure, rows in long.groupby("measure", sort=False):
        lines = [
            _line(line.format(shown(float(value))), part, x) for value, part in rows.groupby(by)
        ]
        parts.append(Panel(told.get(str(measure), str(measure)), lines))
    return panels(parts, x_label=x_label, title=title)


def _long(table: pandas.DataFrame) -> pandas.DataFrame:
    """The table with a line for each value, under `layer`, `coeff`, `measure` and `value`."""
    ids = ["layer", "coeff"]
    numbers = table.select_dtypes(["number", "bool"]).columns
    measures = [name for name in numbers if name not in (*ids, "seed")]
    if not set(ids) < set(table.columns) or table.empty or not measures:
        raise BadInputError(
            f"The table has {len(table)} rows under {', '.join(map(str, table.columns))}. Give "
            "that of steering_sweep: layer, coeff and a measure or more, as numbers."
        )
    if {"measure", "value"} <= set(table.columns):
        return table
    numeric = table[ids].join(table[measures].astype(float))
    return numeric.melt(ids, var_name="measure", value_name="value")


def _line(name: str, part: Any, x: str) -> Line:
    """One line with its means, and their intervals where there are several items a point."""
    by_item = "item" in part.columns and part["item"].nunique() > 1
    if not by_item:
        means = part.groupby(x)["value"].mean()
        return Line(name, means.index.to_numpy(dtype=float), means.to_numpy(dtype=float))
    places, found = [], []
    for place, rows in part.groupby(x):
        items = rows.groupby("item")["value"].mean()  # seeds of one item are one item
        places.append(float(place))
        found.append(mean_interval(torch.tensor(items.to_numpy(dtype=float))))
    lows, highs = zip(*(ends for _, ends in found), strict=True)
    return Line(name, places, [mean for mean, _ in found], lows, highs)
