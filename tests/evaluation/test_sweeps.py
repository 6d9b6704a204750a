"""Sweeps: the same table whatever kills them, and wherever their cells run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Any

import models
import numpy as np
import pandas as pd
import pytest
import torch
from models import hosts, tiny
from sweep_cells import ODD, cell, slow, told

import steerlens as sl
from steerlens.errors import BadInputError, SteerLensError
from steerlens.evaluation import divergence
from steerlens.evaluation.fingerprint import fingerprint, model_fingerprint
from steerlens.evaluation.sweeps import steering_sweep, sweep
from steerlens.evaluation.tasks import Neutral

GRID = {"layer": [3, 1, 2], "method": ["mean", "pca", "ﬁ\u2028"], "dose": [0.1, 2.0]}


def never(**at: Any) -> Any:
    raise AssertionError(f"{at} has run already")


quiet = partial(sweep, progress=False)


@pytest.fixture(scope="module")
def wanted() -> pd.DataFrame:
    return quiet(cell, GRID)


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, wanted, check_exact=True)


# The table


def test_the_table_is_in_grid_order(wanted: pd.DataFrame) -> None:
    assert list(wanted.columns) == ["layer", "method", "dose", "coeff", "value", "odd"]
    assert len(wanted) == 3 * 3 * 2 * 2
    assert wanted["layer"].tolist() == [3] * 12 + [1] * 12 + [2] * 12
    assert wanted["dose"][:5].tolist() == [0.1, 0.1, 2.0, 2.0, 0.1]
    assert wanted["value"][5] == -(3 * 3 / 3 + 0.1)
    assert pd.isna(wanted["odd"][0])
    assert wanted["odd"][13] == float("inf")


def test_numbers_of_numpy_and_torch_are_plain(tmp_path: Path) -> None:
    def run(x: float, y: int) -> dict[str, Any]:
        assert type(x) is float
        assert type(y) is int
        return {"a": np.float32(x), "b": torch.tensor(y), "c": np.bool_(y > 1)}

    grid = {"x": torch.tensor([0.5, 0.25]), "y": np.arange(3)}
    table = quiet(run, grid, path=tmp_path / "file")
    assert table["x"].tolist() == table["a"].tolist() == [0.5] * 3 + [0.25] * 3
    assert table["b"].tolist() == [0, 1, 2] * 2
    assert table["c"].tolist() == [False, False, True] * 2
    same(quiet(run, grid, path=tmp_path / "file"), table)


def test_a_cell_without_rows_and_a_row_without_measures() -> None:
    table = quiet(lambda x: {1: [], 2: {}, 3: [{"y": 1}, {"z": 2}]}[x], {"x": [1, 2, 3]})
    assert list(table.columns) == ["x", "y", "z"]
    assert table["x"].tolist() == [2, 3, 3]
    assert table["y"].isna().tolist() == [True, False, True]


def test_values_may_be_tuples(tmp_path: Path) -> None:
    grid, path = {"layers": [(1,), (1, 2)]}, tmp_path / "file"
    once = quiet(lambda layers: {"n": len(layers)}, grid, name="tuples", path=path)
    assert once["layers"].tolist() == [(1,), (1, 2)]
    same(quiet(never, grid, name="tuples", path=path), once)


# The file


def test_every_number_comes_back_from_the_file(tmp_path: Path) -> None:
    def run(x: int) -> dict[str, Any]:
        return {"odd": ODD[x], "same": float(x) / 7}

    grid, path = {"x": range(len(ODD))}, tmp_path / "file"
    once = quiet(run, grid, path=path)
    same(
        quiet(never, grid, name=json.loads(path.read_text().splitlines()[0])["sweep"], path=path),
        once,
    )
    same(quiet(run, grid), once)


def test_whatever_is_left_of_the_file_the_table_is_the_same(tmp_path: Path) -> None:
    """Cut after every few bytes, torn lines and torn headers among them."""
    grid, path = {"layer": [3, 1], "method": ["mean", "ﬁ\u2028"], "dose": [2.0]}, tmp_path / "file"
    wanted = quiet(cell, grid, path=path)
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    assert len(ends) == 1 + 4
    for cut in sorted({*range(0, len(data), 31), *ends, *(end - 1 for end in ends), 1}):
        path.write_bytes(data[:cut])
        ran: list[Any] = []

        def run(ran: list[Any] = ran, **at: Any) -> Any:
            ran.append(at)
            return cell(**at)

        same(quiet(run, grid, name="cell", path=path), wanted)
        assert path.read_bytes() == data
        assert len(ran) == 4 - max(0, sum(end <= cut for end in ends) - 1)


KILLED = """
import os, sys, time
from random import Random
from steerlens.evaluation.sweeps import sweep

