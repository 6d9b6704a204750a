"""Eraser: nothing linear is left to find, and nothing more is changed than that needs."""

from __future__ import annotations

import pytest
import torch
from cases import EACH_HOST
from hypothesis import given
from hypothesis import strategies as st
from models import random_rows, tiny
from torch import Tensor
from trials import trials

import steerlens as sl
from steerlens.directions import Eraser, leace, mean_difference
from steerlens.errors import BadInputError

LAW = trials(40)
shrinkages = st.sampled_from([None, 0.0, 0.2, 1.0])


@st.composite
def sides(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Unequal sides of correlated entries, with more or fewer examples than entries."""
    d, seed = draw(st.integers(2, 30)), draw(st.integers(0, 999))
    one, other = draw(st.integers(3, 40)), draw(st.integers(3, 40))
    generator = torch.Generator().manual_seed(seed)
    mix = torch.eye(d) + 0.5 * torch.randn(d, d, generator=generator)
    x = torch.randn(one + other, d, generator=generator) @ mix + 3
    shift = torch.randn(d, generator=generator)
    return x[:one] + shift, x[one:]


def cost(change: Tensor) -> float:
    return float(change.double().square().sum(1).mean())


@LAW
@given(sides(), shrinkages)
def test_the_means_become_equal_and_the_whole_mean_stays(
    case: tuple[Tensor, Tensor], shrinkage: float | None
) -> None:
    positive, negative = case
    eraser = Eraser.of(positive, negative, shrinkage)
    size = 1e-4 * float(mean_difference(positive, negative).norm()) + 1e-4
    erased = eraser(positive), eraser(negative)
    torch.testing.assert_close(erased[0].mean(0), erased[1].mean(0), atol=size, rtol=0)
    both = torch.cat(case).mean(0)
    torch.testing.assert_close(torch.cat(erased).mean(0), both, atol=size, rtol=0)


@LAW
@given(sides(), shrinkages)
def test_a_fresh_linear_probe_finds_nothing(
    case: tuple[Tensor, Tensor], shrinkage: float | None
) -> None:
    """Least squares on the erased sides predicts one number for everybody."""
    eraser = Eraser.of(*case, shrinkage)
    x = torch.cat([eraser(side) for side in case]).double()
    z = torch.cat([torch.ones(len(case[0])), -torch.ones(len(case[1]))]).double()
    x, z = x - x.mean(0), z - z.mean()
    weights = torch.linalg.pinv(x, rtol=1e-3) @ z
    erased = float((x @ weights).square().mean())
    assert erased < 1e-6
    untouched = torch.cat(case).double()
    untouched = untouched - untouched.mean(0)
    found = untouched @ (torch.linalg.pinv(untouched, rtol=1e-3) @ z)
    assert float(found.square().mean()) > 100 * erased


@LAW
@given(sides())
def test_erasing_twice_is_erasing_once(case: tuple[Tensor, Tensor]) -> None:
    eraser = Eraser.of(*case)
    once = eraser(case[0])
    torch.testing.assert_close(eraser(once), once, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(case[0] + eraser.delta(case[0]), once)


@LAW
@given(sides(), st.integers(0, 999))
def test_no_affine_map_that_equals_the_means_changes_less(
    case: tuple[Tensor, Tensor], seed: int
) -> None:
    """x -> Px + b with P v = 0 and b at its best: in the plain norm and in another one."""
    eraser = Eraser.of(*case, shrinkage=0.0)
    x = torch.cat(case).double()
    d = x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    v = mean_difference(*case).double()
    away = torch.eye(d).double() - torch.outer(v, v) / (v @ v)
    noise = torch.randn(d, d, generator=generator).double()
    norm = torch.randn(d, d, generator=generator).double()
    mine = eraser(x) - x
    for size in (0.0, 0.01, 0.3):
        p = (torch.eye(d) + size * noise) @ away
        theirs = (x - x.mean(0)) @ (p - torch.eye(d)).T
        assert cost(mine) <= cost(theirs) * (1 + 1e-4)
        assert cost(mine @ norm) <= cost(theirs @ norm) * (1 + 1e-4)


@LAW
@given(sides(), st.integers(0, 999))
def test_near_the_optimum_every_other_covector_costs_more(
    case: tuple[Tensor, Tensor], seed: int
) -> None:
    eraser = Eraser.of(*case, shrinkage=0.0)
    x = torch.cat(case).double()
    v, w = eraser.direction.double(), eraser.covector.double()
    noise = torch.randn(len(v), generator=torch.Generator().manual_seed(seed)).double()
    other = w + 0.1 * w.norm() * (noise - v * (noise @ v) / (v @ v))
    other = other / (other @ v)
    amounts = [(x - x.mean(0)) @ each for each in (w, other)]
    assert amounts[0].square().mean() <= amounts[1].square().mean() * (1 + 1e-4)


def test_it_is_the_papers_projection() -> None:
    """P = I - W⁺ u uᵀ W with W = Σ_xx^(-1/2) and u along W Σ_xz."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 6, generator=generator).double() @ torch.randn(6, 6).double()
    x[:30] += 2
    z = torch.tensor([1.0] * 30 + [0.0] * 50).double()
    centred = x - x.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred / 80)
    whiten, unwhiten = ((axes * values**power) @ axes.T for power in (-0.5, 0.5))
    u = whiten @ (centred.T @ (z - z.mean()) / 80)
    u = u / u.norm()
    projection = torch.eye(6).double() - unwhiten @ torch.outer(u, u) @ whiten
    wanted = centred @ projection.T + x.mean(0)
    torch.testing.assert_close(Eraser.of(x[:30], x[30:], 0.0)(x), wanted, atol=1e-4, rtol=1e-4)


