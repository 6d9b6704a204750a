"""The file of a sweep: a header that says whose it is, then a line for each finished cell.

A line is appended by one write and synced, so a kill at any moment leaves whole lines and at most
one torn last line, which is discarded when the file is opened again.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from steerlens.errors import BadInputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Cell = Mapping[str, Any]
"""A value for each name of the grid."""
Rows = list[dict[str, Any]]
"""What one cell measured."""
FORMAT = 1
"""The number of the file's format."""


class Journal:
    """The finished cells of a sweep, and the file that keeps them, if there is one."""

    def __init__(self, cells: Sequence[Cell], rows: dict[int, Rows], file: FileIO | None) -> None:
        """Take what is known; `journal` opens one."""
        self.rows = rows
        """The rows of each finished cell, by its number in the grid."""
        self._cells = cells
        self._file = file

    def add(self, number: int, rows: Rows) -> None:
        """Keep a finished cell; it is on the disk when this returns."""
        if self._file is not None:
            at = {name: plain(value) for name, value in self._cells[number].items()}
            _append(self._file, _line({"cell": number, "at": at, "rows": rows}))
        self.rows[number] = rows


@contextmanager
def journal(
    path: str | os.PathLike[str] | None,
    name: str,
    grid: Mapping[str, Sequence[Any]],
    cells: Sequence[Cell],
) -> Iterator[Journal]:
    """Open the file of a sweep, or begin it; without a path, keep the cells in memory alone.

    Raises BadInputError where the folder is missing, the file is that of something else or is
    damaged before its last line, or another process is writing to it.
    """
    if path is None:
        yield Journal(cells, {}, None)
        return
    target = Path(path)
    if not target.parent.is_dir():
        raise BadInputError(
            f"No folder {str(target.parent)!r} to write {target.name!r} into. Make it first."
        )
    header = _line({"sweep": name, "format": FORMAT, "grid": plain_grid(grid)})
    with FileIO(target, "a+") as file:
        _lock(file, target)
        file.seek(0)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        _check_header(data, header, target)
        rows = dict(_cell(*each, target) for each in enumerate(whole.split(b"\n")[1:-1], start=2))
        file.truncate(len(whole))
        if not whole:
            _append(file, header)
        yield Journal(cells, rows, file)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: a number of NumPy or torch as Python's own, tuples as lists.

    >>> plain(torch.tensor(0.5)), plain((1, "a"))
    (0.5, [1, 'a'])
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise BadInputError(
        f"{value!r} is a {type(value).__name__}. Cells hold numbers, texts, True, False and None: "
        "give the name of anything else, and look it up in run."
    )


def axes_of(grid: Mapping[str, Iterable[Any]]) -> dict[str, list[Any]]:
    """Return the grid's values as lists, numbers as Python's own.

    Raises BadInputError on an empty grid, no values, a text in place of them, or one twice.

    >>> axes_of({"layer": torch.tensor([1, 2])})
    {'layer': [1, 2]}
    """
    if not grid:
        raise BadInputError("The grid is empty. Give a mapping such as {'layer': [1, 2, 3]}.")
    axes: dict[str, list[Any]] = {}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise BadInputError(f"The values of {name!r} are {values!r} alone. Give a list.")
        axes[name] = [each.tolist() if hasattr(each, "tolist") else each for each in values]
        texts = [json.dumps(plain(each)) for each in axes[name]]
        twice = [text for text in dict.fromkeys(texts) if texts.count(text) > 1]
        if twice or not texts:
            fact = f"has {', '.join(twice)} twice" if twice else "has no values"
            raise BadInputError(f"{name!r} {fact} in the grid. Give each value once.")
    return axes


def plain_grid(grid: Mapping[str, Sequence[Any]]) -> list[list[Any]]:
    """Return the grid in its order, as JSON has it."""
    return [[name, plain(list(values))] for name, values in grid.items()]


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _append(file: FileIO, line: bytes) -> None:
    """Write a line in one go, and wait until it is on the disk."""
    written = file.write(line)
    if written != len(line):
        raise OSError(errno.ENOSPC, f"Only {written} of {len(line)} bytes were written", file.name)
    os.fsync(file.fileno())


def _lock(file: FileIO, path: Path) -> None:
    """Refuse a file that another process writes to; the lock goes when this process does.

    A record lock, as workers that were forked from a killed process would hold on to `flock`'s.
    """
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BadInputError(
                f"Another process is running the sweep of {str(path)!r}. Wait for it or end it, "
                "or give another path."
            ) from None


def _check_header(data: bytes, header: bytes, path: Path) -> None:
    """Raise BadInputError where the file begins unlike this sweep's."""
    first, newline, _ = data.partition(b"\n")
    if first + newline == header or (not newline and header.startswith(first)):
        return
    remedy = "Give another path, or the name and the grid of that sweep."
    wanted = json.loads(header)
    try:
        found = json.loads(first)
        name, theirs = found["sweep"], dict(found["grid"])
    except (ValueError, KeyError, TypeError):
        raise BadInputError(f"{str(path)!r} is not the file of a sweep. {remedy}") from None
    told = f"{str(path)!r} is the file of another sweep: "
    if name != wanted["sweep"]:
        raise BadInputError(f"{told}its name is {name!r}, not {wanted['sweep']!r}. {remedy}")
    ours = dict(wanted["grid"])
    for axis in dict.fromkeys([*ours, *theirs]):
        if theirs.get(axis) != ours.get(axis):
            has, want = theirs.get(axis, "missing"), ours.get(axis, "missing")
            raise BadInputError(f"{told}there {axis!r} is {has}, here {want}. {remedy}")
    raise BadInputError(f"{told}its header is {first.decode()}. {remedy}")


def _cell(number: int, line: bytes, path: Path) -> tuple[int, Rows]:
    """Read a finished cell from a whole line."""
    try:
        content = json.loads(line)
        return int(content["cell"]), list(content["rows"])
    except (ValueError, KeyError, TypeError):
        raise BadInputError(
            f"Line {number} of {str(path)!r} is damaged: {line[:60]!r}. Delete the line to have "
            "its cell run again, or give another path."
        ) from None
