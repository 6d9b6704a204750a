"""Held-out quality: honest on noise, sure of a planted direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steerlens.directions import FINDERS
from steerlens.directions.quality import Finder, measure, oriented


def sides(seed: int, shift: float = 0.0, n: int = 30, d: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    planted = torch.randn(d, generator=generator)
    planted /= planted.norm()
    x = torch.randn(2 * n, d, generator=generator)
    return x[:n] + shift * planted, x[n:], planted


@pytest.mark.parametrize("paired", [True, False])
def test_noise_lies_inside_the_shuffled_band(paired: bool) -> None:
    """A permutation test at 95% lets about one in twenty out."""
    out, above = 0, 0
    for seed in range(60):
        positive, negative, _ = sides(seed)
        quality = measure(
            FINDERS["mean_difference"], positive, negative, paired=paired, placebos=40, seed=seed
        )
        assert quality is not None
        low, high = quality.shuffled_band
        out += not low <= quality.auc <= high
        above += quality.beyond_placebo
    assert out <= 9
    assert above <= 7


@pytest.mark.parametrize("method", list(FINDERS))
def test_a_planted_direction_is_found(method: str) -> None:
    positive, negative, planted = sides(0, shift=4.0, n=40, d=40)
    vector = oriented(FINDERS[method], positive, negative)
    assert torch.cosine_similarity(vector, planted, dim=0) > 0.8
    quality = measure(FINDERS[method], positive, negative, paired=True, placebos=20, seed=0)
    assert quality is not None
    assert quality.auc > 0.97
    assert quality.rank == 1
    assert quality.beyond_placebo
    assert quality.split_half_cosine > 0.5
    assert quality.auc_interval[0] > 0.9
    assert quality.effect_size > 2


@pytest.mark.parametrize("method", list(FINDERS))
def test_law_10_sides_swapped_turn_the_vector(method: str) -> None:
    positive, negative, _ = sides(1, shift=2.0)
    one = oriented(FINDERS[method], positive, negative)
    other = oriented(FINDERS[method], negative, positive)
    torch.testing.assert_close(one, -other, atol=1e-3, rtol=1e-3)


def test_held_out_means_held_out() -> None:
    """More dimensions than items: a direction scored on its own items would come near 1."""
    values = []
    for seed in range(10):
        positive, negative, _ = sides(seed, n=12, d=200)
        quality = measure(
            FINDERS["mean_difference"], positive, negative, paired=False, placebos=5, seed=seed
        )
        assert quality is not None
        values.append(quality.auc)
    assert sum(values) / 10 < 0.65


def test_too_few_items_have_no_quality() -> None:
    positive, negative, _ = sides(0, n=3)
    finder: Finder = FINDERS["mean_difference"]
    assert measure(finder, positive, negative, paired=True, placebos=5, seed=0) is None
