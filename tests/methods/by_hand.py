"""Transport on plain TransformerLens hooks and plain tensors: what the methods are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from models import random_rows
from torch import Tensor

from steerlens.host import is_bridge
from steerlens.methods.data import Sets

BOS = 1
SOURCE = random_rows([5, 7, 4, 6], seed=1)
TARGET = random_rows([6, 4, 7, 5], seed=2)
CONTROL = random_rows([5, 6, 4], seed=3)
SETS = Sets(SOURCE, TARGET, CONTROL)
PROMPT = random_rows([9], seed=9)[0][None]
Change = Callable[[Tensor], Tensor]


def hooks(changes: Mapping[str, Change]) -> list[Any]:
    """Hooks that put `change(a)` in the place of a at every token but the first, the BOS."""

    def hooked(change: Change) -> Callable[..., Tensor]:
        def write(a: Tensor, hook: Any) -> Tensor:
            return torch.cat([a[:, :1], change(a[:, 1:])], 1)

        return write

    return [(name, hooked(change)) for name, change in changes.items()]


def written(
    model: Any, row: Tensor, names: Sequence[str], changes: Mapping[str, Change]
) -> dict[str, Tensor]:
    """What leaves each hook point of one text, BOS left out: (pos, *unit)."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def read(a: Tensor, hook: Any) -> None:
            found[name] = a[0, 1:]

        return read

    model.run_with_hooks(
        row[None], fwd_hooks=[*hooks(changes), *((name, keep(name)) for name in names)]
    )
    return found


def pooled(
    model: Any,
    rows: Sequence[Tensor],
    names: Sequence[str],
    changes: Mapping[str, Change] | None = None,
) -> dict[str, Tensor]:
    """Mean over each text's tokens, BOS left out: (text, *unit)."""
    texts = [written(model, row, names, changes or {}) for row in rows]
    return {name: torch.stack([text[name].mean(0) for text in texts]) for name in names}


def rms(model: Any, rows: Sequence[Tensor], names: Sequence[str]) -> dict[str, float]:
    """Mean norm of the tokens, a mean a text first, over the root of the number of entries."""
    with torch.no_grad():
        texts = [written(model, row, names, {}) for row in rows]
    return {
        name: float(
            torch.stack([text[name].flatten(1).norm(dim=1).mean() for text in texts]).mean()
            / texts[0][name][0].numel() ** 0.5
        )
        for name in names
    }


def logits(model: Any, changes: Mapping[str, Change]) -> Tensor:
    with torch.no_grad():
        return model.run_with_hooks(PROMPT, fwd_hooks=hooks(changes))


def state(model: Any) -> tuple[Any, ...]:
    """Weights, what requires a gradient, what has one, and every hook."""
    inner = model.original_model if is_bridge(model) else model
    weights = [
        (each.detach().clone(), each.requires_grad, each.grad) for each in inner.parameters()
    ]
    parts = {id(part): part for part in (*model.modules(), *inner.modules())}.values()
    left = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts]
    return weights, left, sorted(vars(model))


def same_state(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    pairs = zip(before[0], after[0], strict=True)
    untouched = all(
        torch.equal(a[0], b[0]) and a[1] == b[1] and (a[2] is None) == (b[2] is None)
        for a, b in pairs
    )
    return untouched and before[1:] == after[1:]