path, dice, kills = sys.argv[1], Random(0), 0
grid = {"x": range(12), "y": ["a", "b"]}
while True:
    left, delay = dice.randint(1, 6), dice.random() / 20
    child = os.fork()
    if child == 0:
        def run(x, y):
            global left
            left -= 1
            if (x, y) == (0, "a") and os.fork() == 0:
                os.closerange(0, 3)
                time.sleep(2)
                os._exit(0)
            if left == 0 and kills % 2 == 0:
                os.kill(os.getpid(), 9)
            return [{"coeff": c, "value": x / 7 + len(y) * c} for c in (0, 1)]

        sweep(run, grid, name="killed", path=path, progress=False)
        os._exit(0)
    if kills % 2:
        time.sleep(delay)
        os.kill(child, 9)
    status = os.waitpid(child, 0)[1]
    if status == 0:
        break
    assert os.WTERMSIG(status) == 9, status
    kills += 1
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_sweep_goes_on(tmp_path: Path) -> None:
    """SIGKILL in a random cell, and at random moments, until it ends by itself.

    A worker outlives the first kill, as those of a process pool do.
    """
    path = tmp_path / "file"
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    lines = path.read_text().splitlines()
    assert [json.loads(line)["cell"] for line in lines[1:]] == list(range(24))

    def run(x: int, y: str) -> list[dict[str, Any]]:
        return [{"coeff": c, "value": x / 7 + len(y) * c} for c in (0, 1)]

    grid = {"x": range(12), "y": ["a", "b"]}
    same(quiet(never, grid, name="killed", path=path), quiet(run, grid))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "its name is 'cell', not 'other'"),
        ({"grid": GRID | {"dose": [0.1, 2.0, 3.0]}}, r"'dose' is \[0.1, 2.0\], here .*3.0\]"),
        ({"grid": {"layer": GRID["layer"]}}, "'method' is .*, here missing"),
        ({"grid": dict(reversed(GRID.items()))}, "its header is"),
    ],
)
def test_a_file_of_another_sweep_is_refused_and_left_alone(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "file"
    quiet(cell, GRID, path=path)
    before = path.read_bytes()
    with pytest.raises(BadInputError, match=message):
        quiet(never, change.get("grid", GRID), name=change.get("name", "cell"), path=path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["my notes", "my notes\n", "[1, 2]\n", '{"sweep": "cell"}\n'])
def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(BadInputError, match="is not the file of a sweep"):
        quiet(never, GRID, path=path)
    assert path.read_text() == content


def test_damage_before_the_last_line_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    quiet(cell, GRID, path=path)
    lines = path.read_text().splitlines(keepends=True)
    lines[3] = lines[3][:20] + "\n"
    path.write_text("".join(lines))
    with pytest.raises(BadInputError, match=r"Line 4 of .* is damaged"):
        quiet(cell, GRID, path=path)
    with pytest.raises(BadInputError, match="No folder"):
        quiet(cell, GRID, path=tmp_path / "none" / "file")


@pytest.mark.skipif(sys.platform == "win32", reason="record locks")
def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = f"import fcntl; f = open({str(path)!r}, 'a'); fcntl.lockf(f, 2); print(); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(BadInputError, match="Another process is running the sweep"):
            quiet(never, GRID, path=path)
        other.communicate(b"\n")
    assert len(quiet(cell, GRID, path=path)) == 36


# Executors


@pytest.fixture(scope="module", params=["threads", "processes", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "threads":
        with ThreadPoolExecutor(4) as pool:
            yield pool
    elif request.param == "processes":
        with ProcessPoolExecutor(2, mp_context=get_context("forkserver")) as pool:
            yield pool
    else:
        distributed = pytest.importorskip("distributed")
        options = {"processes": False, "dashboard_address": None, "n_workers": 1}
        with distributed.Client(**options, threads_per_worker=3) as client:
            yield client.get_executor()


def test_any_executor_gives_the_same_table(
    executor: Executor, tmp_path: Path, wanted: pd.DataFrame
) -> None:
    path = tmp_path / "file"
    same(quiet(slow, GRID, executor=executor, path=path), wanted)
    lines = path.read_text().splitlines(keepends=True)
    assert sorted(json.loads(line)["cell"] for line in lines[1:]) == list(range(18))
    path.write_text("".join(lines[:9]))
    same(quiet(slow, GRID, executor=executor, path=path), wanted)
    same(quiet(never, GRID, name="slow", executor=executor, path=path), wanted)


def test_an_error_names_its_cell_and_the_others_are_kept(
    executor: Executor, tmp_path: Path
) -> None:
    grid, path = {"x": list(range(60)), "folder": [str(tmp_path)]}, tmp_path / "file"
    with pytest.raises(SteerLensError, match=r"x=2, folder=.* failed with ZeroDivisionError: by"):
        quiet(told, grid, executor=executor, path=path)
    began = {int(each.name) for each in tmp_path.iterdir() if each.name.isdigit()}
    kept = {json.loads(line)["at"]["x"] for line in path.read_text().splitlines()[1:]}
    assert {0, 1} <= kept <= began - {2}
    assert len(began) < 60, "what waits when a cell fails is not begun"
    resumed = quiet(lambda x, folder: {"y": x}, grid, name="told", path=path)
    assert resumed["y"].tolist() == list(range(60))


def test_an_error_in_turn_names_its_cell_and_begins_no_other(tmp_path: Path) -> None:
    with pytest.raises(SteerLensError, match=r"x=2, folder=") as raised:
        quiet(told, {"x": [1, 2, 3], "folder": [str(tmp_path)]}, path=tmp_path / "file")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert {each.name for each in tmp_path.iterdir()} == {"1", "2", "file"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (1.0, "run returned 1.0. Return a mapping"),
        ([{"y": 1}, 2], "Return a mapping, or a list"),
        ({"x": 1}, "row with 'x'"),
        ({3: 1}, "row with 3"),
        ({"y": object()}, "is a object"),
        ({"y": torch.ones(2)}, "one number or text"),
    ],
)
def test_what_cannot_be_a_row_is_told(returned: Any, message: str) -> None:
    with pytest.raises(SteerLensError, match=message) as raised:
        quiet(lambda x: returned, {"x": [5]})
    assert "x=5" in str(raised.value)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "grid is empty"),
        ({"x": []}, "'x' has no values"),
        ({"x": [1, 2, 1]}, "'x' has 1 twice"),
        ({"x": "abc"}, "are 'abc' alone"),
        ({"x": [cell]}, "is a function"),
    ],
)
def test_grids_that_cannot_be(grid: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        quiet(never, grid)


def test_a_client_is_no_executor() -> None:
    with pytest.raises(BadInputError, match=r"client.get_executor\(\)"):
        getattr(sweep, "__wrapped__", sweep)(never, {"x": [1]}, executor=object())


# Layers and coefficients

ITEMS = [("good w1", " w2 w3"), ("bad", " w4"), ("the sad w5 w6", " good w7 bad w8")]
LAYERS, COEFFS = [2, 0], [0.0, 2, -1.0]


def make(layer: int) -> sl.Steering:
    vector = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(layer))
    direction = sl.Direction(f"blocks.{layer}.hook_resid_post", vector)
    return sl.add(direction, positions="predicting")


