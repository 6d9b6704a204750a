"""When and how much: gates and coefficients are one type, a signal.

A signal gives a number a token: a constant, one value a row, or a function of what is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import number
from steerlens.errors import BadInputError


@runtime_checkable
class Signal(Protocol):
    """Maps activations (batch, pos, *unit) to values that broadcast to (batch, pos)."""

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "#batch #pos"]:
        """Return the signal's values, in float32 or wider."""


Value = int | float | Sequence[float] | Tensor | Signal


@dataclass(frozen=True)
class Constant:
    """The same number everywhere."""

    value: float

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "1 1"]:
        """Return the number."""
        return torch.full((1, 1), self.value, device=x.device, dtype=x.dtype)

    def __repr__(self) -> str:
        """Return the number."""
        return number(self.value)


@dataclass(frozen=True, eq=False)
class Rows:
    """One number a row of the batch."""

    values: Float[Tensor, " batch"]

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch 1"]:
        """Return each row's number. Raises BadInputError on a batch of another size."""
        if len(self.values) != len(x):
            raise BadInputError(
                f"{len(self.values)} values, one a row, meet a batch of {len(x)} rows."
            )
        return self.values.to(x.device, x.dtype)[:, None]

    def __repr__(self) -> str:
        """Return the numbers, or how many they are."""
        if len(self.values) > 4:
            return f"rows({len(self.values)} values)"
        return f"rows({', '.join(number(float(value)) for value in self.values)})"


@dataclass(frozen=True)
class Product:
    """Two signals multiplied."""

    first: Signal
    second: Signal

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "#batch #pos"]:
        """Return the product."""
        return self.first(x) * self.second(x)

    def __repr__(self) -> str:
        """Return both factors."""
        return f"{self.first!r} * {self.second!r}"


def signal(value: Value) -> Signal:
    """Return the signal that a number, values a row, or a function stands for.

    >>> signal(4), signal([1.0, -1.0])
    (4, rows(1, -1))
    """
    if isinstance(value, int | float):
        return _constant(float(value))
    if callable(value) and not isinstance(value, Tensor):
        return value
    values = torch.as_tensor(value, dtype=torch.float32)
    if values.ndim == 0:
        return _constant(float(values))
    if values.ndim != 1 or not torch.isfinite(values).all():
        raise BadInputError(
            f"Values a row are a list of finite numbers; got shape {tuple(values.shape)}."
        )
    return Rows(values)


def _constant(value: float) -> Constant:
    if not isfinite(value):
        raise BadInputError(f"A coefficient or gate is a finite number; got {value}.")
    return Constant(value)


def product(first: Signal, second: Signal) -> Signal:
    """Return the product of two signals, folded where both are fixed."""
    if isinstance(second, Constant) and not isinstance(first, Constant):
        first, second = second, first
    if isinstance(first, Constant):
        if first.value == 1:
            return second
        if isinstance(second, Constant):
            return Constant(first.value * second.value)
        if isinstance(second, Rows):
            return Rows(first.value * second.values)
    return Product(first, second)


def fixed(signal: Signal) -> bool:
    """Return whether a signal is known before any pass: a constant, or values a row."""
    return isinstance(signal, Constant | Rows)


def within(signal: Signal, low: float, high: float) -> bool:
    """Return whether a fixed signal stays in a range; True where only a run can tell."""
    if isinstance(signal, Constant):
        return low <= signal.value <= high
    if isinstance(signal, Rows):
        return bool(((signal.values >= low) & (signal.values <= high)).all())
    return True
