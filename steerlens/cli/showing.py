"""What files hold, on the terminal: tables of rich, with nothing of a file taken as markup."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from steerlens import saving, storage, views
from steerlens.cards import count, drawable, interval, number, table_card
from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError
from steerlens.evaluation.tables import is_table
from steerlens.formats import from_gguf, gguf
from steerlens.formats.control_vectors import ARCHITECTURE
from steerlens.names import split_name
from steerlens.provenance import provenances
from steerlens.views.page import Html

_QUALITY = ("held-out AUC", "placebo to", "effect", "halves", "rank")
"""Beside the AUC the highest of placebos' bands; the cosine of the directions of two halves."""
MOST, MOST_IN_REPORT = 12, 500
"""Rows of a table that are shown."""
_SWEEP = b'{"sweep"'
"""How the journal of a sweep begins."""
_ABOUT = ("model", "revision", "host", "transformer_lens", "dtype", "weights", "writers")
_MADE = ("method", "config", "positions", "data", "study", "format", "model_hint", "file")


def show_directions(found: Directions, console: Console | None = None) -> None:
    """Print a line a direction: where, how long, and how good beside placebos."""
    out = console or Console()
    measured = any(each.quality is not None for each in found.values())
    table = _table("at", "length", *(_QUALITY if measured else ()))
    best = _best(found)
    for each in found.values():
        style = "bold" if each is best else ""
        table.add_row(*map(_text, _row(each)), style=style)
    told = dict.fromkeys(each.items for each in found.values() if each.items)
    out.print(_text(", ".join([count(len(found), "direction"), *(f"found in {x}" for x in told)])))
    out.print(table)
    if best is not None:
        out.print(_text(f"Highest held-out AUC: {best!r}"))


def _row(direction: Direction) -> list[str]:
    site, layer = split_name(direction.hook_name)
    line = [site if layer is None else f"{site} {layer}", number(direction.norm)]
    if (q := direction.quality) is None:
        return line
    return [
        *line,
        f"{q.auc:.2f} {interval(*q.auc_interval)}",
        f"{max(q.shuffled_band[1], q.random_band[1]):.2f}",
        f"{q.effect_size:.1f} sd",
        f"{q.split_half_cosine:.2f}",
        f"{q.rank} of {2 * q.placebos + 1}",
    ]


def _best(found: Directions) -> Direction | None:
    measured = len(found) > 1 and all(each.quality is not None for each in found.values())
    return found.best() if measured else None


def show_file(path: Path, console: Console | None = None) -> None:
    """Print what a file holds: one of `save`'s, a sweep's, or a gguf.

    Raises BadInputError on any other, and on one that is not whole.
    """
    out = console or Console()
    start = _start(path)
    if start.startswith(b"GGUF"):
        _show_gguf(path, out)
    elif start.startswith(_SWEEP):
        _show_sweep(path, out)
    else:
        _show_saved(path, out)


def _start(path: Path) -> bytes:
    if path.is_dir():
        raise BadInputError(f"{path} is a folder. Give a file.")
    if not path.is_file():
        raise BadInputError(f"There is no file {path}.")
    with path.open("rb") as file:
        return file.read(16)


def _show_saved(path: Path, out: Console) -> None:
    about, value = storage.describe(path), saving.load(path)
    hashed = "hashes right" if about["version"] > 1 else "no hashes (layout 1)"
    told = {
        "holds": about["kind"],
        "written by": f"steerlens {about.get('library', '?')}, layout {about['version']}, {hashed}",
        "size": f"{path.stat().st_size:,} bytes",
        "at": ", ".join(about.get("hook_names", ())),
    }
    out.print(_facts({key: each for key, each in told.items() if each}, str(path.name)))
    if isinstance(value, Directions):
        show_directions(value, out)
    elif is_table(value):
        out.print(_frame(value))
    else:
        out.print(_text(repr(value)), soft_wrap=True)
    made = _made_on(value)
    if made:
        out.print(_facts(made, "Made on"))


