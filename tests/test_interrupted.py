"""Fits that are killed, sweeps and calibrations that are interrupted: nothing is left, or lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from cases import EACH_HOST
from killed_fits import CONTRAST, FITS, ITEMS, QUIET, passes, swept
from models import D_MODEL, build

import steerlens as sl
from steerlens import evaluation
from steerlens.evaluation import MultipleChoice
from steerlens.evaluation.journal import Journal
from steerlens.evaluation.sweeps import steering_sweep, sweep

PROMPTS = ["good w1 w2", "the bad w9"]
TASK = MultipleChoice("words", ITEMS)


def steering(layer: int) -> sl.Steering:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(layer))
    return sl.add(sl.Direction(f"blocks.{layer}.hook_resid_post", vector))


def left_on(model: Any) -> dict[str, Any]:
    """All that a steering puts on a model while it is on."""
    points = set(model.hook_dict.values())
    marks = {name for name in vars(model) if "generate" in name or "steerlens" in name}
    modules = [(each._forward_hooks, each._forward_pre_hooks) for each in model.modules()]
    return {
        "hooks": sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points),
        "listeners": sum(len(after) + len(before) for after, before in modules),
        "marks": marks,
        "gradients": [(each.requires_grad, each.grad) for each in model.parameters()],
    }


def interrupted(model: Any, run: Callable[[], Any], when: int) -> None:
    """Run something, and press Ctrl-C in its n-th pass; nothing stays on the model."""

    def press(number: int) -> None:
        if number == when:
            raise KeyboardInterrupt

    before = left_on(model)
    with pytest.raises(KeyboardInterrupt):
        passes(model, run, press)
    assert left_on(model) == before


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


@pytest.fixture
def model(host: str) -> Any:
    """One with a hook of the user's own, which must stay."""
    made = build("llama", host)
    made.add_hook("blocks.0.hook_resid_post", lambda x, hook: x * 1.01)
    return made


# Killed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_in_a_fit_leaves_no_half(tmp_path: Path) -> None:
    """Halfway and at its last pass: no file but the whole one that was there."""
    script = Path(__file__).parent / "killed_fits.py"
    paths = os.pathsep.join([str(script.parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    model = build("llama", "bridge")
    assert {each.name for each in tmp_path.iterdir()} == {*FITS, "journal"}
    for name, fit in FITS.items():
        assert repr(sl.load(tmp_path / name, model)) == repr(fit(model))
    # killed in the first cell, in the second, and there again when it went on
    assert json.loads(done.stdout.splitlines()[-1]) == [[], [0], [0]]
    same(swept(model, tmp_path / "journal"), swept(model, None))


# Interrupted


@pytest.mark.host
@EACH_HOST
def test_an_interrupt_in_a_sweep_keeps_what_is_finished(
    host: str, model: Any, tmp_path: Path
) -> None:
    """Exactly the finished layers, whatever the pass; and going on gives the whole table."""
    layers = [2, 0, 1]
    once = partial(
        steering_sweep,
        model,
        steering,
        TASK,
        layers,
        [0.0, 2.0],
        neutral=[("good", " w1")],
        **QUIET,
    )
    total = passes(model, lambda: once(path=tmp_path / "whole"), lambda _: None)
    wanted, whole = once(), (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    each, rest = divmod(total, len(layers))
    assert each > 2
    assert not rest, "layers cost the same number of passes"
    for when in (1, each, each + 1, total):
        path = tmp_path / str(when)
        interrupted(model, lambda path=path: once(path=path), when)
        finished = (when - 1) // each
        assert path.read_bytes() == b"".join(whole[: 1 + finished])
        left = passes(model, lambda path=path: same(once(path=path), wanted), lambda _: None)
        assert left == total - finished * each
        assert path.read_bytes() == b"".join(whole)


def test_an_interrupt_while_a_cell_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the disk and not told yet: it is finished, and is not run again."""
    path, ran = tmp_path / "file", []

    def run(x: int) -> dict[str, int]:
        ran.append(x)
        return {"y": x * x}

    real = os.fsync

    def pressed(file: Any) -> None:
        real(file)
        if ran == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr("steerlens.evaluation.journal.os.fsync", pressed)
    with pytest.raises(KeyboardInterrupt):
        sweep(run, {"x": [1, 2, 3]}, path=path, **QUIET)
    monkeypatch.undo()
    assert [json.loads(line)["cell"] for line in path.read_text().splitlines()[1:]] == [0, 1]
    assert sweep(run, {"x": [1, 2, 3]}, path=path, **QUIET)["y"].tolist() == [1, 4, 9]
    assert ran == [1, 2, 3]


def test_an_interrupt_begins_none_of_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an executor, wherever this process is just then: the pool ends with what runs."""
    path, began = tmp_path / "file", []

    def run(x: int) -> dict[str, int]:
        began.append(x)
        time.sleep(0.002)
        return {"y": x}

    def pressed(self: Journal, number: int, rows: Any) -> None:
        raise KeyboardInterrupt

    grid = {"x": list(range(300))}
    monkeypatch.setattr(Journal, "add", pressed)
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as pool:
        sweep(run, grid, path=path, executor=pool, **QUIET)
    assert len(began) < 300, "every cell that waited was run all the same"
    monkeypatch.undo()
    assert len(sweep(run, grid, path=path, **QUIET)) == 300


MEASURES: dict[str, Callable[[Any], Any]] = {
    "calibrate": lambda model: sl.calibrate(
        steering(1), model, PROMPTS, kl=0.1, max_new_tokens=3, control=["w4 w5"]
    ),
    "at_equal_dose": lambda model: evaluation.at_equal_dose(
        model,
        {"one": steering(1)},
        TASK,
        PROMPTS,
        kl=0.1,
        placebos=1,
        max_new_tokens=3,
        **QUIET,
    ),
    "causal_check": lambda model: evaluation.causal_check(
        model,
        sl.find_directions(model, CONTRAST, placebos=2, **QUIET)["resid_post", 1],
        CONTRAST,
        randoms=2,
    ),
}


@pytest.mark.host
@EACH_HOST
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("measure", MEASURES)
def test_an_interrupt_in_a_measurement_leaves_nothing(host: str, model: Any, measure: str) -> None:
    """In any pass, of whatever kind; and afterwards the figures are those of a fresh start."""
    run = MEASURES[measure]
    wanted = repr(run(model))
    total = passes(model, lambda: run(model), lambda _: None)
    for when in (1, total // 2, total):
        interrupted(model, lambda: run(model), when)
    assert repr(run(model)) == wanted
