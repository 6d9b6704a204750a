"""A steering and texts as plain data, run by SteerLens and, apart from it, by hand.

The oracle of a case works on one row alone, in one uncached pass, and knows nothing of clocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import making
import oracle
import torch
from models import cached_forward, forward, padded
from torch import Tensor

import steerlens as sl
from steerlens.names import hook_name


@dataclass(frozen=True)
class Leaf:
    """One intervention, as plain data."""

    kind: str
    site: str
    layer: int
    where: tuple[Any, ...]
    coeff: tuple[float, ...]
    """One a row, or one for all."""
    gate: float | str
    number: int
    rows: tuple[int, ...] = (0,)
    """Numbers of the rows it is for."""
    stream: bool = False
    """Whether the coefficient is a share of the stream."""

    @property
    def hook(self) -> str:
        return hook_name(self.site, self.layer)

    @property
    def reads(self) -> str | None:
        return making.resid_pre(self) if self.kind == "reads" else None

    def direction(self, architecture: str) -> sl.Direction:
        return sl.Direction(self.hook, making.vector(self, architecture))

    def selector(self) -> Any:
        return making.selector(self.where)

    def steering(self, architecture: str) -> sl.Steering:
        return making.steering(self, architecture)

    def row(self, i: int) -> Leaf:
        coeff = self.coeff if len(self.coeff) == 1 else (self.coeff[i],)
        return replace(self, coeff=coeff, rows=(self.rows[i],))


@dataclass(frozen=True)
class Case:
    architecture: str
    rows: tuple[tuple[int, ...], ...]
    prompt_lengths: tuple[int, ...]
    side: str
    cuts: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    joints: tuple[str, ...]

    @property
    def tensors(self) -> list[Tensor]:
        return [torch.tensor(row) for row in self.rows]

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        return padded(self.tensors, self.side)

    @property
    def sizes(self) -> list[int]:
        """Chunks that the batch passes in under a cache; a prompt held as one comes whole."""
        width = max(map(len, self.rows))
        pads = [(width - len(row)) * (self.side == "left") for row in self.rows]
        ends = [pad + prompt for pad, prompt in zip(pads, self.prompt_lengths, strict=True)]
        held = any(leaf.gate in ("of_prompt", "of_last") for leaf in self.leaves)
        first = max(ends) if held else 0
        bounds = sorted({0, *(cut for cut in self.cuts if first <= cut < width), width})
        return [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]  # noqa: RUF007

    @property
    def steering(self) -> sl.Steering:
        whole, *rest = (leaf.steering(self.architecture) for leaf in self.leaves)
        for joint, part in zip(self.joints, rest, strict=True):
            whole = whole + part if joint == "+" else whole >> part
        return whole

    def row(self, i: int) -> Case:
        return replace(
            self,
            rows=self.rows[i : i + 1],
            prompt_lengths=self.prompt_lengths[i : i + 1],
            leaves=tuple(leaf.row(i) for leaf in self.leaves),
        )

    def alone(self, model: Any) -> list[Tensor]:
        """Logits of each row alone, steered by SteerLens, uncached."""
        each = []
        for i, tokens in enumerate(self.tensors):
            row = self.row(i)
            with row.steering.on(model, prompt_lengths=row.prompt_lengths):
                each.append(forward(model, tokens[None])[0])
        return each

    def together(self, model: Any, cached: bool) -> Tensor:
        """Logits of the padded batch, in one pass or in chunks under a cache."""
        tokens, mask = self.batch
        with self.steering.on(model, prompt_lengths=self.prompt_lengths):
            return self._pass(model, tokens, mask, cached)

    def traced(self, model: Any, cached: bool) -> sl.Trace:
        tokens, mask = self.batch
        with self.steering.trace(model, prompt_lengths=self.prompt_lengths) as trace:
            self._pass(model, tokens, mask, cached)
        return trace

    def _pass(self, model: Any, tokens: Tensor, mask: Tensor, cached: bool) -> Tensor:
        if cached:
            return cached_forward(model, tokens, self.sizes, mask)
        return forward(model, tokens, mask)

    # The oracle

    def by_hand(self, model: Any) -> list[Tensor]:
        """Logits of each row alone under hooks written by hand."""
        each = []
        for i, tokens in enumerate(self.tensors):
            with model.hooks(fwd_hooks=self.row(i).hooks_by_hand()):
                each.append(forward(model, tokens[None])[0])
        return each

    def hooks_by_hand(self) -> list[tuple[str, Callable[..., Tensor | None]]]:
        """Reading hooks last, so that they see what was written there."""
        seen: dict[str, Tensor] = {}

        def see(name: str, h: Tensor, hook: Any) -> None:
            seen[name] = h

        read = {making.resid_pre(leaf) for leaf in self.leaves}
        written = {leaf.hook for leaf in self.leaves}
        return [
            *((name, partial(self._write, name, seen)) for name in written),
            *((name, partial(see, name)) for name in read),
        ]

    def _write(self, name: str, seen: dict[str, Tensor], h: Tensor, hook: Any) -> Tensor:
        total = torch.zeros_like(h)
        for joint, leaf in zip(("+", *self.joints), self.leaves, strict=True):
            if leaf.hook == name:
                total = total + self._change(leaf, h + total if joint == ">>" else h, seen)
        return h + total

    def _change(self, leaf: Leaf, h: Tensor, seen: dict[str, Tensor]) -> Tensor:
        there = h if leaf.hook == making.resid_pre(leaf) else seen.get(making.resid_pre(leaf))
        x = h if leaf.reads is None else there
        assert x is not None
        [row], [prompt] = self.rows, self.prompt_lengths
        gate = oracle.openness(leaf, self.architecture, x, there, row, prompt)
        return oracle.change(
            leaf, self.architecture, x, h, self.picked(leaf) * leaf.coeff[0] * gate
        )

    def picked(self, leaf: Leaf) -> Tensor:
        """Where a leaf writes in the only row: (1, pos)."""
        tokens, prompt = self.rows[0], self.prompt_lengths[0]
        found = [oracle.picks(leaf.where, i, tokens, prompt) for i in range(len(tokens))]
        return torch.tensor([found])
