"""The equation, h' = h + c * g * Δ(x), and expressions of it: together, or one after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.positions import Selector
from steerlens.provenance import provenances
from steerlens.signals import (
    Constant,
    Moment,
    OfStream,
    Signal,
    fixed,
    foreign,
    holds,
    hook_points,
    product,
    within,
)
from steerlens.transforms import Add, KeepNorm, Transform
from steerlens.transforms import Function as Opaque

OPEN = Constant(1.0)
"""The gate that lets everything through."""
Change = tuple[Float[Tensor, "batch pos *unit"], Bool[Tensor, "batch pos ..."]]
"""The change in float32, and where anything is written at all: elsewhere it is not read."""


@dataclass(frozen=True)
class Intervention:
    """One choice of where, how, when and how much: a transform at a hook point.

    >>> [one] = steering.interventions
    >>> one
    4 * add('direction') @ blocks.2.hook_resid_post[predicting]
    """

    hook_name: str
    transform: Transform
    positions: Selector
    coeff: Signal
    gate: Signal = OPEN
    reads: str | None = None
    """The hook point whose activation is x, where it is not the one written."""
    provenance: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """What a method says of how it made it; see `provenance.made_by`."""

    def __post_init__(self) -> None:
        """Raise BadInputError on a share outside 0 to 1, and on parts that do not go together."""
        if holds(self.coeff, OfStream):
            object.__setattr__(self, "transform", _at_length_one(self.transform))
        if self.reads is not None and isinstance(self.transform, KeepNorm):
            raise BadInputError(
                f"{self.transform!r} keeps the norm of what it writes, and cannot read "
                f"{self.reads!r} instead. Leave reads out."
            )
        share = product(self.coeff, self.gate)
        if self.transform.scales == "share" and not within(share, 0, 1):
            raise BadInputError(
                f"{self.transform!r} takes a share from 0 to 1 as coefficient times gate; "
                f"got {share!r}."
            )

    @cached_property
    def steady(self) -> bool:
        """Whether its strength is known before any pass."""
        return fixed(self.coeff) and fixed(self.gate)

    @cached_property
    def sources(self) -> tuple[Mapping[str, str], ...]:
        """What it and its parts say that they were made on, each model's name once."""
        return tuple({each.get("model", ""): each for each in provenances(self)}.values())

    @cached_property
    def limits(self) -> tuple[float, float] | None:
        """Between what its strength has to be looked after while it runs; None where it is sure."""
        if self.steady:
            return None
        if self.transform.scales == "share":
            return 0, 1
        any_number = foreign(self.coeff) or foreign(self.gate)
        return (-math.inf, math.inf) if any_number else None

    def __repr__(self) -> str:
        """Return the formula: `4 * add('joy') @ blocks.2.hook_resid_post[predicting]`."""
        gate = "" if self.gate == OPEN else f" * {self.gate!r}"
        reads = f", reads {self.reads}" if self.reads else ""
        place = f"{self.hook_name}[{self.positions!r}]{reads}"
        return f"{self.coeff!r}{gate} * {self.transform!r} @ {place}"


MOST_SHOWN = 4
"""Parts of a sum that its repr writes out."""


@dataclass(frozen=True)
class Group:
    """Expressions that act together (all read the same h) or in turn (each sees the last)."""

    parts: tuple[Expression, ...]
    in_turn: bool = False

    def __post_init__(self) -> None:
        """Raise BadInputError without parts: what changes nothing is no steering."""
        if not self.parts:
            raise BadInputError("A sum of steerings has one part or more; got none.")

    def __repr__(self) -> str:
        """Return the parts with `+` or `>>` between; of more than four, the first three."""
        shown = self.parts if len(self.parts) <= MOST_SHOWN else self.parts[: MOST_SHOWN - 1]
        parts = [f"({p!r})" if isinstance(p, Group) else repr(p) for p in shown]
        parts += [f"{len(self.parts) - len(shown)} more"] if len(shown) < len(self.parts) else []
        return (" >> " if self.in_turn else " + ").join(parts)


Expression = Intervention | Group


def _at_length_one(transform: Transform) -> Transform:
    """What a share of the stream multiplies: an added direction at length 1."""
    if isinstance(transform, KeepNorm):
        return replace(transform, inner=_at_length_one(transform.inner))
    if not isinstance(transform, Add):
        raise BadInputError(
            f"of_stream(...) says how long an added direction is; {transform!r} takes a number."
        )
    return transform.at_length_one()


def leaves(expression: Expression) -> Iterator[Intervention]:
    """Yield the interventions of an expression, in reading order."""
    if isinstance(expression, Intervention):
        yield expression
    else:
        for part in expression.parts:
            yield from leaves(part)


def read_elsewhere(expression: Expression) -> Iterator[str]:
    """Yield the hook points that an expression reads besides those it writes."""
    for leaf in leaves(expression):
        if leaf.reads is not None:
            yield leaf.reads
        for each in (leaf.coeff, leaf.gate):
            yield from hook_points(each)


def mapped(expression: Expression, change: Callable[[Intervention], Intervention]) -> Expression:
    """Return the expression with every intervention replaced."""
    if isinstance(expression, Intervention):
        return change(expression)
    return Group(tuple(mapped(part, change) for part in expression.parts), expression.in_turn)


