"""The finders, as laws: sides, scales, shifts, rotations, few examples, massive activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH_HOST
from hypothesis import given
from hypothesis import strategies as st
from models import random_rows, tiny
from torch import Tensor
from trials import trials

import steerlens as sl
from steerlens.directions import FINDERS, clipped_mean_difference, mean_difference, whitened
from steerlens.directions.quality import oriented
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.statistics import auc

EACH_FINDER = pytest.mark.parametrize("method", list(FINDERS))
ROTATED = [name for name in FINDERS if name != "clipped_mean_difference"]
"""Clipping goes entry by entry, and knows its axes."""
LAW = trials(15)
seeds = st.integers(0, 999)
sizes = st.tuples(st.integers(2, 20), st.integers(2, 40))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sides(seed: int, n: int = 20, d: int = 8) -> tuple[Tensor, Tensor]:
    """Sides in double precision, a unit apart along a random direction."""
    x = torch.randn(2 * n, d, generator=generator(seed), dtype=torch.float64)
    shift = torch.randn(d, generator=generator(seed + 1), dtype=torch.float64)
    return x[:n] + shift / shift.norm(), x[n:]


def unit(method: str, positive: Tensor, negative: Tensor) -> Tensor:
    vector = oriented(FINDERS[method], positive, negative)
    return vector / vector.norm()


def same(one: Tensor, other: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


LOOSE = {"probe": 2e-2}
"""L-BFGS stops when it is near enough."""


@EACH_FINDER
def test_law_10_with_any_number_of_examples_and_dimensions(method: str) -> None:
    @LAW
    @given(sizes, seeds)
    def law(size: tuple[int, int], seed: int) -> None:
        n, d = size
        positive, negative = sides(seed, n, d)
        found = unit(method, positive, negative)
        assert found.shape == (d,)
        assert (positive @ found).mean() >= (negative @ found).mean()
        same(unit(method, negative, positive), -found, LOOSE.get(method, 1e-5))

    law()


@EACH_FINDER
def test_scaled_activations_give_the_same_direction(method: str) -> None:
    @LAW
    @given(seeds, st.sampled_from([1e-3, 0.1, 7.0, 1e3]))
    def law(seed: int, scale: float) -> None:
        positive, negative = sides(seed)
        found = unit(method, positive, negative)
        same(unit(method, scale * positive, scale * negative), found, LOOSE.get(method, 1e-5))

    law()


@pytest.mark.parametrize("method", ROTATED)
def test_a_shift_of_both_sides_is_not_seen(method: str) -> None:
    @LAW
    @given(seeds)
    def law(seed: int) -> None:
        positive, negative = sides(seed)
        shift = 5 * torch.randn(8, generator=generator(seed), dtype=torch.float64)
        found = unit(method, positive, negative)
        same(unit(method, positive + shift, negative + shift), found, LOOSE.get(method, 1e-5))

    law()


@pytest.mark.parametrize("method", ROTATED)
def test_rotated_activations_give_the_rotated_direction(method: str) -> None:
    @LAW
    @given(seeds, sizes)
    def law(seed: int, size: tuple[int, int]) -> None:
        positive, negative = sides(seed, *size)
        d = size[1]
        turn = torch.linalg.qr(torch.randn(d, d, generator=generator(seed)).double()).Q
        found = unit(method, positive, negative)
        same(unit(method, positive @ turn, negative @ turn), found @ turn, LOOSE.get(method, 1e-5))

    law()


@EACH_FINDER
def test_one_pair(method: str) -> None:
    positive, negative = sides(0, 1, 5)
    assert positive.shape == (1, 5)
    found = unit(method, positive.float(), negative.float())
    if method != "clipped_mean_difference":
        gap = (positive - negative)[0].float()
        same(found, gap / gap.norm(), 1e-4)


# Whitened


def anisotropic(seed: int, n: int, d: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Sides whose noise is largest where they differ too; and the best covector there is."""
    mix = torch.randn(d, d, generator=generator(seed), dtype=torch.float64)
    mix = mix * torch.logspace(1, -1, d, dtype=torch.float64)[:, None]
    shift = mix.T @ torch.randn(d, generator=generator(seed + 1), dtype=torch.float64)
    x = torch.randn(2 * n, d, generator=generator(seed + 2), dtype=torch.float64) @ mix
    return x[:n] + shift, x[n:], torch.linalg.solve(mix.T @ mix, shift)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize("n", [6, 20, 60])
