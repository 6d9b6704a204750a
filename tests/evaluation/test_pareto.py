"""Fronts, volumes and the attribute at matched utility, against hand-computed and naive ones."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import models
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import hosts, tiny
from torch import Tensor
from trials import trials

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.evaluation.pareto import attribute_at, front, front_lines, hypervolume
from steerlens.evaluation.sweeps import steering_sweep
from steerlens.evaluation.tasks import Neutral
from steerlens.evaluation.tradeoffs import Tradeoff, at_matched_utility
from steerlens.statistics import expanded_p

NAN = float("nan")


def clouds(measures: int, most: int = 7) -> Any:
    """Points on a small lattice, where ties are frequent."""
    numbers = st.integers(0, 4)
    point = st.lists(numbers, min_size=measures, max_size=measures)
    return st.lists(point, min_size=1, max_size=most).map(
        lambda rows: torch.tensor(rows, dtype=torch.float64)
    )


def naive_front(points: Tensor) -> list[bool]:
    rows = points.tolist()
    return [
        not any(
            all(b >= a for a, b in zip(row, other, strict=True)) and other != row for other in rows
        )
        for row in rows
    ]


# Fronts


@given(st.integers(1, 3).flatmap(clouds))
def test_the_front_is_what_no_other_dominates(points: Tensor) -> None:
    assert front(points).tolist() == naive_front(points)
    assert front(points[front(points)]).all()


def test_nan_is_never_on_the_front_and_hides_nothing() -> None:
    points = torch.tensor([[NAN, 9.0], [1.0, 1.0], [0.0, NAN], [0.0, 0.0]])
    assert front(points).tolist() == [False, True, False, False]
    assert front(torch.zeros(0, 2)).tolist() == []


def test_front_lines_of_each_group_keep_their_index() -> None:
    frame = pd.DataFrame(
        {
            "method": ["a", "b", "a", "b", "a", None],
            "score": [1, 5, 2, 4, 2, 0],
            "kl": [0.1, 0.5, 0.3, 0.6, 0.2, 9.0],
        },
        index=list("uvwxyz"),
    )
    lines = front_lines(frame, ["score", "kl"], lower=["kl"], by=["method"])
    assert lines.index.tolist() == ["u", "v", "y", "z"]
    assert front_lines(frame, ["score", "kl"], lower=["kl"]).index.tolist() == ["u", "v", "y"]
    assert front_lines(frame, ["score", "kl"]).index.tolist() == ["v", "x", "z"]
    assert len(front_lines(frame[:0], ["score"])) == 0
    with pytest.raises(BadInputError, match=r"no columns \['utility'\]"):
        front_lines(frame, ["score", "utility"])


# Hypervolume


def test_hypervolumes_computed_by_hand() -> None:
    staircase = torch.tensor([[1.0, 4.0], [2.0, 3.0], [4.0, 1.0], [1.5, 1.0], [-3.0, 9.0]])
    assert hypervolume(staircase, torch.zeros(2)) == 4 + 3 + 1 + 1  # columns of width 1
    assert hypervolume(staircase, torch.tensor([1.0, -1.0])) == 4 + 2 + 2
    boxes = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [2.0, 3.0, 0.5]])
    # 6 + 6 + 3, less the overlaps 1·1·2, 1·2·0.5, 2·1·0.5, and once again 1·1·0.5
    assert hypervolume(boxes, torch.zeros(3)) == pytest.approx(15 - 2 - 1 - 1 + 0.5)
    assert hypervolume(boxes, torch.full((3,), 9.0)) == 0
    assert hypervolume(torch.tensor([[2.0], [5.0]]), torch.tensor([1.0])) == 4


@trials(60)
@given(st.integers(1, 4).flatmap(clouds))
def test_hypervolume_counts_the_cells_of_a_lattice(points: Tensor) -> None:
    corners = product(range(4), repeat=points.shape[1])
    covered = 0
    for corner in corners:
        cell = torch.tensor(corner, dtype=torch.float64)
        covered += int((points > cell).all(1).any())
    reference = torch.zeros(points.shape[1], dtype=torch.float64)
    assert hypervolume(points, reference) == pytest.approx(covered)
    assert hypervolume(points - 2.5, reference - 2.5) == pytest.approx(covered)


# The attribute at a utility


def test_along_the_front_by_hand() -> None:
    """Dominated points and the order of points do not matter."""
    attribute = torch.tensor([0.6, 0.0, 0.5, 0.8, 0.1, 0.8])
    utility = torch.tensor([0.9, 1.0, 0.8, 0.5, 0.4, 0.3])
    targets = [1.1, 1.0, 0.95, 0.9, 0.7, 0.5, 0.4, -3.0]
    wanted = [NAN, 0.0, 0.3, 0.6, 0.7, 0.8, 0.8, 0.8]
    for target, want in zip(targets, wanted, strict=True):
        found = float(attribute_at(attribute, utility, target))
        assert found == pytest.approx(want, abs=1e-6, nan_ok=True)


def test_along_the_curve_by_hand() -> None:
    """Where utility first falls below, or ends; what comes back later does not count."""
    attribute = torch.tensor([0.0, 0.4, 0.5, 0.9, 0.2])
    utility = torch.tensor([1.0, 1.0, 0.6, 0.8, 0.1])
    targets = [1.1, 1.0, 0.8, 0.6, 0.35, 0.1, 0.0]
    wanted = [NAN, 0.4, 0.45, 0.9 - 0.7 * 2 / 7, 0.9 - 0.7 * 4.5 / 7, 0.2, NAN]
    for target, want in zip(targets, wanted, strict=True):
        found = float(attribute_at(attribute, utility, target, along="curve"))
        assert found == pytest.approx(want, abs=1e-6, nan_ok=True)


@given(clouds(2), st.floats(-1, 5))
def test_along_the_front_is_the_front_interpolated(points: Tensor, target: float) -> None:
    attribute, utility = points.unbind(1)
    found = float(attribute_at(attribute, utility, target))
    kept = sorted({tuple(row) for row in points[naive_front(points)].tolist()}, key=lambda p: p[1])
    if target > kept[-1][1]:
        assert np.isnan(found)
    else:
        a, u = zip(*kept, strict=True)
        assert found == pytest.approx(np.interp(target, u, a), abs=1e-9)


@given(clouds(4), st.floats(-1, 5), st.sampled_from(["front", "curve"]))
def test_a_batch_is_its_columns(points: Tensor, target: float, along: Any) -> None:
    attribute, utility = points[:, :2], points[:, 2:]
    found = attribute_at(attribute, utility, target, along=along)
    alone = [attribute_at(attribute[:, i], utility[:, i], target, along=along) for i in (0, 1)]
    torch.testing.assert_close(found, torch.stack(alone), equal_nan=True)


# At matched utility


def doses(slope: float, seed: int, items: int = 60, noise: float = 1.0) -> Tradeoff:
    """Attribute slope · dose and utility -dose, with items that differ in both."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.tensor([[0.0], [1.0], [2.0]])
    own, other = (noise * torch.randn(3, items, generator=generator) for _ in range(2))
    return Tradeoff(f"slope {slope}", slope * levels + own, -levels + 0.3 * other)


