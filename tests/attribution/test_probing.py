"""Probes of one component: sure of what is planted, honest on noise, pairs never split."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, cross_val_score

from steerlens.attribution.probing import folds, head_accuracy, neuron_accuracy
from steerlens.attribution.scores import Inputs, Writers, neuron_scores
from steerlens.moments import Moments
from steerlens.statistics import effect_size


def noise(n: int, *unit: int, seed: int) -> torch.Tensor:
    return torch.randn(n, *unit, generator=torch.Generator().manual_seed(seed))


def test_planted_and_not() -> None:
    positive, negative = noise(40, 2, 8, seed=0), noise(30, 2, 8, seed=1)
    positive[:, 0, 3] += 6
    parts = folds(40, 30, paired=False, seed=0)
    accuracy = head_accuracy(positive, negative, parts)
    assert accuracy[0] > 0.95
    assert 0.25 < accuracy[1] < 0.75
    told = neuron_accuracy(positive[:, :, 3], negative[:, :, 3], parts)
    assert told[0] > 0.95
    assert 0.25 < told[1] < 0.75


def test_noise_is_chance_on_average() -> None:
    """However unequal the sides: a probe that always says one of them scores 0.5."""
    parts = folds(60, 12, paired=False, seed=0)
    values = head_accuracy(noise(60, 20, 4, seed=2), noise(12, 20, 4, seed=3), parts)
    assert values.mean() == pytest.approx(0.5, abs=0.08)
    dead = neuron_accuracy(torch.zeros(60, 1), torch.zeros(12, 1), parts)
    assert dead.item() == 0.5


def test_against_scikit_learn() -> None:
    """With as many folds as pairs and unit scale, its own cross-validation gives the same."""
    positive, negative = noise(4, 1, 3, seed=4) + 1, noise(4, 1, 3, seed=5)
    x = torch.cat([positive, negative])[:, 0]
    ours = head_accuracy(positive, negative, (torch.arange(4), torch.arange(4) + 4))
    theirs = cross_val_score(
        LogisticRegression(C=1.0, class_weight="balanced"),
        (x / x.std(0).mean()).numpy(),
        [1] * 4 + [0] * 4,
        cv=LeaveOneOut(),
    ).mean()
    assert float(ours) == pytest.approx(theirs, abs=0.13)  # the scale is not quite the same


def test_pairs_are_left_out_together() -> None:
    first, second = folds(23, 23, paired=True, seed=1)
    assert torch.equal(first, second)
    counts = torch.bincount(first)
    assert len(counts) == 5
    assert counts.max() - counts.min() <= 1
    assert folds(3, 9, paired=False, seed=0) is None


def test_a_neurons_effect_size_is_cohens_d() -> None:
    positive, negative = noise(9, 2, seed=6) + 1, noise(7, 2, seed=7)

    def inputs(x: torch.Tensor) -> Inputs:
        return Inputs(Moments.of(x).mean, Moments.of(x), x, x)

    weights = torch.eye(2)
    writers = Writers(weights, weights, weights[0], weights[0])
    found = neuron_scores(writers, inputs(positive), inputs(negative))["effect_size"]
    for i in range(2):
        expected = abs(effect_size(positive[:, i], negative[:, i]))
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)
