"""Signals: numbers, rows, functions; products fold where both are fixed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.signals import Constant, Moment, Product, Rows, fixed, product, signal, within

X = Moment(torch.zeros(2, 3, 4))


def read(x: Tensor) -> Tensor:
    return x.sum(-1) + 2


def test_values() -> None:
    assert signal(3)(X).tolist() == [[3]]
    assert signal([1.0, -1.0])(X).tolist() == [[1], [-1]]
    assert signal(torch.tensor(2))(X).tolist() == [[2]]
    assert signal(torch.tensor([1, 2]))(X).tolist() == [[1], [2]]
    assert signal(read)(X).shape == (2, 3)
    assert signal(0.5)(Moment(X.x.double())).dtype == torch.float64


def test_products_fold() -> None:
    three, rows = signal(3), signal([1.0, 2.0])
    assert product(signal(1), rows) is rows
    assert product(rows, signal(1)) is rows
    assert product(three, three) == Constant(9.0)
    assert isinstance(product(rows, three), Rows)
    assert product(rows, three)(X).tolist() == [[3], [6]]
    assert product(rows, rows)(X).tolist() == [[1], [4]]
    assert isinstance(product(signal(read), three), Product)
    assert product(signal(read), rows)(X).tolist() == [[2] * 3, [4] * 3]
    assert [fixed(each) for each in (three, rows, signal(read))] == [True, True, False]


def test_ranges() -> None:
    assert within(signal(1), 0, 1)
    assert not within(signal(1.1), 0, 1)
    assert not within(signal([0.5, -0.1]), 0, 1)
    assert within(signal(read), 0, 1), "only a run can tell"


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], torch.ones(2, 2)])
def test_not_finite_or_not_one_a_row(value: object) -> None:
    with pytest.raises(BadInputError, match="finite number"):
        signal(value)  # type: ignore[arg-type]


def test_rows_of_another_batch() -> None:
    with pytest.raises(BadInputError, match="3 values, one a row, meet a batch of 2 rows"):
        signal([1.0, 2.0, 3.0])(X)


def test_reprs() -> None:
    assert repr(signal(0.12345)) == "0.123"
    assert repr(signal([1.0] * 9)) == "rows(9 values)"
    assert repr(product(signal([1.0, 2.0]), signal([1.0, 2.0]))) == "rows(1, 2) * rows(1, 2)"