def _made_on(value: Any) -> dict[str, str]:
    """What the parts of a value say of how they were made, each once."""
    found: dict[str, dict[str, None]] = {}
    for source in provenances(value):
        for key in (*_ABOUT, *_MADE):
            if source.get(key):
                told = str(source[key])
                found.setdefault(key, {})[told[:12] if key == "data" else told] = None
    return {key: "; ".join(list(each)[:4]) for key, each in found.items()}


def _show_gguf(path: Path, out: Console) -> None:
    file = gguf.read(path)
    told = {key: str(each) for key, each in list(file.fields.items())[: 2 * MOST]}
    out.print(_facts({"size": f"{path.stat().st_size:,} bytes", **told}, path.name))
    if file.fields.get("general.architecture") == ARCHITECTURE:
        show_directions(from_gguf(path), out)
        return
    table = _table("tensor", "shape", "ggml type")
    for name, each in list(file.tensors.items())[:MOST]:
        table.add_row(_text(name), str(each.shape), str(each.kind))
    out.print(table)
    _and_more(len(file.tensors), out)


def _show_sweep(path: Path, out: Console) -> None:
    """A sweep's journal: its header, and how many cells are finished."""
    first, *lines = path.read_bytes().split(b"\n")
    try:
        header = json.loads(first)
        grid = {str(name): list(values) for name, values in header["grid"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BadInputError(
            f"{path} is no whole file of a sweep: its first line is broken."
        ) from None
    cells = 1
    for values in grid.values():
        cells *= len(values)
    told = {
        "holds": "a sweep's finished cells",
        "study": str(header["sweep"]),
        "finished": f"{max(0, len(lines) - 1)} of {cells} cells",
        **{name: ", ".join(map(str, values[:MOST])) for name, values in grid.items()},
    }
    out.print(_facts(told, path.name))


def _frame(frame: Any) -> Table:
    table = _table(*map(str, frame.columns))
    for line in frame.head(MOST).itertuples(index=False):
        table.add_row(*map(_text, _cells(line)))
    if len(frame) > MOST:
        table.caption = f"{len(frame) - MOST} more"
    return table


def _and_more(n: int, out: Console) -> None:
    if n > MOST:
        out.print(f"and {n - MOST} more")


def _facts(told: Mapping[str, str], title: str) -> Table:
    """Two columns: what, and what it is."""
    table = Table(title=_text(title), title_justify="left", show_header=False, title_style="bold")
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in told.items():
        table.add_row(_text(key), _text(value))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for each in columns:
        table.add_column(_text(each), overflow="fold")
    return table


def _text(value: str) -> Text:
    """A text as it is: no markup, and no control character that a terminal would act on."""
    shown = drawable(value.replace("\r", "⟨000D⟩"))
    return Text(shown if len(shown) <= 2000 else f"{shown[:2000]}... ({len(shown):,} characters)")


def read(path: Path) -> Any:
    """Return the value in a file of `save`'s, or a gguf's directions.

    Raises BadInputError on any other, that of a sweep on its way among them.
    """
    start = _start(path)
    if start.startswith(_SWEEP):
        raise BadInputError(
            f"{path} is the file of a sweep, and a report shows its table: save what sweep returns."
        )
    return from_gguf(path) if start.startswith(b"GGUF") else saving.load(path)


def sections(value: Any) -> list[Any]:
    """Return what a report shows of a value: itself, or its text where it has no card."""
    if is_table(value):
        rows = [_cells(line) for line in value.head(MOST_IN_REPORT).itertuples(index=False)]
        title = str(value.attrs.get("study", count(len(value), "row")))
        return [Html(table_card(title, [*map(str, value.columns)], rows))]
    return [value if hasattr(value, "_repr_html_") else views.prose(repr(value))]


def _cells(line: Any) -> list[str]:
    return [f"{each:.4g}" if isinstance(each, float) else str(each) for each in line]