def only(expression: Expression, wanted: Callable[[Intervention], bool]) -> Expression | None:
    """Return the part of an expression whose interventions are wanted, None if none is.

    A group of which one part is left is that part.
    """
    if isinstance(expression, Intervention):
        return expression if wanted(expression) else None
    parts = (only(part, wanted) for part in expression.parts)
    kept = tuple(part for part in parts if part is not None)
    if len(kept) < 2:
        return kept[0] if kept else None
    return Group(kept, expression.in_turn)


class Strength(NamedTuple):
    """How strongly an intervention acts in one pass: coefficient and gate, token by token."""

    coeff: Float[Tensor, "#batch #pos"]
    gate: Float[Tensor, "batch pos"]
    """0 where the positions pick nothing."""
    product: Float[Tensor, "batch pos"]
    """Coefficient times gate; 0 where either is, whatever the other."""


def strength(moment: Moment, leaf: Intervention, mask: Bool[Tensor, "batch pos"]) -> Strength:
    """Return c and g of an intervention; g is 0 outside of the positions picked.

    Raises BadInputError where a share leaves its range.
    """
    coeff = _by_token(leaf.coeff, moment)
    gate = _by_token(leaf.gate, moment)
    if moment.window is None or not moment.window.picks_all(mask):
        gate = torch.where(mask, gate, moment.memory.number(0.0, gate))
    elif gate.shape != mask.shape:
        gate = gate.expand(mask.shape)
    times = _times(leaf.coeff, coeff, gate)
    if leaf.limits is not None:
        _check(times, *leaf.limits, leaf)
    return Strength(coeff, gate, times)


def _times(
    signal: Signal, coeff: Float[Tensor, "#batch #pos"], gate: Float[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Coefficient times gate, and 0 where either is 0: infinity times 0 is not a number."""
    if isinstance(signal, Constant) and _SMALLEST < abs(signal.value) < 1 / _SMALLEST:
        return gate if signal.value == 1 else gate * coeff
    return torch.where((gate == 0) | (coeff == 0), 0, coeff * gate)


_SMALLEST = 1e-30
"""Numbers beyond this, and its inverse, may turn to 0 or infinity in float32."""


def _check(values: Float[Tensor, "batch pos"], low: float, high: float, leaf: Intervention) -> None:
    """Raise BadInputError on a strength that is not a number or out of its range."""
    wrong = values[~((values >= low) & (values <= high) & values.isfinite())]
    if len(wrong):
        wanted = "a finite number" if low < 0 else "a share, from 0 to 1: bound its gate"
        raise BadInputError(
            f"Coefficient times gate of {leaf!r} gave {float(wrong[0]):.3g} at a token; it must be "
            f"{wanted}."
        )


def _by_token(signal: Signal, moment: Moment) -> Float[Tensor, "#batch #pos"]:
    """A signal's values. Raises BadInputError where they are not one a token, a row or in all."""
    values = signal(moment)
    if values.shape in ((1, 1), moment.x.shape[:2]):
        return values
    rows, pos = moment.x.shape[:2]
    fits = values.ndim == 2 and values.shape[0] in (1, rows) and values.shape[1] in (1, pos)
    if not fits:
        raise BadInputError(
            f"{signal!r} gave values of shape {tuple(values.shape)}. A signal gives "
            f"(batch, pos), (batch, 1) or (1, 1), here ({rows}, {pos}), ({rows}, 1) or (1, 1): one "
            "number a token, the last dimension summed out."
        )
    return values


def scaled(moment: Moment, values: Float[Tensor, "batch pos"], transform: Transform) -> Change:
    """Return the transform's change at strength c * g, and where c * g is not 0."""
    h = moment.written
    values = over_units(values, h)
    written = values.bool()
    change = transform.change(moment.x, values, moment.window)
    if change.shape != h.shape:
        try:
            change = change.expand_as(h)
        except RuntimeError:
            raise BadInputError(
                f"{transform!r} gave a change of shape {tuple(change.shape)}, which does not fit "
                f"the activation {tuple(h.shape)} that it writes."
            ) from None
    if isinstance(transform, Opaque) and not bool((change.isfinite() | ~written).all()):
        raise BadInputError(f"{transform!r} gave values that are not finite, at steered tokens.")
    return change, written


def over_units(values: Tensor, h: Float[Tensor, "batch pos *unit"]) -> Tensor:
    """Return one value a token, (batch, pos), shaped to broadcast against an activation."""
    return (
        values.reshape(*values.shape, *[1] * (h.ndim - 2)) if h.ndim > 3 else values.unsqueeze(-1)
    )


def change(
    expression: Expression,
    x: Float[Tensor, "batch pos *unit"],
    leaf_change: Callable[[Intervention, Tensor], Change],
) -> Change:
    """Return what an expression does to x: sums for together, running sums for in turn."""
    if isinstance(expression, Intervention):
        return leaf_change(expression, x)
    total, touched = _alone(change(expression.parts[0], x, leaf_change))
    for part in expression.parts[1:]:
        more, here = _alone(change(part, x + total if expression.in_turn else x, leaf_change))
        total, touched = total + more, touched | here
    return total, touched


def _alone(result: Change) -> Change:
    """A change that is 0 where nothing is written, so that it may be added to others."""
    more, here = result
    return torch.where(here, more, 0), here


def applied(
    h: Float[Tensor, "batch pos *unit"], result: Change
) -> Float[Tensor, "batch pos *unit"]:
    """Return h + change, cast once to h's dtype; h bit for bit where nothing is written."""
    total, touched = result
    return torch.where(touched, h + total.to(h.dtype), h)
