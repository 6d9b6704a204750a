"""The benchmarks' own logic, and every case at tiny size, so that none can rot."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.growth import collected_by, part_collected
from benchmarks.measuring import Figure, Goal, interleaved, median, ratio
from benchmarks.registry import CASES
from benchmarks.results import PAGE, TABLE, Result, Row, load, save, table, write_page
from benchmarks.served import Served, peak


@pytest.mark.parametrize(
    ("interval", "at_most", "at_least"),
    [
        ((0.5, 0.9), "met", "missed"),
        ((1.1, 1.5), "missed", "met"),
        ((0.98, 1.05), "met", "met"),  # reaches it while narrower than 0.1
        ((0.9, 1.1), "undecided", "undecided"),
    ],
)
def test_what_a_goal_of_one_makes_of_an_interval(
    interval: tuple[float, float], at_most: str, at_least: str
) -> None:
    figure = Figure(sum(interval) / 2, interval)
    assert Goal(1.0).verdict(figure) == at_most
    assert Goal(1.0, at_least=True).verdict(figure) == at_least


def test_a_number_measured_once_is_met_or_missed() -> None:
    assert Goal(1.0).verdict(Figure(1.0)) == "met"
    assert Goal(1.0).verdict(Figure(1.001)) == "missed"
    assert str(Goal(1.3, at_least=True)) == "≥ 1.3"


def test_runs_take_turns() -> None:
    ran: list[str] = []
    runs = {name: (lambda name=name: ran.append(name)) for name in "ab"}
    seconds = interleaved(runs, rounds=3)
    assert "".join(ran) == "ab" * 4  # one of each is not measured
    assert [len(each) for each in seconds.values()] == [3, 3]


def test_the_ratio_is_of_pairs() -> None:
    """What slows a whole round changes no ratio."""
    found = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert found == Figure(2.0, (2.0, 2.0))


def test_the_interval_of_the_median_holds_it() -> None:
    drawn = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    inside = [low <= 0 <= high for low, high in (median(each).interval or () for each in drawn)]
    assert sum(inside) >= 180  # 95% of 200, less three standard deviations


def test_a_case_is_kept_and_put_where_its_mark_is(tmp_path: Path) -> None:
    rows = (
        Row("ours / theirs", Figure(0.912, (0.9, 0.93)), Goal(1.0)),
        Row("peak", Figure(1234.5), unit="MB", note="a process of its own"),
        Row("a peer", None, Goal(1.3, at_least=True), note="not run: no such wheel"),
    )
    save(Result("one", rows, "CPU, 1 thread"), tmp_path)
    assert load("one", tmp_path) == Result("one", rows, "CPU, 1 thread")
    assert load("two", tmp_path) is None
    page = tmp_path / "page.md"
    marks = "before <!-- case: {} -->\nold\n<!-- end --> after"
    page.write_text("\n".join(marks.format(case) for case in ("one", "two")))
    for _ in range(2):
        write_page(page, tmp_path)
        text = page.read_text()
        assert table(rows) in text
        assert "| ours / theirs | 0.912 | 0.9 to 0.93 | ≤ 1 | met |" in text
        assert "| peak (a process of its own) | 1234 MB |  |  |  |" in text
        assert "| ≥ 1.3 | not measured |" in text
        assert text.count("before ") == text.count(" after") == 2
        assert "old" not in text
        assert "Not measured yet." in text


def test_every_case_has_its_mark_on_the_page() -> None:
    marked = [case for _, case, _ in TABLE.findall(PAGE.read_text(encoding="utf-8"))]
    assert sorted(marked) == sorted([*CASES, "gpu"])


def test_a_peak_is_of_the_run_alone() -> None:
    if sys.platform != "linux":
        pytest.skip("the kernel's account of resident memory is Linux's")
    with Served("benchmarks.serve:hoard", megabytes=200) as run:
        rises = [round(used.peak - used.before) for used in (run(), run())]
    assert all(198 <= rise <= 205 for rise in rises)
    small = peak("benchmarks.serve:hoard", megabytes=2)
    assert small.peak - small.before < 20


def test_a_run_that_cannot_be_set_up_says_why() -> None:
    with pytest.raises(RuntimeError, match="unexpected keyword argument 'gigabytes'"):
        Served("benchmarks.serve:hoard", gigabytes=1)


@pytest.mark.host
@pytest.mark.parametrize("case", CASES)
def test_every_case_runs(case: str) -> None:
    _check(list(CASES[case](True)))


@pytest.mark.host
def test_what_a_gpu_is_asked_runs_without_one() -> None:
    rows = list(gpu.rows(True))
    _check(rows)
    [waits] = [row for row in rows if "waits" in row.what]
    assert waits.verdict == "met"


@pytest.mark.host
def test_what_workers_collect_merges_into_the_whole() -> None:
    """Law 8, over processes."""
    texts = [[4 + (3 * i + j) % 90 for j in range(3 + i % 4)] for i in range(11)]
    whole = part_collected(texts)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        merged = collected_by(pool, texts, 3)
    assert merged.rows == whole.rows
    for name, moments in whole.items():
        assert merged[name].count == moments.count == len(texts)
        near = {"rtol": 0.0, "atol": 1e-6 * float(whole.examples[name].norm(dim=1).max())}
        torch.testing.assert_close(merged[name].mean, moments.mean, **near)
        spread = merged[name].variance.sqrt(), moments.variance.sqrt()
        torch.testing.assert_close(*spread, **near)
        torch.testing.assert_close(merged.examples[name], whole.examples[name], **near)


def _check(rows: list[Row]) -> None:
    assert rows
    for row in rows:
        assert row.figure is None or row.figure.value >= 0
    assert table(rows).count("\n") == len(rows) + 2