def test_the_interval_covers_the_truth() -> None:
    """Attribute 1.4 at utility -0.7, in 95 of 100 data sets."""
    covered = 0
    for seed in range(100):
        options = {"along": "curve", "resamples": 200, "seed": seed}
        line = at_matched_utility([doses(2.0, seed)], -0.7, **options).iloc[0]
        covered += line["low"] <= 1.4 <= line["high"]
    assert 89 <= covered <= 99


def test_differences_are_paired() -> None:
    """What items share cancels: a difference is surer than either side."""
    shared = 5 * torch.randn(200, generator=torch.Generator().manual_seed(9))
    both = []
    for slope, seed in ((1.0, 1), (2.0, 2)):
        plain = doses(slope, seed, items=200, noise=0.1)
        both.append(Tradeoff(plain.name, plain.attribute + shared, plain.utility))
    table = at_matched_utility(both, -1.5)
    first, second = table.iloc[0], table.iloc[1]
    assert second["difference"] == pytest.approx(1.5, abs=0.05)
    assert second["difference"] == pytest.approx(second["attribute"] - first["attribute"])
    assert second["difference_low"] <= second["difference"] <= second["difference_high"]
    assert second["difference_high"] - second["difference_low"] < 0.1
    assert second["high"] - second["low"] > 1
    assert second["p"] == pytest.approx(expanded_p(torch.ones(1000), 200))  # none beyond 0
    assert first[["difference", "difference_low", "difference_high", "p"]].isna().all()
    assert table["reached"].tolist() == [1.0, 1.0]
    pd.testing.assert_frame_equal(at_matched_utility(both, -1.5), table)
    assert not at_matched_utility(both, -1.5, seed=1).equals(table)


