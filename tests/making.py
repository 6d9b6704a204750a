"""From a `Leaf`, plain data, to SteerLens's values: its transform, gate, coefficient, selector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import models
import torch
from torch import Tensor

import steerlens as sl
from steerlens import signals, transforms
from steerlens.names import hook_name

if TYPE_CHECKING:
    from case import Leaf

STORED = 5
"""Positions that a stored reference pass covers."""


def shape(leaf: Leaf, architecture: str) -> tuple[int, ...]:
    """The shape of what a leaf reads."""
    if leaf.site == "z" and leaf.kind != "reads":
        return models.N_HEADS, models.D_HEAD[architecture]
    return (models.D_MLP,) if leaf.site == "mlp_post" else (models.D_MODEL,)


def drawn(leaf: Leaf, architecture: str, salt: int) -> Tensor:
    """A tensor that depends on the leaf's number alone."""
    generator = torch.Generator().manual_seed(100 * leaf.number + salt)
    return torch.randn(shape(leaf, architecture), generator=generator) / 2


def vector(leaf: Leaf, architecture: str) -> Tensor:
    """The leaf's own vector; at `z` one head's part is zero."""
    found = drawn(leaf, architecture, 0)
    if found.ndim == 2:
        found[leaf.number % models.N_HEADS] = 0
    return found


def stored(leaf: Leaf, architecture: str) -> Tensor:
    """A reference pass for each row of the leaf: (row, index, *unit)."""
    each = [
        torch.stack([drawn(leaf, architecture, 7 + 31 * row + i) for i in range(STORED)])
        for row in leaf.rows
    ]
    return torch.stack(each)


def mask(leaf: Leaf, architecture: str) -> Tensor:
    """Entries that are scaled: a third of them."""
    return (drawn(leaf, architecture, 1) > 0.2).float()


def transform(leaf: Leaf, architecture: str) -> Any:
    """The leaf's transform."""
    first = sl.Direction(leaf.reads or leaf.hook, vector(leaf, architecture), name="first")
    second = sl.Direction(first.hook_name, drawn(leaf, architecture, 2), name="second")
    other = drawn(leaf, architecture, 3)
    makers = {
        "add": lambda: transforms.Add(first),
        "ablate": lambda: transforms.Ablate(first),
        "reads": lambda: transforms.Ablate(first),
        "ablate_both": lambda: transforms.Ablate(_both(first, second)),
        "mean_ablate": lambda: transforms.MeanAblate(first, other),
        "clamp": lambda: transforms.Clamp(first, -0.3, 0.4),
        "cap": lambda: transforms.Clamp(first, high=0.2),
        "scale": lambda: transforms.Scale(mask(leaf, architecture)),
        "affine": lambda: transforms.Affine(1 + other / 2, second.vector),
        "rotate": lambda: transforms.Rotate(first, second),
        "rotate_to": lambda: transforms.RotateTo(first, second, angle=0.7),
        "keep_norm": lambda: transforms.KeepNorm(transforms.Add(first)),
        "function": lambda: transforms.Function(torch.tanh),
        "replace": lambda: transforms.Replace(stored(leaf, architecture), by_index=True),
        "interchange": lambda: transforms.Interchange(first, stored(leaf, architecture), True),
    }
    return makers[leaf.kind]()


def _both(first: sl.Direction, second: sl.Direction) -> sl.Basis:
    vectors = torch.stack([first.vector, second.vector])
    return sl.Basis({first.hook_name: vectors}, ("first", "second"))


def gate(leaf: Leaf, architecture: str) -> Any:
    """The leaf's gate: a number, or a signal by name."""
    if not isinstance(leaf.gate, str):
        return leaf.gate
    own = sl.Direction(leaf.reads or leaf.hook, drawn(leaf, architecture, 4))
    probe = signals.Probe(own, bias=0.1)
    there = sl.Direction(resid_pre(leaf), reading(leaf))
    gates = {
        "function": lambda: lambda x: torch.sigmoid(x.flatten(2) @ own.vector.to(x).flatten()),
        "probe": lambda: probe,
        "or": lambda: probe | ~signals.Probe(own, bias=-0.5),
        "relu": lambda: signals.Relu(signals.Cosine(own)),
        "latch": lambda: signals.Latch(probe),
        "hysteresis": lambda: signals.Hysteresis(signals.Projection(own), 0.3, -0.3),
        "of_prompt": lambda: signals.OfPrompt(probe),
        "of_last": lambda: signals.OfPrompt(probe, "last"),
        "decay": lambda: signals.Decay(2.0),
        "steps": lambda: signals.Steps(0, 2),
        "elsewhere": lambda: signals.Probe(there).at(there.hook_name),
    }
    return gates[leaf.gate]()


def resid_pre(leaf: Leaf) -> str:
    """A hook point that comes before every one of the leaf's layer, or is the leaf's own."""
    return hook_name("resid_pre", leaf.layer)


def reading(leaf: Leaf) -> Tensor:
    """What a gate elsewhere reads the stream with."""
    generator = torch.Generator().manual_seed(100 * leaf.number + 5)
    return torch.randn(models.D_MODEL, generator=generator) / 2


def selector(where: Any) -> Any:
    """The selector of plain data: a name, a call, or a combination."""
    name, *arguments = where
    if name == "not":
        return ~selector(arguments[0])
    if name in ("or", "and"):
        first, second = map(selector, arguments)
        return first | second if name == "or" else first & second
    return getattr(sl.positions, name)(*arguments) if arguments else sl.positions.selector(name)


def steering(leaf: Leaf, architecture: str) -> sl.Steering:
    """The whole leaf as a steering."""
    amount = leaf.coeff[0] if len(leaf.coeff) == 1 else list(leaf.coeff)
    options = dict(positions=selector(leaf.where), gate=gate(leaf, architecture))
    if leaf.stream:
        own = sl.Direction(leaf.hook, vector(leaf, architecture))
        return amount * sl.add(own, sl.of_stream(0.3), **options)
    made = transform(leaf, architecture)
    return sl.steer(made, leaf.hook, amount, reads=leaf.reads, **options)
