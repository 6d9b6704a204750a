"""A text under way in a trace: what each pass left of it, worked out some passes at a time.

A decoded token costs one norm an intervention when it passes: the change itself is kept, and
its norms are taken for many passes at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import vector_norm

from steerlens.directions import Direction
from steerlens.interventions import Intervention, Strength, over_units
from steerlens.positions import Window

WAITING = 2**22
"""Numbers of changes that wait to be worked out."""


@dataclass
class Record:
    """What one intervention did in some columns."""

    start: int
    leaf: int
    values: Float[Tensor, "6 batch pos"]
    """Positions picked, coefficient, gate, norms of change and stream, change along."""
    by_head: Float[Tensor, "2 batch pos head"] | None
    """Norms of each head's change and activation."""

    @property
    def end(self) -> int:
        """The column after its last."""
        return self.start + self.values.shape[2]

    def until(self, column: int) -> Record:
        """Return what it holds of the columns before one."""
        kept = max(0, column - self.start)
        by_head = None if self.by_head is None else self.by_head[:, :, :kept]
        return replace(self, values=self.values[:, :, :kept], by_head=by_head)


class _Step(NamedTuple):
    """What one intervention did in one pass."""

    start: int
    picked: Bool[Tensor, "batch pos"]
    strength: Strength
    change: Float[Tensor, "batch pos *unit"]
    stream: Float[Tensor, "batch pos ..."]
    """The activation's norm, head by head where there are any."""

    @property
    def end(self) -> int:
        return self.start + self.picked.shape[1]


@dataclass
class Draft:
    """A batch of texts under way."""

    window: Window
    """The latest pass over it."""
    prompt_lengths: Int[Tensor, " batch"]
    records: list[Record] = field(default_factory=list)
    _steps: dict[int, list[_Step]] = field(default_factory=dict)
    _waiting: int = 0

    def branch(self, column: int) -> Draft:
        """Return another continuation of what was computed before a column."""
        assert not self._steps
        kept = [each.until(column) for each in self.records if each.start < column]
        return replace(self, records=kept, _steps={}, _waiting=0)

    def add(
        self,
        leaf: int,
        picked: Bool[Tensor, "batch pos"],
        strength: Strength,
        change: Float[Tensor, "batch pos *unit"],
        h: Float[Tensor, "batch pos *unit"],
    ) -> bool:
        """Keep what intervention number `leaf` did; return whether much waits by now."""
        if change.requires_grad or h.requires_grad:
            change, h = change.detach(), h.detach()
        step = _Step(self.window.start, picked, strength, change, vector_norm(h, dim=-1))
        self._steps.setdefault(leaf, []).append(step)
        self._waiting += change.numel()
        return self._waiting > WAITING

    def work_out(self, interventions: Sequence[Intervention]) -> None:
        """Make records of all that waits."""
        for leaf, steps in self._steps.items():
            unit = _unit(interventions[leaf], steps[0].change)
            self.records += (_record(leaf, run, unit) for run in _runs(steps))
        self._steps, self._waiting = {}, 0


def _runs(steps: Sequence[_Step]) -> Iterator[list[_Step]]:
    """Steps in runs of which each continues the one before."""
    run = [steps[0]]
    for step in steps[1:]:
        if step.start != run[-1].end or len(step.picked) != len(run[0].picked):
            yield run
            run = []
        run.append(step)
    yield run


def _record(leaf: int, run: Sequence[_Step], unit: Tensor | None) -> Record:
    """What an intervention did in passes that continue each other."""
    change, stream, picked = (
        torch.cat([getattr(step, name) for step in run], 1)
        for name in ("change", "stream", "picked")
    )
    gate, product = (
        torch.cat([getattr(step.strength, name) for step in run], 1) for name in ("gate", "product")
    )
    written = product != 0
    lengths = vector_norm(change, dim=-1)
    lengths = torch.where(over_units(written, change)[..., 0], lengths, 0)
    along = torch.full_like(gate, torch.nan)
    if unit is not None:
        along = torch.where(written, change.flatten(2) @ unit, 0)
    whole = (each if each.ndim == 2 else vector_norm(each, dim=-1) for each in (lengths, stream))
    columns = [picked, _coefficients(run), gate, *whole, along]
    values = torch.stack([column.detach().float() for column in columns])
    by_head = torch.stack([lengths, stream]) if change.ndim == 4 else None
    return Record(run[0].start, leaf, values, by_head)


def _coefficients(run: Sequence[_Step]) -> Float[Tensor, "batch pos"]:
    first = run[0].strength.coeff
    rows = len(run[0].picked)
    if all(step.strength.coeff is first for step in run) and first.shape[1] == 1:
        return first.expand(rows, run[-1].end - run[0].start)
    return torch.cat([step.strength.coeff.expand(step.picked.shape) for step in run], 1)


def _unit(leaf: Intervention, change: Tensor) -> Float[Tensor, " d"] | None:
    """The unit vector of an intervention's direction, over heads too; None without one."""
    transform = getattr(leaf.transform, "inner", leaf.transform)
    direction = getattr(transform, "along", None)
    if not isinstance(direction, Direction) or direction.vector.shape != change.shape[2:]:
        return None
    unit = direction.vector / max(direction.norm, 1e-30)
    return unit.to(change.device, change.dtype).flatten()
