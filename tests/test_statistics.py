"""Statistics against scikit-learn, and against what they promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from trials import trials

from steerlens.errors import BadInputError
from steerlens.statistics import (
    auc,
    band,
    effect_size,
    holm,
    mean_interval,
    paired_difference,
    rank_among,
)

few = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)


@trials(100)
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


def test_auc_in_half_precision() -> None:
    positive, negative = torch.randn(7).bfloat16(), torch.randn(5).bfloat16()
    assert auc(positive, negative) == auc(positive.float(), negative.float())


def test_nan_has_no_auc() -> None:
    with pytest.raises(BadInputError, match="1 of 4 scores are NaN"):
        auc(torch.tensor([1.0, torch.nan]), torch.tensor([0.0, 2.0]))
    assert auc(torch.tensor([1.0, torch.inf]), torch.tensor([0.0, -torch.inf])) == 1


def test_band_holds_its_share() -> None:
    low, high = band(torch.randn(10_000, generator=torch.Generator().manual_seed(0)))
    assert (low, high) == pytest.approx((-1.96, 1.96), abs=0.1)
    assert band(torch.arange(101.0), 0.8) == pytest.approx((10, 90))


def test_intervals_cover() -> None:
    """Of 1,000 samples of 10, 95% of intervals hold the true mean; of plain ones 91% do."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for seed in range(1000):
        mean, (low, high) = mean_interval(torch.randn(10, generator=generator), seed=seed)
        assert low < mean < high
        covered += low < 0 < high
    assert 930 <= covered <= 970


def test_one_item_has_no_interval() -> None:
    with pytest.raises(BadInputError, match="two items or more; there are 1"):
        mean_interval(torch.ones(1))


def test_effect_size_counts_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, generator=generator)
    assert effect_size(2 * x + 3, 2 * x) == pytest.approx(1.5, abs=0.1)
    assert effect_size(x, x + 1) == pytest.approx(-1, abs=0.1)


def test_a_difference_over_items_is_the_bootstrap_of_the_gaps() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(60, generator=generator)
    second = first - 0.3 + 0.5 * torch.randn(60, generator=generator)
    found = paired_difference(first, second)
    assert found.mean == pytest.approx(float((first - second).mean()), abs=1e-6)
    half = 1.96 * float((first - second).std()) / 60**0.5
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * half, rel=0.08)
    assert (found.items, found.seeds) == (60, 1)
    turned = paired_difference(second, first)
    assert turned.mean == pytest.approx(-found.mean)
    assert turned.p == pytest.approx(found.p, abs=0.02)


def test_pairing_takes_the_items_own_spread_out() -> None:
    items = 100 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    found = paired_difference(items + 1, items)
    assert found.interval == pytest.approx((1, 1), abs=1e-4)
    assert found.p < 0.001


def test_seeds_that_disagree_widen_the_interval() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = 0.1 * torch.randn(5, 40, generator=generator)
    base = torch.zeros(5, 40)
    agreeing = paired_difference(noise + 0.5, base)
    shift = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])[:, None]
    disagreeing = paired_difference(noise + shift, base)
    assert agreeing.mean == pytest.approx(disagreeing.mean, abs=1e-6)
    assert agreeing.p < 0.01  # as sure as 10,000 resamples and means of five seeds can be
    assert disagreeing.p > 0.05
    wanted = 2 * 2.776 * float(shift.std()) / 5**0.5  # Student's interval of 5 seeds
    width = disagreeing.interval[1] - disagreeing.interval[0]
    assert width == pytest.approx(wanted, rel=0.1)


def test_chance_alone_is_significant_as_often_as_it_should_be() -> None:
    generator = torch.Generator().manual_seed(3)
    ps = [
        paired_difference(*torch.randn(2, 50, generator=generator), seed=seed, resamples=2000).p
        for seed in range(300)
    ]
    assert 5 <= sum(p < 0.05 for p in ps) <= 27
    assert 0.42 <= sum(ps) / len(ps) <= 0.58


@pytest.mark.parametrize(("seeds", "least"), [(2, 0.83), (3, 0.9), (5, 0.92)])
def test_an_interval_over_a_few_seeds_holds_the_truth(seeds: int, least: float) -> None:
    """As often as its docstring says; and p below a twentieth means an interval without zero."""
    generator, held = torch.Generator().manual_seed(4), 0
    for _ in range(400):
        shift = torch.randn(seeds, 1, generator=generator)
        gaps = shift + torch.randn(seeds, 30, generator=generator)
        found = paired_difference(gaps, torch.zeros(seeds, 30))
        holds = found.interval[0] <= 0 <= found.interval[1]
        assert holds == (found.p >= 0.05)
        held += holds
    assert least <= held / 400 <= 0.99


@trials(30)
@given(st.integers(0, 10_000), st.floats(-1, 1))
def test_p_below_a_twentieth_means_an_interval_without_zero(seed: int, shift: float) -> None:
    gaps = torch.randn(12, generator=torch.Generator().manual_seed(seed)) + shift
    found = paired_difference(gaps, torch.zeros(12), resamples=4001)
    without = found.interval[0] > 0 or found.interval[1] < 0
    if abs(found.p - 0.05) > 0.002:
        assert without == (found.p < 0.05)


def test_a_difference_needs_the_same_items() -> None:
    with pytest.raises(BadInputError, match=r"got \(3,\) and \(4,\)"):
        paired_difference(torch.ones(3), torch.ones(4))
    with pytest.raises(BadInputError, match="two or more"):
        paired_difference(torch.ones(1), torch.ones(1))


def test_holm_by_hand() -> None:
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and none falls: .02 .03 .06 .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.9]) == pytest.approx((1.0, 1.0))
    assert holm([0.2]) == (0.2,)
    assert holm([]) == ()
    with pytest.raises(BadInputError, match="between 0 and 1"):
        holm([1.5])


@trials(100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.2))
def test_holm_rejects_what_the_steps_reject(ps: list[float], level: float) -> None:
    """The step-down procedure as written: stop at the first p that misses its own bound."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    bounds = [level / (len(ps) - place) for place in range(len(ps))]
    passed = [ps[i] <= bound for i, bound in zip(order, bounds, strict=True)]
    steps = passed.index(False) if False in passed else len(ps)
    corrected = holm(ps)
    if all(abs(p - level) > 1e-9 for p in corrected):
        assert {i for i, p in enumerate(corrected) if p <= level} == set(order[:steps])


def test_rank_counts_ties_for_the_placebos() -> None:
    placebos = torch.arange(19.0)
    assert rank_among(19.0, placebos).rank == 1
    assert rank_among(19.0, placebos).p == pytest.approx(0.05)
    assert rank_among(18.0, placebos).rank == 2
    assert rank_among(-1.0, placebos).rank == 20
    assert rank_among(-1.0, placebos).p == 1
    assert rank_among(3.0, placebos).band == pytest.approx((0.45, 17.55))
    with pytest.raises(BadInputError, match="no placebos"):
        rank_among(1.0, torch.empty(0))
