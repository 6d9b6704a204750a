"""Direction and Directions: algebra, heads, look-ups, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from steerlens import Direction, Directions
from steerlens.errors import BadInputError, UnknownNameError

NAME = "blocks.1.hook_resid_post"
A = Direction(NAME, torch.tensor([3.0, 4.0]), name="a")
B = Direction(NAME, torch.tensor([1.0, 0.0]), name="b")
HEADS = Direction("blocks.1.attn.hook_z", torch.arange(6.0).reshape(3, 2) + 1, name="z")


def test_algebra() -> None:
    assert (A + B).vector.tolist() == [4, 4]
    assert (A - B).vector.tolist() == [2, 4]
    assert (2 * A).vector.tolist() == (A * 2).vector.tolist() == [6, 8]
    assert (A / 2).vector.tolist() == [1.5, 2]
    assert (-A).vector.tolist() == [-3, -4]
    assert A.norm == 5
    assert A.unit().vector.tolist() == pytest.approx([0.6, 0.8])
    assert A.cosine(B) == pytest.approx(0.6)
    assert A.cosine(-A) == pytest.approx(-1)
    assert (A + B).name == "a + b"
    names = [each.name for each in (2 * (A - B), A - (B + A), -(A + B), A - B + A, 2 * A)]
    assert names == ["2 * (a - b)", "a - (b + a)", "-(a + b)", "a - b + a", "2 * a"]
    assert A.vector.tolist() == [3, 4]


def test_vectors_are_float32() -> None:
    assert Direction(NAME, torch.ones(2).bfloat16()).vector.dtype == torch.float32
    assert Direction(NAME, torch.ones(2).double()).vector.dtype == torch.float32


def test_heads_and_neurons() -> None:
    assert HEADS.heads(2, 0).vector.tolist() == [[1, 2], [0, 0], [5, 6]]
    assert A.neurons(1).vector.tolist() == [0, 4]
    assert HEADS.vector[1].tolist() == [3, 4]
    assert A.at("blocks.0.hook_resid_pre").layer == 0


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Direction(NAME, torch.tensor([torch.nan, 1.0])), "'direction' is not finite"),
        (lambda: (A - A).unit(), "length 0 and no unit vector"),
        (lambda: A + B.at("blocks.2.hook_resid_post"), r"lives at.*Use \.at"),
        (lambda: A.cosine(Direction(NAME, torch.ones(3))), r"Shapes differ: 'a' is \(2,\)"),
        (lambda: HEADS.heads(3), r"heads 0 to 2; got \[3\]"),
        (lambda: HEADS.heads(), "heads 0 to 2"),
        (lambda: A.heads(0), "has no heads"),
        (lambda: HEADS.neurons(0), r"use heads\(\.\.\.\)"),
        (lambda: Directions({NAME: A}).best(), "held-out quality"),
    ],
)
def test_refusals(make: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        make()


def test_look_ups() -> None:
    found = Directions({NAME: A})
    assert found[NAME] is found["resid_post", 1] is A
    assert found.layers == (1,)
    assert list(found) == [NAME]
    with pytest.raises(
        UnknownNameError, match=r"no direction at 'blocks.2.hook_resid_post'. Nearest"
    ):
        _ = found["resid_post", 2]


def test_reprs() -> None:
    assert repr(A) == "Direction('a', blocks.1.hook_resid_post, d=2, |v|=5)"
    assert "d=3x2" in repr(HEADS)
    assert "= 50% of the stream" in repr(Direction(NAME, A.vector, stream_norm=10.0))
    assert repr(Directions({NAME: A})).startswith(
        "Directions(1 direction at resid_post)\n  Direction("
    )
    assert "<script" not in Direction(NAME, A.vector, name="<script>")._repr_html_()
