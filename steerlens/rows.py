"""A steering with values a row, at some of the rows that it was made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.interventions import Intervention, mapped
from steerlens.signals import Combining, Rows
from steerlens.steering import Steering
from steerlens.transforms.exchange import Stored
from steerlens.transforms.transform import Linear

T = TypeVar("T")


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
    inner = {name: part for name, part in parts if isinstance(part, Combining | Linear)}
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
