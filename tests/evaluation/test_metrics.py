"""Metrics against hand computation, and the laws they keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trials import trials

from steerlens.errors import BadInputError
from steerlens.evaluation import metrics

words = st.lists(st.sampled_from("abc"), max_size=12)
numbers = st.floats(-10, 10)


def test_kl_by_hand() -> None:
    base, steered = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), torch.tensor([0.2, 0.6, 0.2])
    wanted = [
        0.5 * math.log(2.5) + 0.5 * math.log(5 / 6),
        0.3 * math.log(0.5) + 0.5 * math.log(2.5),
    ]
    found = metrics.kl(base.log(), steered.log().expand(2, 3))
    torch.testing.assert_close(found, torch.tensor(wanted))


@given(st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, min_size=4, max_size=4))
@trials(50)
def test_kl_is_never_negative_and_zero_of_the_same(one: list[float], other: list[float]) -> None:
    base, steered = (torch.tensor(each).log_softmax(-1) for each in (one, other))
    assert metrics.kl(base, steered) >= 0
    assert metrics.kl(base, base) == 0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30), st.integers(1, 5))
@trials(50)
def test_mean_and_percentile_weigh_tokens_alike(nats: list[float], pieces: int) -> None:
    every = torch.tensor(nats)
    found = metrics.kl_summary(every)
    assert found.mean == pytest.approx(float(every.double().mean()))
    assert found.p95 == pytest.approx(float(every.double().quantile(0.95)), rel=1e-9)
    assert metrics.kl_summary(every.tensor_split(pieces)) == found


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf], [3.0, -math.inf, -math.inf]])
    torch.testing.assert_close(metrics.entropy(logits), torch.tensor([math.log(2), 0.0]))
    shifted = torch.tensor([[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]])
    assert metrics.entropy(shifted)[0] == pytest.approx(float(metrics.entropy(shifted)[1]))


def test_perplexity_ratio_by_hand() -> None:
    base, steered = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -3.0])
    ratio = metrics.perplexity_ratio(base, steered)
    assert ratio == pytest.approx(math.exp(2.5) / math.exp(2.0))
    assert metrics.perplexity_ratio(steered, base) == pytest.approx(1 / ratio)


def test_ngrams_by_hand() -> None:
    texts = ["a b a b a", "b  a\nb", "a", ""]
    # Pairs: ab ba ab ba, ba ab, none, none.
    assert metrics.distinct(texts) == pytest.approx(2 / 6)
    assert metrics.repetition(texts, 2).tolist() == [0.5, 0, 0, 0]
    assert metrics.repetition([[7, 7, 7, 7]], 1).tolist() == [0.75]
    assert math.isnan(metrics.distinct(["a"], 2))


@given(words, st.integers(1, 4))
@trials(100)
def test_one_text_is_distinct_where_it_does_not_repeat(text: list[str], n: int) -> None:
    repeated = float(metrics.repetition([text], n))
    assert float(metrics.repetition([" ".join(text)], n)) == repeated
    assert 0 <= repeated < 1
    if len(text) >= n:
        assert metrics.distinct([text], n) == pytest.approx(1 - repeated)
        assert metrics.distinct([text, text], n) == pytest.approx((1 - repeated) / 2)


def test_what_repeats_compresses() -> None:
    varied = "A cow eats grass, the sea is blue, and Bob sold nine old hats to my aunt."
    found = metrics.compression_ratio([varied, varied * 2, varied * 8, ""])
    assert found[0] < found[1] < found[2]
    assert found[2] > 4
    assert found[3] == 1


def test_accuracy_delta_is_paired() -> None:
    base = torch.tensor([False, True] * 50)
    steered = torch.tensor([True, True] * 50)
    delta, (low, high) = metrics.accuracy_delta(base, steered)
    assert delta == 0.5
    assert 0.35 < low < delta < high < 0.65
    # Items that go up together have no spread, however they differ among themselves.
    assert metrics.accuracy_delta(base.float(), base.float() + 1) == (1.0, (1.0, 1.0))
    with pytest.raises(BadInputError, match="needs the same items"):
        metrics.accuracy_delta(base, steered[:-1])


@given(
    st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8),
    st.lists(numbers.map(lambda x: round(x, 2)), min_size=2, max_size=6, unique=True),
    st.randoms(use_true_random=False),
)
@trials(100)
def test_the_slope_of_a_line_is_found(
    lines: list[tuple[float, float]], coeffs: list[float], random: object
) -> None:
    start, slope = torch.tensor(lines).T
    x = torch.tensor(coeffs)
    found = metrics.steerability(start + x[:, None] * slope, coeffs)
    torch.testing.assert_close(found.slopes, slope, atol=2e-3 / (max(coeffs) - min(coeffs)), rtol=0)
    order = torch.randperm(len(coeffs))
    moved = metrics.steerability((start + x[:, None] * slope)[order], x[order].tolist())
    torch.testing.assert_close(moved.slopes, found.slopes, atol=1e-4, rtol=1e-4)


def test_steerability_by_hand() -> None:
    # Least squares over coefficients -1, 0 and 2, of squared deviations 16/9 + 1/9 + 25/9 = 14/3:
    # (-4/3 * 0 - 1/3 * 3 + 5/3 * 3) / (14/3) = 6/7.
    propensity = torch.tensor([[0.0, 1.0, 5.0], [3.0, 1.0, 4.0], [3.0, 1.0, 2.0]])
    found = metrics.steerability(propensity, [-1, 0, 2])
    torch.testing.assert_close(found.slopes, torch.tensor([6 / 7, 0.0, -1.0]))
    assert found.slope == pytest.approx(-1 / 21)
    assert found.variance == pytest.approx(float(torch.tensor([6 / 7, 0.0, -1.0]).var()))
    assert found.anti_steerable == pytest.approx(1 / 3)  # a flat item is not one
    assert math.isnan(metrics.steerability(propensity[:, :1], [-1, 0, 2]).variance)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(BadInputError, match="3 coefficients do not fit 2 rows"):
        metrics.steerability(torch.zeros(2, 4), [0, 1, 2])
    with pytest.raises(BadInputError, match="two coefficients that differ"):
        metrics.steerability(torch.zeros(2, 4), [1, 1])
    with pytest.raises(BadInputError, match="no tokens"):
        metrics.kl_summary([])
    with pytest.raises(BadInputError, match="n=0"):
        metrics.distinct(["a b"], 0)
