"""Sweeps: a function over a grid, as a tidy table that a kill does not lose.

Finished cells are kept in a file (`steerlens.evaluation.journal`), and the same call goes on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, wait
from contextlib import closing, contextmanager
from functools import cache, partial
from itertools import product
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.errors import BadInputError, SteerLensError
from steerlens.evaluation.fingerprint import fingerprint, model_fingerprint
from steerlens.evaluation.journal import Cell, Rows, axes_of, journal, plain
from steerlens.evaluation.scoring import divergence
from steerlens.evaluation.tasks import Task, check_task
from steerlens.host import Host
from steerlens.provenance import provenance
from steerlens.steering import Steering
from steerlens.text import Item

if TYPE_CHECKING:
    import pandas

Row = Mapping[str, Any]
"""A line of a cell: numbers, or texts, by name."""


def sweep(
    run: Callable[..., Row | Sequence[Row]],
    grid: Mapping[str, Iterable[Any]],
    *,
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> pandas.DataFrame:
    """Call `run` at every cell of a grid, and return a tidy table in the grid's order.

    - `run(**cell)`: returns a row, or several: mappings from names to numbers or texts. Several
      rows are for what runs together, such as coefficients in one pass.
    - `grid`: the values of each name: numbers, texts, True, False, None, or tuples of these. The
      last name varies fastest.
    - `name`: of the study, by default that of `run` (a lambda with a path needs one). It stands for
      all that decides the numbers and is not in the grid (model, data, seed): change it when they
      change.
    - `path`: a file of JSON lines that keeps finished cells. Where it holds cells of this name and
      grid, only the others run, so a sweep that was killed goes on; NaN and infinities stand in it
      as Python writes them.
    - `executor`: of `concurrent.futures`, such as a process pool, or Dask's
      `client.get_executor()`; its workers must be able to import `run`. By default cells run
      here, in turn.

    Returns a line for each row, under the grid's names and those of the rows; `attrs["study"]` is
    the name, and `steerlens.save` keeps it. Raises SteerLensError, naming the cell, where `run`
    raises (finished cells are kept, those that wait are not begun), and BadInputError on a file of
    another sweep.

    >>> table = sweep(lambda x, y: {"sum": x + y}, {"x": [1, 2], "y": [0.5, 1.5]}, progress=False)
    >>> table["sum"].tolist()
    [1.5, 2.5, 2.5, 3.5]
    """
    axes = axes_of(grid)
    cells = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if executor is not None and not isinstance(executor, Executor):
        raise BadInputError(
            f"{executor!r} is no executor of concurrent.futures. Give a pool, or, for Dask, "
            "client.get_executor()."
        )
    study = name or _name(run)
    if path is not None and "<lambda>" in study:
        raise BadInputError("A lambda has no name to know its file by. Give name=, or a function.")
    with journal(path, study, axes, cells) as kept:
        missing = [number for number in range(len(cells)) if number not in kept.rows]
        done, title = len(cells) - len(missing), study.partition(";")[0]
        with (
            # closed at once where this is interrupted, so that what waits is not begun
            closing(_finished(run, cells, missing, executor)) as finished,
            tqdm(total=len(cells), initial=done, desc=title, disable=not progress) as bar,
        ):
            for number, rows in finished:
                kept.add(number, rows)
                bar.update()
        table = _table(cells, kept.rows)
    table.attrs["study"] = study
    return table


def steering_sweep(
    model: Host,
    make: Callable[[int], Steering],
    task: Task,
    layers: Sequence[int],
    coeffs: Sequence[float],
    *,
    utility: Task | None = None,
    neutral: Iterable[Item] = (),
    each_item: bool = False,
    seed: int = 0,
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> pandas.DataFrame:
    """Try a steering at every layer and coefficient; a layer's coefficients share their passes.

    - `make(layer)`: the steering there; coefficients multiply it.
    - `task`: what the steering is for; `utility`: a task that it should leave as it was.
    - `neutral`: (prompt, completion) items on which to price it: KL(base || steered), nats a token.
    - `each_item`: in place of means a line for each item, under `measure`, `item` and `value`, as
      a bootstrap over items needs them (`Tradeoff.from_frame`).
    - `seed`: of what tasks generate. `name`, `path` and `progress` are those of `sweep`; a file is
      taken for this sweep's where model, steerings, tasks with all their items, coefficients and
      seed agree.

    Returns columns `layer`, `coeff`, `score` (mean over items) and, where there are any, `parsed`
    (share of texts that the judge could read), `utility` and `kl`. Cost: for each layer one call
    of each task's `scores` and one of `divergence`.

    >>> from steerlens.evaluation.tasks import Neutral
    >>> make = lambda layer: sl.add(directions["resid_post", layer])
    >>> plain = Neutral("plain", ["a good day", "the cat"])
    >>> table = steering_sweep(model, make, plain, [1, 2], [0.0, 4.0], progress=False)
    >>> table[["layer", "coeff"]].values.tolist()
    [[1.0, 0.0], [1.0, 4.0], [2.0, 0.0], [2.0, 4.0]]
    """
    if not callable(make):
        raise BadInputError(
            f"A sweep makes a steering for each layer; got a {type(make).__name__}. Give a "
            "function: lambda layer: sl.add(directions['resid_post', layer])."
        )
    check_task(task, "task")
    if utility is not None:
        check_task(utility, "utility")
    factors = [float(coeff) for coeff in coeffs]
    if not factors or len(set(factors)) < len(factors):
        fact = "are twice among" if factors else "are no"
        raise BadInputError(f"There {fact} coefficients to try. Give coeffs=[...], each once.")
    made, neutral = cache(make), tuple(neutral)

    def run(layer: int) -> Rows:
        measured = _measured(model, made(layer), task, utility, neutral, factors, seed)
        if each_item:
            return _item_rows(factors, measured)
        means = {each: values.mean(1).tolist() for each, values in measured.items()}
        lines = zip(factors, *means.values(), strict=True)
        return [dict(zip(["coeff", *means], line, strict=True)) for line in lines]

    told = [name or "steering", task.name, f"coeffs {factors}", f"seed {seed}"]
    told += ["each item"] if each_item else []
    if path is not None:
        of = task, utility, list(neutral), [made(layer).expression for layer in layers]
        told += [f"made from {model_fingerprint(model)} {fingerprint(*of)}"]
    table = sweep(run, {"layer": layers}, name="; ".join(told), path=path, progress=progress)
    table.attrs |= provenance(model)
    return table


def _measured(
    model: Host,
    steering: Steering,
    task: Task,
    utility: Task | None,
    neutral: Sequence[Item],
    coeffs: Sequence[float],
    seed: int,
) -> dict[str, Float[Tensor, "coeff _"]]:
    """What each measure gives each of its items at each coefficient."""
    scores = task.scores(model, steering, coeffs, seed=seed)
    measured = {"score": scores.values}
    if scores.parsed is not None:
        measured["parsed"] = scores.parsed.float()
    if utility is not None:
        measured["utility"] = utility.scores(model, steering, coeffs, seed=seed).values
    if neutral:
        measured["kl"] = divergence(model, steering, neutral, coeffs)
    return measured


def _item_rows(coeffs: Sequence[float], measured: Mapping[str, Tensor]) -> Rows:
    return [
        {"coeff": coeff, "measure": name, "item": item, "value": value}
        for i, coeff in enumerate(coeffs)
        for name, values in measured.items()
        for item, value in enumerate(values[i].tolist())
    ]


def _name(run: Callable[..., Any]) -> str:
    """The name of a function, also of one with arguments filled in."""
    while isinstance(run, partial):
        run = run.func
    return str(getattr(run, "__qualname__", type(run).__qualname__))


def _finished(
    run: Callable[..., Any],
    cells: Sequence[Cell],
    missing: Sequence[int],
    executor: Executor | None,
) -> Generator[tuple[int, Rows], None, None]:
    """Run cells and yield each when it is done: here, in the grid's order, or on an executor."""
    if executor is not None:
        yield from _spread(run, cells, missing, executor)
        return
    for number in missing:
        with _naming(cells[number]):
            rows = _rows(run(**cells[number]), cells[number])
        yield number, rows


