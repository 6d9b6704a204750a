"""Fits, each killed at several of its passes: `python killed_fits.py FOLDER`. See test_interrupted.

A process for each kill, forked with the model built: the kill is of the process that fits.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from models import D_MODEL, build, random_rows

import steerlens as sl
from steerlens.evaluation import Choice, MultipleChoice
from steerlens.evaluation.sweeps import sweep
from steerlens.methods import Sets, dsas, e2e_dsas, lineas, steer2adapt
from steerlens.methods.searching import Search

ROWS = [row.tolist() for row in random_rows([5, 7, 4, 6, 8, 5] * 3, seed=3)]
CONTRAST, SETS = sl.Contrast(ROWS[:6], ROWS[6:12]), Sets(ROWS[:6], ROWS[6:12], ROWS[12:])
TRAINED: dict[str, Any] = dict(sites="blocks.1.hook_resid_post", steps=3)
ITEMS = [Choice(f"good w{i} the", [" good", " bad"], [i % 2]) for i in range(6)]
TASK = MultipleChoice("words", ITEMS)
BASIS = sl.Basis({"blocks.1.hook_resid_post": torch.eye(2, D_MODEL)}, ["a", "b"])
SEARCH = steer2adapt.Config(search=Search("tpe", budget=6))
QUIET: dict[str, Any] = dict(progress=False)
FITS: dict[str, Callable[[Any], Any]] = {
    "find_directions": lambda model: sl.find_directions(model, CONTRAST, placebos=3, **QUIET),
    "dsas": lambda model: dsas.fit(model, SETS, dsas.Config(min_accuracy=0), **QUIET),
    "e2e_dsas": lambda model: e2e_dsas.fit(model, SETS, e2e_dsas.Config(**TRAINED), **QUIET),
    "lineas": lambda model: lineas.fit(model, SETS, lineas.Config(**TRAINED), **QUIET),
    "steer2adapt": lambda model: steer2adapt.adapt(model, BASIS, TASK, SEARCH, **QUIET),
}


def passes(model: Any, run: Callable[[], Any], at: Callable[[int], None]) -> int:
    """Run something, call `at` before each pass's second block, and return how many there were."""
    count = [0]

    def ahead(module: Any, args: Any) -> None:
        count[0] += 1
        at(count[0])

    handle = model.blocks[1].register_forward_pre_hook(ahead)
    try:
        run()
    finally:
        handle.remove()
    return count[0]


def killed(model: Any, run: Callable[[], Any], when: int) -> None:
    """Run something in a process of its own, which is killed at its n-th pass."""

    def kill(number: int) -> None:
        if number == when:
            os.kill(os.getpid(), 9)

    child = os.fork()
    if child == 0:
        passes(model, run, kill)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), f"it ended by itself, before pass {when}"
    assert os.WTERMSIG(status) == 9


def swept(model: Any, path: Path | None, layers: Sequence[int] = (2, 1)) -> Any:
    """A cell a layer, each of which fits at its layer."""

    def run(layer: int) -> dict[str, float]:
        place = f"blocks.{layer}.hook_resid_post"
        config = lineas.Config(sites=place, steps=2)
        course = lineas.train(model, SETS, config, **QUIET).course
        return {"loss": float(course.losses["transport"][-1])}

    return sweep(run, {"layer": layers}, name="fits", path=path, **QUIET)


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, hidden or not."""
    found = [each for each in folder.rglob("*") if each.is_file()]
    return {str(each.relative_to(folder)): each.read_bytes() for each in found}


def main(folder: Path) -> None:
    """Leave each fit's file, and what a sweep of fits kept after each kill."""
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ["TMPDIR"] = str(folder)
    model = build("llama", "bridge")
    for name, fit in FITS.items():
        path = folder / name
        total = passes(model, lambda fit=fit, path=path: sl.save(fit(model), path), lambda _: None)
        before = files(folder)
        for when in sorted({(total + 1) // 2, total}):
            killed(model, lambda fit=fit, path=path: sl.save(fit(model), path), when)
            assert files(folder) == before, f"{name} left something behind"
    first = passes(model, lambda: swept(model, None, [2]), lambda _: None)
    kept, path = [], folder / "journal"
    for when in (first, first + 1, 1):
        killed(model, lambda: swept(model, path), when)
        kept.append([json.loads(line)["cell"] for line in path.read_text().splitlines()[1:]])
    print(json.dumps(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
