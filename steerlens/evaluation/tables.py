"""Tables of sweeps as plain data, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from steerlens.errors import BadInputError
from steerlens.evaluation.journal import plain
from steerlens.packing import portable

if TYPE_CHECKING:
    import pandas

_NUMBERS = ("bool", "uint8", *(f"int{n}" for n in (8, 16, 32, 64)), "float16", "float32", "float64")
_TEXTS = ("str", "string")


def is_table(value: object) -> TypeGuard[pandas.DataFrame]:
    """Return whether a value is a DataFrame, without importing pandas for it."""
    return type(value).__name__ == "DataFrame" and hasattr(value, "columns")


def packed(table: pandas.DataFrame) -> dict[str, Any]:
    """Return a table's columns, numbers as tensors, and what it says of itself.

    Raises BadInputError where names of columns are no texts or stand twice, where the index is not
    0, 1, 2, ..., and on cells that are no numbers or texts.

    >>> import pandas
    >>> packed(pandas.DataFrame({"layer": [1, 2]}))["columns"]
    {'layer': tensor([1, 2])}
    """
    names = list(table.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadInputError(f"Columns are named by texts, each once; got {names}.")
    if list(table.index) != list(range(len(table))):
        raise BadInputError(
            "The table has an index of its own, and a file holds columns: table.reset_index()."
        )
    return {
        "columns": {name: _column(table[name]) for name in names},
        "dtypes": {name: _dtype(table[name]) for name in names},
        "texts": [name for name in names if str(table[name].dtype) in _TEXTS],  # of the first files
        "attrs": {str(k): _attr(str(k), v) for k, v in table.attrs.items()},
    }


def _column(column: pandas.Series) -> Any:
    import pandas

    if str(column.dtype) in _NUMBERS:
        return torch.tensor(column.to_numpy())
    return [None if each is pandas.NA else plain(each) for each in column.tolist()]


def _dtype(column: pandas.Series) -> Any:
    """The name of a column's dtype; of categories, which they are and whether in order."""
    if str(column.dtype) == "category":
        return [plain(column.cat.categories), bool(column.cat.ordered)]
    return str(column.dtype)


def _attr(key: str, value: Any) -> Any:
    """What a table says of itself, as JSON holds it: all else as text, paths by their last part."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple):
        return [_attr(key, each) for each in value]
    if isinstance(value, Mapping):
        return {str(k): _attr(str(k), each) for k, each in value.items()}
    return portable({key: str(value)})[key]


def unpacked(found: dict[str, Any], path: str | Path) -> pandas.DataFrame:
    """Return the table of plain data. Raises BadInputError where it is none."""
    import pandas

    try:
        columns = {
            name: each.numpy()
            if hasattr(each, "numpy")
            else pandas.Series(each, dtype=_dtype_of(found, name))
            for name, each in found["columns"].items()
        }
        table = pandas.DataFrame(columns)
        table.attrs = dict(found["attrs"])
    except (ImportError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise BadInputError(f"{path} is no whole table: {error}.") from None
    return table


def _dtype_of(found: dict[str, Any], name: str) -> Any:
    """The dtype of a column that is kept as a list; the first files told texts alone."""
    import pandas

    told = found.get("dtypes", {}).get(name, "str" if name in found["texts"] else "object")
    return told if isinstance(told, str) else pandas.CategoricalDtype(*told)
