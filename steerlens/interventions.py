"""The equation, h' = h + c * g * Δ(x), and expressions of it: together, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Selector
from steerlens.signals import Constant, Signal, fixed, product, within
from steerlens.transforms import Transform

OPEN = Constant(1.0)
"""The gate that lets everything through."""
Change = tuple[Float[Tensor, "batch pos *unit"], Bool[Tensor, "batch pos"]]
"""The change in float32, and where anything is written at all."""


@dataclass(frozen=True)
class Intervention:
    """One choice of where, how, when and how much: a transform at a hook point."""

    hook_name: str
    transform: Transform
    positions: Selector
    coeff: Signal
    gate: Signal = OPEN

    def __post_init__(self) -> None:
        """Raise BadInputError on a share outside 0 to 1."""
        share = product(self.coeff, self.gate)
        if self.transform.scales == "share" and not within(share, 0, 1):
            raise BadInputError(
                f"{self.transform!r} takes a share from 0 to 1 as coefficient times gate; "
                f"got {share!r}."
            )

    def __repr__(self) -> str:
        """Return the formula: `4 * add('joy') @ blocks.2.hook_resid_post[predicting]`."""
        gate = "" if self.gate == OPEN else f" * {self.gate!r}"
        return f"{self.coeff!r}{gate} * {self.transform!r} @ {self.hook_name}[{self.positions!r}]"


@dataclass(frozen=True)
class Group:
    """Expressions that act together (all read the same h) or in turn (each sees the last)."""

    parts: tuple[Expression, ...]
    in_turn: bool = False

    def __repr__(self) -> str:
        """Return the parts with `+` or `>>` between."""
        joint = " >> " if self.in_turn else " + "
        return joint.join(f"({p!r})" if isinstance(p, Group) else repr(p) for p in self.parts)


Expression = Intervention | Group


def leaves(expression: Expression) -> Iterator[Intervention]:
    """Yield the interventions of an expression, in reading order."""
    if isinstance(expression, Intervention):
        yield expression
    else:
        for part in expression.parts:
            yield from leaves(part)


def mapped(expression: Expression, change: Callable[[Intervention], Intervention]) -> Expression:
    """Return the expression with every intervention replaced."""
    if isinstance(expression, Intervention):
        return change(expression)
    return Group(tuple(mapped(part, change) for part in expression.parts), expression.in_turn)


def only_at(expression: Expression, hook_name: str) -> Expression | None:
    """Return the part of an expression that writes at one hook point, None if nothing does."""
    if isinstance(expression, Intervention):
        return expression if expression.hook_name == hook_name else None
    parts = (only_at(part, hook_name) for part in expression.parts)
    kept = tuple(part for part in parts if part is not None)
    return Group(kept, expression.in_turn) if kept else None


def strength(
    x: Float[Tensor, "batch pos *unit"], leaf: Intervention, mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Return c * g at the positions picked, 0 elsewhere."""
    values = _by_token(leaf.coeff, x) * _by_token(leaf.gate, x)
    shared = leaf.transform.scales == "share" and not fixed(product(leaf.coeff, leaf.gate))
    if shared and bool(((values < 0) | (values > 1)).any()):
        raise BadInputError(f"The share of {leaf!r} left the range 0 to 1.")
    return torch.where(mask, values, 0)


def _by_token(signal: Signal, x: Tensor) -> Float[Tensor, "#batch #pos"]:
    """A signal's values. Raises BadInputError where they are not one a token, a row or in all."""
    values = signal(x)
    rows, pos = x.shape[:2]
    fits = values.ndim == 2 and values.shape[0] in (1, rows) and values.shape[1] in (1, pos)
    if not fits:
        raise BadInputError(
            f"{signal!r} gave values of shape {tuple(values.shape)}. A signal gives "
            f"(batch, pos), (batch, 1) or (1, 1), here ({rows}, {pos}), ({rows}, 1) or (1, 1)."
        )
    return values


def scaled(
    x: Float[Tensor, "batch pos *unit"], values: Float[Tensor, "batch pos"], transform: Transform
) -> Float[Tensor, "batch pos *unit"]:
    """Return c * g * Δ(x), and 0 where c * g is 0 whatever Δ is."""
    values = values.reshape(*values.shape, *[1] * (x.ndim - 2))
    return torch.where(values != 0, values * transform(x), 0)


def change(
    expression: Expression,
    x: Float[Tensor, "batch pos *unit"],
    leaf_change: Callable[[Intervention, Tensor], Change],
) -> Change:
    """Return what an expression does to x: sums for together, running sums for in turn."""
    if isinstance(expression, Intervention):
        return leaf_change(expression, x)
    total = torch.zeros_like(x)
    touched = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    for part in expression.parts:
        more, here = change(part, x + total if expression.in_turn else x, leaf_change)
        total, touched = total + more, touched | here
    return total, touched


def applied(
    h: Float[Tensor, "batch pos *unit"], result: Change
) -> Float[Tensor, "batch pos *unit"]:
    """Return h + change, cast once to h's dtype; h bit for bit where nothing is written."""
    total, touched = result
    touched = touched.reshape(*touched.shape, *[1] * (h.ndim - 2))
    return torch.where(touched, h + total.to(h.dtype), h)