@pytest.mark.host
@pytest.mark.parametrize("host", hosts())
def test_a_steering_sweep_is_its_tasks_one_by_one(host: str, tmp_path: Path) -> None:
    model = tiny("llama", host)
    task, other = Neutral("said", ITEMS), Neutral("other", ITEMS[1:])
    once = partial(steering_sweep, model, make, task, LAYERS, COEFFS, utility=other, progress=False)
    table = once(neutral=ITEMS[:2])
    assert list(table.columns) == ["layer", "coeff", "score", "utility", "kl"]
    assert table["layer"].tolist() == [2, 2, 2, 0, 0, 0]
    assert table["coeff"].tolist() == [0.0, 2.0, -1.0] * 2
    for layer, rows in zip(LAYERS, (slice(0, 3), slice(3, 6)), strict=True):
        steering = make(layer)
        alone = {
            "score": task.scores(model, steering, COEFFS).mean,
            "utility": other.scores(model, steering, COEFFS).mean,
            "kl": divergence(model, steering, ITEMS[:2], COEFFS).mean(1),
        }
        for measure, values in alone.items():
            np.testing.assert_allclose(table[measure][rows], values, atol=1e-5)
    assert table["kl"][1] > 0.01
    items = once(each_item=True)
    means = items.pivot_table("value", ["layer", "coeff"], "measure", sort=False)
    for measure in ("score", "utility"):
        np.testing.assert_allclose(means[measure], table[measure], atol=1e-6)
    assert len(items) == 6 * (len(task) + len(other))