def test_shrinking_spares_examples_not_seen() -> None:
    """Fitted on 60 examples of 120 entries, the shrunk eraser changes others less."""
    changes, gaps = [], []
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        mix = torch.randn(120, 120, generator=generator) / 11
        shift = torch.randn(120, generator=generator) / 3
        x = torch.randn(1060, 120, generator=generator) @ mix
        positive, negative = x[::2] + shift, x[1::2]
        shrunk, exact = (Eraser.of(positive[:30], negative[:30], s) for s in (None, 0.0))
        held = positive[30:], negative[30:]
        changes.append([cost(each.delta(torch.cat(held))) for each in (shrunk, exact)])
        gaps.append([float(mean_difference(*map(each, held)).norm()) for each in (shrunk, exact)])
    assert all(less < more for less, more in changes)
    change, gap = torch.tensor(changes).mean(0), torch.tensor(gaps).mean(0)
    assert change[0] < 0.85 * change[1]
    assert gap[0] < 1.01 * gap[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_law_4_dtype_and_heads(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 20, 3, 4, generator=generator)
    eraser = Eraser.of(positive + 1, negative)
    x = torch.randn(2, 5, 3, 4, generator=generator).to(dtype)
    assert eraser(x).dtype == eraser.delta(x).dtype == dtype
    assert eraser(x).shape == x.shape
    flat = Eraser.of((positive + 1).flatten(1), negative.flatten(1))
    torch.testing.assert_close(flat(x.flatten(2)).reshape(x.shape), eraser(x))


def test_refusals() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(BadInputError, match="equal means"):
        Eraser.of(x, x)
    with pytest.raises(BadInputError, match=r"fitted on \(3,\); got \(4,\)"):
        Eraser.of(x + 1, x)(torch.zeros(4))
    assert leace(x + 1, x).tolist() == mean_difference(x + 1, x).tolist()


@EACH_HOST
@pytest.mark.host
def test_steering_with_it_equals_the_means_in_a_model(host: str) -> None:
    model = tiny("llama", host)
    rows = random_rows([5] * 12, seed=5)
    name = "blocks.1.hook_resid_post"
    read = [sl.collect(model, s, name, progress=False).examples[name] for s in (rows[:6], rows[6:])]
    eraser = Eraser.of(*read)
    erasing = sl.steer(sl.transforms.Function(eraser.delta), name)
    with erasing.on(model):
        after = [
            sl.collect(model, s, name, progress=False)[name].mean for s in (rows[:6], rows[6:])
        ]
    torch.testing.assert_close(after[0], after[1], atol=1e-4, rtol=1e-4)
