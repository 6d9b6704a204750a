"""Steering as a value: formulas, ranges, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.rows import at_rows
from steerlens.transforms import KeepNorm, Shift

A = sl.Direction("blocks.1.hook_resid_post", torch.tensor([3.0, 4.0]), name="a")
B = sl.Direction("blocks.2.hook_resid_post", torch.tensor([1.0, 0.0]), name="b")


@pytest.mark.parametrize(
    ("steering", "formula"),
    [
        (sl.add(A, 4, positions=-2), "4 * add('a') @ blocks.1.hook_resid_post[index(-2)]"),
        (
            2 * sl.add(A, [1.0, -1.0]),
            "rows(2, -2) * add('a') @ blocks.1.hook_resid_post[everywhere]",
        ),
        (
            sl.add(A) + sl.ablate(B) + sl.add(B),
            "1 * add('a') @ blocks.1.hook_resid_post[everywhere] + "
            "1 * ablate('b') @ blocks.2.hook_resid_post[everywhere] + "
            "1 * add('b') @ blocks.2.hook_resid_post[everywhere]",
        ),
        (
            -(sl.add(A) + sl.add(B)) >> sl.ablate(B).when(0.5),
            "(-1 * add('a') @ blocks.1.hook_resid_post[everywhere] + "
            "-1 * add('b') @ blocks.2.hook_resid_post[everywhere]) >> "
            "1 * 0.5 * ablate('b') @ blocks.2.hook_resid_post[everywhere]",
        ),
    ],
)
def test_formulas(steering: sl.Steering, formula: str) -> None:
    assert repr(steering) == f"Steering({formula})"
    assert "add(" in steering._repr_html_()


def test_interventions_and_where() -> None:
    steering = sl.add([B, A]) >> sl.ablate(B)
    assert [leaf.hook_name[7] for leaf in steering.interventions] == ["2", "1", "2"]
    found = sl.Directions({A.hook_name: A, B.hook_name: B})
    assert [leaf.hook_name for leaf in sl.add(found).interventions] == [A.hook_name, B.hook_name]
    moved = steering.where("prompt")
    assert {repr(leaf.positions) for leaf in moved.interventions} == {"prompt"}
    assert {repr(leaf.positions) for leaf in steering.interventions} == {"everywhere"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: sl.ablate(A, 1.5),
        lambda: sl.ablate(A, [0.5, -0.1]),
        lambda: 2 * sl.ablate(A),
        lambda: -sl.ablate(A),
    ],
)
def test_a_share_is_between_0_and_1(make: Any) -> None:
    with pytest.raises(BadInputError, match=r"ablate\('a'\) takes a share from 0 to 1.*got"):
        make()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: sl.add([]), BadInputError, r"or, to ablate, a Basis; got \[\]\."),
        (lambda: sl.add(A, positions="promt"), UnknownNameError, "Nearest: 'prompt'"),
        (lambda: sl.add(A, coeff=float("nan")), BadInputError, "finite number; got nan"),
        (lambda: sl.add(A).when(float("inf")), BadInputError, "finite number; got inf"),
    ],
)
def test_refusals(make: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_a_share_that_leaves_its_range_at_work() -> None:
    from models import random_rows, tiny

    direction = sl.Direction("blocks.1.hook_resid_post", torch.ones(32))
    steering = sl.ablate(direction, gate=lambda x: x.sum(-1).abs() + 2)
    with pytest.raises(BadInputError, match="a share, from 0 to 1: bound its gate"):
        with steering.on(tiny("llama", "bridge")) as model:
            model(random_rows([4])[0][None])


@dataclass(frozen=True)
class Half:
    """A user's own wrapper, no `Linear`."""

    inner: Shift
    scales: ClassVar[str] = "amplitude"
    hook_name: ClassVar[str] = A.hook_name
    unit_shape: ClassVar[tuple[int, ...]] = (2,)

    def change(self, x: Tensor, strength: Tensor, window: Any = None) -> Tensor:
        return self.inner.change(x, strength / 2, window)


def test_law_11_values_a_row_are_taken_within_any_wrapper() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    for made in (Shift(rows), Half(Shift(rows)), KeepNorm(KeepNorm(Half(Shift(rows))))):
        some = at_rows(sl.steer(made, A.hook_name), [2, 0], 1, 3).interventions[0].transform
        x, strength = torch.ones(3, 1, 2), torch.tensor(1.0)
        assert torch.equal(some.change(x[:2], strength), made.change(x, strength)[[2, 0]])
