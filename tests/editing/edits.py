"""What the tests of editing share: a contrast, every maker of edits, logits, and bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pytest
import torch
from models import D_HEAD, D_MODEL, N_HEADS, N_LAYERS, forward, hosts, padded, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.editing import fold_gates, orthogonalise, steer2edit, thinkedit

ROWS = random_rows([5, 7, 4] * 2, seed=3)
SIDES = (ROWS[:3], ROWS[3:])
CONTRAST = sl.Contrast(*SIDES)
PROMPTS = random_rows([6, 9, 3], seed=8)
TOKENS, MASK = padded(PROMPTS, "right")
REAL = MASK.bool()
MANY: dict[str, Any] = dict(rho_attn=0.1, rho_mlp=0.2, alpha=0.7, progress=False)
"""An elastic net that most components pass."""
NORMED = ("gemma2", "olmo2")
"""A norm follows the block."""
TIED = ("gpt2", "gemma2")
OFFSETS = ("gpt2", "pythia")
"""Attention has a b_O in the checkpoint."""
ONE_HOST = pytest.mark.parametrize("host", hosts()[:1])
"""For what does not depend on the host."""
QUIET: dict[str, Any] = dict(do_sample=False, stop_at_eos=False, verbose=False)


def direction(seed: int = 0, name: str = "blocks.1.hook_resid_post") -> sl.Direction:
    return sl.Direction(name, torch.randn(D_MODEL, generator=_dice(seed)), name="up")


def at_z(layer: int, architecture: str, seed: int = 5) -> sl.Direction:
    shape = (N_HEADS, D_HEAD[architecture])
    vector = torch.randn(shape, generator=_dice(seed))
    return sl.Direction(f"blocks.{layer}.attn.hook_z", vector, name="mover")


def _dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gated(model: Any, architecture: str, offsets: bool) -> sl.Edit:
    d_head, dice = D_HEAD[architecture], _dice(6)
    gains = {0: torch.rand(N_HEADS, d_head, generator=dice), 2: 2 * torch.eye(N_HEADS)[:, :1]}
    added = {layer: torch.randn(N_HEADS, d_head, generator=dice) for layer in (1, 2)}
    return fold_gates(model, gains, added if offsets else None)


Maker = Callable[[Any, str], sl.Edit]
MAKERS: dict[str, Maker] = {
    "paper": lambda model, _: steer2edit(model, CONTRAST, **MANY),
    "exact": lambda model, _: steer2edit(model, CONTRAST, direction(), **MANY),
    "steepest": lambda model, _: steer2edit(
        model, CONTRAST, direction(), through="steepest", **MANY
    ),
    "relative": lambda model, _: steer2edit(model, CONTRAST, relative=True, **MANY),
    "thinkedit": lambda model, _: thinkedit(
        model, CONTRAST, direction(), share=0.3, progress=False
    ),
    "orthogonalise": lambda model, _: orthogonalise(model, direction()),
    "gates": lambda model, architecture: gated(
        model, architecture, architecture in OFFSETS or not hasattr(model, "original_model")
    ),
}
STEERED = ("paper", "exact", "steepest", "relative")
"""The makers that score components by g."""


@cache
def made(maker: str, architecture: str, host: str) -> sl.Edit:
    return MAKERS[maker](tiny(architecture, host), architecture)


@torch.no_grad()
def logits(model: Any, side: str = "right") -> Tensor:
    """At the real tokens of the prompts, in float32."""
    tokens, mask = padded(PROMPTS, side)
    found = forward(model, tokens, mask if side == "left" else None)
    return found[mask.bool()].float()


def gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


Place = tuple[int, str]
READ = {
    (layer, block): f"blocks.{layer}.{name}"
    for layer in range(N_LAYERS)
    for block, name in (("attn", "attn.hook_z"), ("mlp", "mlp.hook_post"))
}


@torch.no_grad()
def read(model: Any, rows: list[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """What stands at hook points in a pass over rows padded on the right: (row, pos, ...)."""
    found: dict[str, Tensor] = {}

    def reader(name: str) -> Any:
        return lambda activation, hook: found.update({name: activation.detach().float()})

    with model.hooks(fwd_hooks=[(name, reader(name)) for name in names]):
        model(padded(rows, "right")[0])
    return found


@cache
def sides(architecture: str, host: str) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
    """Of each side of the contrast: the mean of what goes into each block at the last tokens."""

    def mean(rows: list[Tensor]) -> dict[Place, Tensor]:
        found = read(tiny(architecture, host), rows, READ.values())
        last = [len(row) - 1 for row in rows]
        return {place: found[name][range(len(rows)), last].mean(0) for place, name in READ.items()}

    return mean(SIDES[0]), mean(SIDES[1])


def inputs(architecture: str, host: str) -> dict[Place, Tensor]:
    """μ: half the sum of both sides' means."""
    positive, negative = sides(architecture, host)
    return {place: (positive[place] + negative[place]) / 2 for place in READ}


def writer(model: Any, place: Place) -> Tensor:
    """W_O or W_out, a copy."""
    layer, block = place
    part = model.blocks[layer]
    weight: Tensor = part.attn.W_O if block == "attn" else part.mlp.W_out
    return weight.detach().clone()


def bits(model: Any) -> dict[str, Tensor]:
    """Every weight and buffer of a model, bit for bit, a copy."""
    inside = getattr(model, "original_model", model)
    found = {}
    for name, each in inside.state_dict().items():
        wide = {2: torch.int16, 4: torch.int32, 8: torch.int64}.get(each.element_size())
        whole = each.detach().clone().contiguous()
        found[name] = whole if wide is None else whole.view(wide)
    return found


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(each, second[name]) for name, each in first.items()
    )