def _spread(
    run: Callable[..., Any], cells: Sequence[Cell], missing: Sequence[int], executor: Executor
) -> Iterator[tuple[int, Rows]]:
    """Run cells on an executor, in the order of completion.

    After a failure, what waits is cancelled and what runs is still gathered. (Dask never tells
    `as_completed` of a cancelled future, so those are left out of the waiting.)
    """
    futures = {executor.submit(partial(run, **cells[number])): number for number in missing}
    waiting, failed = set(futures), None
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                cell = cells[futures[future]]
                try:
                    with _naming(cell):
                        rows = _rows(future.result(), cell)
                except SteerLensError as error:
                    failed = failed or error
                    waiting = {each for each in waiting if not each.cancel()}
                else:
                    yield futures[future], rows
    finally:
        for future in waiting:
            future.cancel()
    if failed is not None:
        raise failed


@contextmanager
def _naming(cell: Cell) -> Iterator[None]:
    """Say which cell an error comes from."""
    try:
        yield
    except Exception as error:
        where = ", ".join(f"{name}={value!r}" for name, value in cell.items())
        raise SteerLensError(
            f"The cell {where} failed with {type(error).__name__}: {error} With a path, finished "
            "cells are kept there: mend what failed, and call sweep again to go on."
        ) from error


def _rows(result: Any, cell: Cell) -> Rows:
    """What `run` returned, as rows that JSON can hold."""
    rows = [result] if isinstance(result, Mapping) else result
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise BadInputError(f"run returned {result!r}. Return a mapping, or a list of mappings.")
    return [{_measure(key, cell): _number(value) for key, value in row.items()} for row in rows]


def _measure(key: object, cell: Cell) -> str:
    """The name of what a row measures."""
    if isinstance(key, str) and key not in cell:
        return key
    raise BadInputError(
        f"run returned a row with {key!r}. Name what it measures by texts that are not names of "
        f"the grid ({', '.join(cell)})."
    )


def _number(value: Any) -> Any:
    found = plain(value)
    if isinstance(found, list):
        raise BadInputError(f"run returned {found} in a row. Return one number or text a measure.")
    return found


def _table(cells: Sequence[Cell], rows: Mapping[int, Rows]) -> pandas.DataFrame:
    import pandas

    lines = [{**cell, **row} for number, cell in enumerate(cells) for row in rows[number]]
    names = dict.fromkeys(name for line in [*cells[:1], *lines] for name in line)
    return pandas.DataFrame(lines, columns=list(names))