def test_items_of_both_sides_may_be_resampled_together() -> None:
    """Where the utility is the attribute's negative, the attribute at a utility is known."""
    items = torch.randn(50, generator=torch.Generator().manual_seed(3))
    attribute = torch.tensor([[0.0], [1.0], [2.0]]) + items
    mirrored = [Tradeoff("mirrored", attribute, -attribute)]
    target = -1 - float(items.mean())
    together = at_matched_utility(mirrored, target, same_items=True).iloc[0]
    assert together["low"] == pytest.approx(together["high"]) == pytest.approx(-target)
    apart = at_matched_utility(mirrored, target).iloc[0]
    assert apart["high"] - apart["low"] > 0.3


def test_what_is_seldom_reached_is_told() -> None:
    """At the best utility of all, about half of the resamples have less."""
    tradeoff = doses(1.0, 0)
    best = float(tradeoff.points[:, 1].max())
    assert 0.3 < at_matched_utility([tradeoff], best)["reached"][0] < 0.7
    with pytest.raises(BadInputError, match=r"'slope 1.0' does not reach the utility 1 along"):
        at_matched_utility([tradeoff], 1.0)
    with pytest.raises(BadInputError, match="along its curve"):
        at_matched_utility([tradeoff], -9.0, along="curve")
    assert at_matched_utility([tradeoff], -9.0)["attribute"][0] == pytest.approx(
        float(tradeoff.points[:, 0].max())
    )


@pytest.mark.parametrize(
    ("tradeoffs", "options", "message"),
    [
        ([], {}, "no trade-offs"),
        ([doses(1, 0), doses(1, 0, items=59)], {}, "59 items of attribute"),
        ([doses(1, 0, items=1)], {}, "two or more"),
        (
            [Tradeoff("odd", torch.zeros(2, 5), torch.zeros(2, 6))],
            {"same_items": True},
            "each of its 5",
        ),
    ],
)
def test_what_cannot_be_compared(tradeoffs: Any, options: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        at_matched_utility(tradeoffs, -0.5, **options)


def test_points_have_both_sides() -> None:
    for attributes, utilities in ((3, 2), (0, 0)):
        with pytest.raises(BadInputError, match="Give both for each point"):
            Tradeoff("odd", torch.zeros(attributes, 5), torch.zeros(utilities, 5))


def test_chosen_points_keep_their_items() -> None:
    tradeoff = doses(1.0, 0)
    part = tradeoff.part(torch.tensor([2, 0]))
    assert torch.equal(part.attribute, tradeoff.attribute[[2, 0]])
    assert torch.equal(part.utility, tradeoff.utility[[2, 0]])
    kept = tradeoff.part(torch.tensor([True, False, True]))
    assert torch.equal(kept.points, tradeoff.points[[0, 2]])


@pytest.mark.host
@pytest.mark.parametrize("host", hosts())
def test_a_sweep_item_by_item_gives_a_tradeoff(host: str, tmp_path: Path) -> None:
    model, coeffs = tiny("llama", host), [2.0, -1.0, 0.0]
    items = [("good w1", " w2 w3"), ("bad", " w4"), ("the sad w5 w6", " good w7 bad w8")]
    vector = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(0))

    def make(layer: int) -> sl.Steering:
        name = f"blocks.{layer}.hook_resid_post"
        return sl.add(sl.Direction(name, vector), positions="predicting")

    task = Neutral("said", items)
    frame = steering_sweep(
        model, make, task, [1, 0], coeffs, neutral=items[:2], each_item=True, progress=False
    )
    found = Tradeoff.from_frame("add", frame, utility="kl", lower=True)
    assert found.attribute.shape == (6, 3)
    assert found.utility.shape == (6, 2)
    for layer, rows in ((1, slice(0, 3)), (0, slice(3, 6))):
        alone = task.scores(model, make(layer), coeffs).values
        torch.testing.assert_close(found.attribute[rows], alone, atol=1e-5, rtol=0)
        nats = sl.evaluation.divergence(model, make(layer), items[:2], coeffs)
        torch.testing.assert_close(found.utility[rows], -nats, atol=1e-5, rtol=0)
    with pytest.raises(BadInputError, match="not 'utility'"):
        Tradeoff.from_frame("add", frame)
