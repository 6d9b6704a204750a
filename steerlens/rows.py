"""A steering with values a row, at some of its rows; and steerings that are rows of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.interventions import Intervention, mapped
from steerlens.signals import Combining, Rows
from steerlens.steering import Steering
from steerlens.transforms import Transform
from steerlens.transforms.exchange import Stored

T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Family:
    """Steerings that differ in their numbers alone: one steering with values a row, a row each.

    What scores items runs all members as rows of one pass (law 11): give it a family in place of
    a steering, and a coefficient for each member.

    >>> family = Family(sl.add(directions["resid_post", 2], coeff=[0.0, 1.0, 4.0]), 3)
    >>> family.over(2).interventions[0].coeff.values
    tensor([0., 0., 1., 1., 4., 4.])
    """

    steering: Steering
    size: int

    def over(self, rows: int) -> Steering:
        """Return the steering of a batch that is repeated for every member in turn.

        Raises BadInputError where values are not one a member.
        """
        return at_rows(
            self.steering, [m for m in range(self.size) for _ in range(rows)], 1, self.size
        )

    def __repr__(self) -> str:
        """Return the size and the steering."""
        return f"Family({self.size} times {self.steering!r})"


def check_coeffs(coeffs: Any) -> None:
    """Raise BadInputError on anything but coefficients in a list, an array or a tensor.

    >>> check_coeffs([1.0, 2.0])
    """
    one = not hasattr(coeffs, "__len__") or getattr(coeffs, "ndim", 1) == 0
    if one or len(coeffs) == 0:
        raise BadInputError(f"Coefficients are a list of one or more; got {coeffs!r}.")


def at_rows(steering: Steering, rows: Sequence[int], times: int, total: int) -> Steering:
    """Return the steering of some of the rows it was made for, `times` over.

    `total` is how many rows it was made for. Raises BadInputError where it holds another number.
    """
    index = torch.tensor(rows).repeat(times)

    def taken(leaf: Intervention) -> Intervention:
        return replace(
            leaf,
            coeff=_taken(leaf.coeff, index, total),
            gate=_taken(leaf.gate, index, total),
            transform=_taken(leaf.transform, index, total),
        )

    return Steering(mapped(steering.expression, taken))


def _taken(value: T, index: Int[Tensor, " row"], total: int) -> T:
    """A signal or transform with its values a row taken at an index, wherever they are within."""
    if isinstance(value, Rows):
        return _indexed(value, "values", index, total)
    if isinstance(value, Stored) and len(value.reference) > 1:
        return _indexed(value, "reference", index, total)
    if not is_dataclass(value):
        return value
    parts = ((each.name, getattr(value, each.name)) for each in fields(value) if each.init)
    inner = {name: part for name, part in parts if isinstance(part, Combining | Transform)}
    changed = {name: _taken(part, index, total) for name, part in inner.items()}
    if all(changed[name] is inner[name] for name in inner):
        return value
    return cast(T, replace(cast(Any, value), **changed))


def _indexed(value: T, attribute: str, index: Int[Tensor, " row"], total: int) -> T:
    stored: Tensor = getattr(value, attribute)
    if len(stored) != total:
        raise BadInputError(
            f"{value!r} holds values for {len(stored)} rows and meets {total} prompts. Give the "
            "prompts that it was made for."
        )
    return cast(T, replace(cast(Any, value), **{attribute: stored[index.to(stored.device)]}))