@pytest.mark.host
@pytest.mark.parametrize("host", hosts())
def test_a_steering_sweep_knows_its_file(host: str, tmp_path: Path) -> None:
    model, path, task = tiny("llama", host), tmp_path / "file", Neutral("said", ITEMS)
    once = partial(steering_sweep, model, layers=LAYERS, path=path, progress=False)
    table, content = once(make, task, coeffs=COEFFS), path.read_bytes()
    same(once(make, task, coeffs=COEFFS), table)
    assert path.read_bytes() == content
    other = replace(task, texts=[*ITEMS[1:], ITEMS[0]])
    changes: list[dict[str, Any]] = [
        {"coeffs": [1.0]},
        {"seed": 1},
        {"name": "pca"},
        {"each_item": True},
        {"make": lambda layer: make(layer + 1)},
        {"task": other},
        {"task": replace(task, measure="kl")},
        {"neutral": ITEMS},
        {"utility": other},
        {"model": tiny("llama", host, seed=1)},
    ]
    for change in changes:
        given = {"model": model, "make": make, "task": task, "coeffs": COEFFS} | change
        with pytest.raises(BadInputError, match="another sweep: its name is"):
            steering_sweep(**given, layers=LAYERS, path=path, progress=False)
    for coeffs, fact in (([], "no coefficients"), ([1, 2, 1.0], "twice among coefficients")):
        with pytest.raises(BadInputError, match=fact):
            once(make, task, coeffs=coeffs)
    with pytest.raises(BadInputError, match="A lambda has no name"):
        sweep(lambda x: {"y": x}, {"x": [1]}, path=tmp_path / "other")


@pytest.mark.parametrize("host", hosts())
def test_any_entry_of_a_weight_changes_a_model(host: str) -> None:
    model = tiny("llama", host)
    before = model_fingerprint(model)
    assert model_fingerprint(tiny("llama", host)) == before
    for weight in torch.nn.Module.parameters(model):
        entries = weight.data.view(-1)
        kept = entries.clone()
        entries[[0, -1]] = entries[[-1, 0]]  # neither sum nor norm tells
        assert model_fingerprint(model) != before or kept[0] == kept[-1]
        entries.copy_(kept)
    assert model_fingerprint(model) == before


class Slotted:
    __slots__ = ("words",)

    def __init__(self, words: str) -> None:
        self.words = words

    def judge(self, prompt: str, text: str) -> float:
        return float(self.words in text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.float32(0.5), np.float32(0.25)),
        (np.arange(3), np.arange(3) + 1),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [1, 3]})),
        (re.compile("good"), re.compile("bad")),
        (re.compile("good"), re.compile("good", re.IGNORECASE)),
        (partial(cell, layer=1), partial(cell, layer=2)),
        (Slotted("good"), Slotted("bad")),
        (Slotted("good").judge, Slotted("bad").judge),
        (torch.float32, torch.float16),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fingerprint_tells_values_apart(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


def test_what_no_fingerprint_can_tell_apart_is_refused() -> None:
    assert fingerprint(np.float64(0.5), torch.Tensor) == fingerprint(0.5, torch.Tensor)
    endless: list[Any] = []
    endless.append(endless)
    for value in (Lock(), (each for each in "ab")):
        with pytest.raises(BadInputError, match="cannot be told from another"):
            fingerprint({"in it": value})
    with pytest.raises(BadInputError, match="holds itself"):
        fingerprint(endless)