@pytest.mark.parametrize("d", [4, 30])
def test_whitened_is_scikit_learns(n: int, d: int) -> None:
    """The same covariance by scikit-learn's Ledoit-Wolf, and its own discriminant analysis."""
    from sklearn.covariance import ledoit_wolf

    positive, negative = sides(n * d, n, d)
    residuals = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    covariance = torch.from_numpy(ledoit_wolf(residuals.numpy(), assume_centered=True)[0])
    wanted = torch.linalg.solve(covariance, positive.mean(0) - negative.mean(0))
    torch.testing.assert_close(whitened(positive, negative), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("n", [5, 40])
def test_whitened_solves_the_shrunk_covariance(n: int, shrinkage: float) -> None:
    d = 12
    positive, negative = sides(n, n, d)
    residuals = torch.cat([positive - positive.mean(0), negative - negative.mean(0)])
    covariance = residuals.T @ residuals / (2 * n)
    floor = max(shrinkage, 1e-9) * covariance.trace() / d
    shrunk = (1 - shrinkage) * covariance + floor * torch.eye(d, dtype=torch.float64)
    wanted = torch.linalg.solve(shrunk, positive.mean(0) - negative.mean(0))
    assert cosine(whitened(positive, negative, shrinkage), wanted) > 1 - 1e-6


def test_whitened_reads_better_where_noise_is_anisotropic() -> None:
    gains = []
    for seed in range(10):
        positive, negative, best = anisotropic(seed, 200)
        found = {f: f(positive, negative) for f in (whitened, mean_difference)}
        assert cosine(found[whitened], best) > cosine(found[mean_difference], best)
        held = anisotropic(seed, 400)[:2]
        gains.append(
            float(auc(*(side @ found[whitened] for side in held)))
            - float(auc(*(side @ found[mean_difference] for side in held)))
        )
    assert min(gains) > 0.0
    assert sum(gains) / 10 > 0.1


def test_whitened_where_sides_are_shifted_copies() -> None:
    """Ledoit and Wolf then see no noise in the covariance, and it is singular."""
    x = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]).double()
    shift = torch.tensor([1.0, 1.0, 0.0]).double()
    found = whitened(x + shift, x)
    same(found / found.norm(), torch.tensor([0.0, 1.0, 0.0]).double())
    same(whitened(x[:1] + shift, x[:1]), shift)
    with pytest.raises(BadInputError, match="a share, from 0 to 1"):
        whitened(x, x, shrinkage=2)


# Clipped


def massive(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stream with two massive entries in every item, and one item that is massive elsewhere."""
    x = torch.randn(64, 256, generator=generator(seed))
    planted = torch.randn(256, generator=generator(seed + 1))
    x[:32] += 3 * planted / planted.norm()
    x[:, 7] = 900 + 90 * torch.randn(64, generator=generator(seed + 2))
    x[:, 80] = -400 + 40 * torch.randn(64, generator=generator(seed + 3))
    x[3, 11] = 5000
    return x[:32], x[32:], planted


def test_massive_activations_do_not_decide_a_clipped_mean() -> None:
    for seed in range(5):
        positive, negative, planted = massive(seed)
        few = [side.clone() for side in (positive, negative)]
        for side in few:
            side[:, [7, 11, 80]] = 0
        assert cosine(mean_difference(positive, negative), planted) < 0.1
        clean = cosine(mean_difference(few[0], few[1]), planted)
        assert cosine(clipped_mean_difference(positive, negative), planted) > 0.95 * clean > 0.5


def test_no_entry_of_an_item_stands_above_every_other() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0, 50.0]])
    assert clipped_mean_difference(x, torch.zeros(1, 4)).tolist() == [1, -2, 3, 3]
    assert clipped_mean_difference(-x, torch.zeros(1, 4), quantile=0.4).tolist() == [-1, 2, -2, -2]
    assert clipped_mean_difference(x, torch.zeros(1, 4), quantile=1.0).tolist() == x[0].tolist()
    with pytest.raises(BadInputError, match="quantile is 99"):
        clipped_mean_difference(x, x, quantile=99)


# In a model


@EACH_HOST
@pytest.mark.host
@EACH_FINDER
def test_found_in_a_model_as_long_as_the_distance_of_the_means(method: str, host: str) -> None:
    model: Any = tiny("llama", host)
    rows = random_rows([5] * 12, seed=5)
    names = ["resid_post", "z"]
    finding = dict(hook_names=names, quality=False, progress=False)
    found = sl.find_directions(model, sl.Contrast(rows[:6], rows[6:]), method, **finding)
    means = [sl.collect(model, s, names, progress=False) for s in (rows[:6], rows[6:])]
    for name, direction in found.items():
        gap = (means[0][name].mean - means[1][name].mean).float()
        along = float((gap * direction.unit().vector).sum())
        assert along > 0
        assert direction.norm == pytest.approx(along, rel=1e-3)
        assert direction.vector.shape == gap.shape
    with pytest.raises(UnknownNameError, match="'clipped_mean_difference'"):
        sl.find_directions(model, sl.Contrast(rows[:6], rows[6:]), "clipped_mean", **finding)
