"""What every method's steering must do: combine, take a gate and positions, trace, be saved."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from models import forward, padded, random_rows
from torch import Tensor

import steerlens as sl

ROWS = random_rows([5, 7, 4, 6, 8, 5] * 2, seed=3)
CONTRAST = sl.Contrast(ROWS[:6], ROWS[6:])
PROMPTS = random_rows([6, 9, 3], seed=8)
TOKENS, MASK = padded(PROMPTS, "right")
REAL = MASK.bool()
Change = Callable[[Tensor], Tensor]
"""From the activation at a hook point to what stands there afterwards."""


@torch.no_grad()
def logits(model: Any, steering: sl.Steering | None = None) -> Tensor:
    """At the real tokens of the prompts, padded on the right."""
    if steering is None:
        return forward(model, TOKENS)[REAL]
    with steering.on(model):
        return forward(model, TOKENS)[REAL]


@torch.no_grad()
def by_hand(model: Any, changes: dict[str, Change]) -> Tensor:
    """Logits under plain hooks, each prompt alone, BOS steered like every token."""
    hooks = [(name, _plain(change)) for name, change in changes.items()]
    with model.hooks(fwd_hooks=hooks):
        return torch.cat([forward(model, row[None])[0] for row in PROMPTS])


def _plain(change: Change) -> Any:
    return lambda activation, hook: change(activation)


@torch.no_grad()
def stands(
    model: Any, rows: Sequence[Tensor], names: Sequence[str], at: int = -1
) -> dict[str, Tensor]:
    """What stands at hook points at one token of each text, unsteered: (text, d), in float64."""
    found: dict[str, Tensor] = {}
    place = [len(row) + at if at < 0 else at for row in rows]

    def reader(name: str) -> Any:
        def read(activation: Tensor, hook: Any) -> None:
            found[name] = activation[range(len(rows)), place].double()

        return read

    with model.hooks(fwd_hooks=[(name, reader(name)) for name in names]):
        forward(model, padded(rows, "right")[0])
    return found


def close(first: Tensor, second: Tensor) -> bool:
    return float((first - second).abs().max()) < 1e-4 * max(1.0, float(second.abs().max()))


def behaves(steering: sl.Steering, model: Any, path: Path, *, whole: bool = False) -> None:
    """Check the manners; `whole` says that half a gate is not a share (a sign, a rule)."""
    base, full = logits(model), logits(model, steering)
    assert not close(full, base)
    assert torch.equal(logits(model, steering.when(0)), base)
    assert torch.equal(logits(model, steering.when(1)), full)
    if not whole:
        half = logits(model, steering.when(0.5))
        assert not close(half, base)
        assert not close(half, full)
    last = steering.where("last_prompt_token")
    ends = REAL.sum(1).cumsum(0) - 1
    moved = (logits(model, last) - base).abs().amax(1) > 0
    assert set(moved.nonzero().flatten().tolist()) <= set(ends.tolist())
    assert bool(moved.any())
    vector = torch.randn(int(model.cfg.d_model), generator=torch.Generator().manual_seed(1))
    other = sl.add(sl.Direction("blocks.0.hook_resid_post", vector))
    assert close(logits(model, steering + other), logits(model, other + steering))
    assert not close(logits(model, steering + other), full)
    with torch.no_grad(), steering.trace(model) as trace:
        model(TOKENS)
    assert bool(trace.texts[0].share.abs().sum() > 0)
    steering.save(path)
    for again in (sl.load(path), pickle.loads(pickle.dumps(steering))):
        assert isinstance(again, sl.Steering)
        assert repr(again) == repr(steering)
        assert torch.equal(logits(model, again), full)
