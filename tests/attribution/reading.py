"""What the tests of attribution share: a contrast, its attribution, and means read otherwise."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from models import D_MODEL, N_LAYERS, padded, random_rows, tiny
from torch import Tensor

import steerlens as sl

ROWS = random_rows([5, 7, 4, 9, 6, 5] * 2, seed=3)
SIDES = (ROWS[:6], ROWS[6:])
CONTRAST = sl.Contrast(*SIDES)
QUIET: dict[str, Any] = dict(progress=False, probes=False)
LAST_TWO = sl.positions.last(2)
A, B = 9, 20
"""Two words."""
SITES = ("attn.hook_z", "mlp.hook_post", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


def direction(seed: int = 0, name: str = "up") -> sl.Direction:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return sl.Direction("blocks.1.hook_resid_post", vector, name=name)


V = direction().unit().vector


def metric(logits: Tensor) -> Tensor:
    return logits[:, A] - logits[:, B]


@cache
def found(architecture: str, host: str) -> sl.Attribution:
    """The attribution of the contrast along V, read at each item's last two tokens."""
    model = tiny(architecture, host)
    return sl.attribute(model, CONTRAST, direction(), positions=LAST_TWO, metric=metric, **QUIET)


@cache
def means(architecture: str, host: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of each side: the mean over each item's last two tokens, then over items."""
    model = tiny(architecture, host)
    return read(model, SIDES[0]), read(model, SIDES[1])


def read(model: Any, items: list[Tensor], hooks: Any = ()) -> dict[str, Tensor]:
    tokens, real = padded(items, "right")
    picked = last_two(real)
    seen = {}

    def reader(name: str) -> Any:
        def keep(activation: Tensor, hook: Any) -> None:
            seen[name] = activation.detach().float()[picked].mean(0)

        return keep

    names = [f"blocks.{layer}.{site}" for layer in range(N_LAYERS) for site in SITES]
    fwd_hooks = [*hooks, *((name, reader(name)) for name in names)]
    with torch.no_grad(), model.hooks(fwd_hooks=fwd_hooks):
        model(tokens)
    return seen


def last_two(real: Tensor) -> Tensor:
    index, lengths = torch.arange(real.shape[1]), real.sum(1, keepdim=True)
    return (index >= lengths - 2) & (index < lengths)
