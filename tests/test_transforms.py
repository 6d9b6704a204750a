"""Transforms: Δ in closed form, head by head, in the dtype it is computed in."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlens import Direction
from steerlens.errors import BadInputError
from steerlens.transforms import Ablate, Add, moved

NAME = "blocks.0.hook_resid_post"


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_law_3_ablating(seed: int, length: float) -> None:
    """No component is left, what is orthogonal stays, twice is once, at any length."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(6, generator=generator).double()
    x = torch.randn(2, 3, 6, generator=generator).double()
    ablate = moved(Ablate(Direction(NAME, length * vector)), x.device, x.dtype)
    once = x + ablate(x)
    unit = (vector / vector.norm()).float().double()
    assert (once @ unit).abs().max() < 1e-6
    torch.testing.assert_close(once + ablate(once), once, atol=1e-6, rtol=0)
    orthogonal = x - (x @ unit)[..., None] * unit / (unit @ unit)
    torch.testing.assert_close(once, orthogonal, atol=1e-5, rtol=0)


def test_heads_are_ablated_each_by_itself() -> None:
    vector = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, -2.0]])
    x = torch.arange(6.0).reshape(1, 1, 3, 2) + 1
    after = x + Ablate(Direction("blocks.0.attn.hook_z", vector))(x)
    assert after.tolist() == [[[[0, 2], [3, 4], [5, 0]]]]


def test_add_is_the_vector_as_it_is() -> None:
    direction = Direction(NAME, torch.tensor([3.0, 4.0]))
    wide = moved(Add(direction), torch.device("cpu"), torch.float64)
    assert wide(torch.zeros(1, 1, 2)).dtype == torch.float64
    assert Add(direction)(torch.ones(1, 1, 2)).tolist() == [3, 4]
    assert Add(direction).unit_shape == Ablate(direction).unit_shape == (2,)


def test_a_zero_vector_has_nothing_to_ablate() -> None:
    with pytest.raises(BadInputError, match="length 0: there is no direction to steer along"):
        Ablate(Direction(NAME, torch.zeros(2)))
