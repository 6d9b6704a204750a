"""Training through the network: live parameters, passes that carry gradients, held-out texts.

What is trained runs as an ordinary steering whose transforms and gates hold live tensors, so that
the trained steering and the training forward are one equation. The model's weights take no part.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.activations import collect
from steerlens.attribution.gradients import frozen
from steerlens.errors import BadInputError, HookError
from steerlens.host import FwdHooks, Host, device_of
from steerlens.methods.data import Sets
from steerlens.methods.descent import Descent
from steerlens.methods.transport import wasserstein
from steerlens.passes import one_pass
from steerlens.positions import Mask
from steerlens.reading import Enough, Passages, pooled
from steerlens.steering import Steering, under
from steerlens.text import pad
from steerlens.transforms import Affine, Linear, Scaled

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Live(Linear):
    """Δ = (w - 1) ⊙ x + b with w and b under training: `Affine` would detach them."""

    weight: Float[Tensor, "*unit"]
    bias: Float[Tensor, "*unit"]
    """b in units of `unit`."""
    hook_name: str
    unit: float = 1.0
    scales: ClassVar[Scaled] = "amplitude"

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of the map."""
        return tuple(self.weight.shape)

    def __call__(self, x: Float[Tensor, "batch pos *unit"]) -> Float[Tensor, "batch pos *unit"]:
        """Return what the map adds."""
        return (self.weight - 1) * x + self.unit * self.bias

    def __repr__(self) -> str:
        """Return `live(...)` with its size."""
        return f"live({self.weight.numel()} entries)"

    def settled(self) -> Affine:
        """Return the map as a value."""
        bias = (self.unit * self.bias).detach().cpu()
        return Affine(self.weight.detach().cpu(), bias, hook_name=self.hook_name)


class Texts(Passages):
    """A set of texts, tokenised once, and what is read of them with gradients."""

    def written(
        self, rows: Sequence[int], names: Sequence[str], steering: Steering | None = None
    ) -> tuple[dict[str, Tensor], Mask]:
        """Return what leaves each hook point under a steering, and which tokens are read.

        Shapes (batch, pos, *unit) and (batch, pos); gradients pass. The model's pass ends at the
        last of the hook points.
        """
        batch = pad(self.model, [self.encoded[row] for row in rows], device_of(self.model))
        found: dict[str, Tensor] = {}

        def reader(name: str) -> Callable[..., None]:
            def read(activation: Tensor, hook: Any) -> None:
                found[name] = activation
                if len(found) == len(names):
                    raise Enough

            return read

        hooks: FwdHooks = [(name, reader(name)) for name in names]
        with under(steering, self.model), suppress(Enough):
            one_pass(self.model, batch, hooks)
        missing = [name for name in names if name not in found]
        if missing:
            raise HookError(
                f"The pass never reached hook point {missing[0]!r}. Does a hook of yours end it, "
                "or is a layer skipped?"
            )
        return found, self.mask(batch, rows)

    def pooled(
        self, rows: Sequence[int], names: Sequence[str], steering: Steering | None = None
    ) -> dict[str, Tensor]:
        """Return the mean over each text's tokens at every hook point, of shape (row, *unit)."""
        found, mask = self.written(rows, names, steering)
        return {name: pooled(x, mask)[0] for name, x in found.items()}


@dataclass(frozen=True, eq=False)
class Matching:
    """Source texts, and the responses of target texts that they are to be carried to."""

    source: Texts
    target: dict[str, Float[Tensor, "target *_unit"]]
    """Pooled, unsteered, by hook point."""
    units: dict[str, float]
    """What each hook point's activations are measured in."""
    batch: int

    @property
    def scale(self) -> float:
        """What LinEAS's code multiplies this loss by: texts a step over hook points."""
        return min(self.batch, len(self.source)) / len(self.target)

    def maps(self) -> list[Live]:
        """Return a map a hook point that changes nothing yet, to be trained."""
        device = device_of(self.source.model)
        return [
            Live(
                torch.ones(x.shape[1:], device=device, requires_grad=True),
                torch.zeros(x.shape[1:], device=device, requires_grad=True),
                name,
                self.units[name],
            )
            for name, x in self.target.items()
        ]

    def __call__(
        self, steering: Steering, generator: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Return W_2 squared from the target, mean over entries, summed over hook points.

        Of texts drawn at random; of all without a generator.
        """
        chosen = drawn(len(next(iter(self.target.values()))), self.batch, generator)
        distances = [
            wasserstein(x, self.target[name][chosen].to(x.device)).cpu() / self.units[name] ** 2
            for name, x in self._steered(steering, generator).items()
        ]
        return torch.stack(distances).sum()

    def _steered(self, steering: Steering, generator: torch.Generator | None) -> dict[str, Tensor]:
        rows = drawn(len(self.source), self.batch, generator)
        parts = [
            self.source.pooled(rows[start : start + self.batch], list(self.target), steering)
            for start in range(0, len(rows), self.batch)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def drawn(total: int, size: int, generator: torch.Generator | None) -> list[int]:
    """Return `size` numbers below `total` at random; all of them, in order, without a generator."""
    if generator is None:
        return list(range(total))
    return torch.randperm(total, generator=generator)[:size].tolist()


def matchings(
    model: Host, sets: Sets, names: Sequence[str], config: Descent, progress: bool
) -> list[Matching]:
    """Return what is trained on and, if any, what is held out. Reads the target, unsteered."""
    items = list(sets.target)
    read = collect(
        model, items, list(names), config.read, max_examples=len(items), progress=progress
    )
    units = dict.fromkeys(read.examples, 1.0)
    if config.units == "rms":
        for name, x in read.examples.items():
            units[name] = float(read.norms[name].mean) / sqrt(x[0].numel()) or 1.0
    sources = split(sets.source, config.validation, config.seed)
    targets = split(range(len(items)), config.validation, config.seed)
    return [
        Matching(
            Texts(model, source, config.read),
            {name: x[target] for name, x in read.examples.items()},
            units,
            config.batch,
        )
        for source, target in zip(sources, targets, strict=True)
        if source
    ]


@contextmanager
def gradients(model: Host) -> Iterator[None]:
    """Let gradients flow, but to no weight of the model, while it lasts."""
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        yield


def split(items: Sequence[T], share: float, seed: int) -> tuple[list[T], list[T]]:
    """Return items to train on and items held out, at random.

    Raises BadInputError where either would be empty though some are to be held out.

    >>> [len(part) for part in split(range(8), 0.25, seed=0)]
    [6, 2]
    """
    order = list(items)
    if share == 0:
        return order, []
    random.Random(seed).shuffle(order)
    cut = len(order) - round(share * len(order))
    if not 0 < cut < len(order):
        raise BadInputError(
            f"A share of {share} cannot be held out of {len(order)} texts: one part would be "
            "empty. Give more texts, or validation=0."
        )
    return order[:cut], order[cut:]
