"""Statistics against scikit-learn, and against what they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from steerlens.errors import BadInputError
from steerlens.statistics import auc, band, effect_size, mean_interval

few = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(few, few)
def test_auc_is_scikit_learns_with_ties(positive: list[float], negative: list[float]) -> None:
    labels = [1] * len(positive) + [0] * len(negative)
    wanted = roc_auc_score(labels, positive + negative)
    got = auc(torch.tensor(positive), torch.tensor(negative))
    assert got.item() == pytest.approx(wanted, abs=1e-6)
    swapped = auc(torch.tensor(negative), torch.tensor(positive))
    assert got.item() + swapped.item() == pytest.approx(1, abs=1e-6)


def test_auc_by_column() -> None:
    positive, negative = torch.randn(7, 3), torch.randn(5, 3)
    wanted = [auc(positive[:, i], negative[:, i]).item() for i in range(3)]
    assert auc(positive, negative).tolist() == pytest.approx(wanted)


def test_band_holds_its_share() -> None:
    low, high = band(torch.randn(10_000, generator=torch.Generator().manual_seed(0)))
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.1)
    assert band(torch.arange(101.0), 0.8) == pytest.approx((10, 90))


def test_intervals_cover() -> None:
    """Of 200 samples of 40, the 95% interval of the mean holds the true one about 95% of times."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(200):
        mean, (low, high) = mean_interval(torch.randn(40, generator=generator), seed=seed)
        assert low < mean < high
        covered += low < 0 < high
    assert 178 <= covered <= 198


def test_one_item_has_no_interval() -> None:
    with pytest.raises(BadInputError, match="two items or more; there are 1"):
        mean_interval(torch.ones(1))


def test_effect_size_counts_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, generator=generator)
    assert effect_size(2 * x + 3, 2 * x) == pytest.approx(1.5, abs=0.1)
    assert effect_size(x, x + 1) == pytest.approx(-1, abs=0.1)
