"""Steerings that differ in their numbers: as rows of one pass, and one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import steerlens as sl
from benchmarks import shapes
from benchmarks.collecting import ARCHITECTURES
from benchmarks.measuring import Goal, interleaved, ratio
from benchmarks.results import Row
from steerlens.demo import load_model
from steerlens.evaluation.scoring import token_log_probs
from steerlens.methods.composing import family
from steerlens.names import hook_name
from steerlens.text import Encoded

DOSES = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0]
CANDIDATES, ITEMS, CONCEPTS = 50, 12, 5
STEERLING, LARGE = Goal(0.6), Goal(1.0)


def rows(tiny: bool) -> Iterator[Row]:
    """9 doses, and 50 candidates of Steer2Adapt on 12 items: as rows of a batch over one by one."""
    for what, model, goal in _models(tiny):
        words = min(400, model.cfg.d_vocab)
        items = sample_items(words, 2 if tiny else ITEMS)
        runs = {
            "9 doses": _doses(model, items, DOSES[:2] if tiny else DOSES),
            "50 candidates": composed(model, items, 2 if tiny else CANDIDATES),
        }
        large = goal is LARGE
        for name, (together, alone) in runs.items():
            rounds = 2 if tiny else 3 if large else 15
            seconds = interleaved({"rows": together, "alone": alone}, rounds)
            yield Row(f"{what}: {name}", ratio(seconds["rows"], seconds["alone"]), goal)


def _models(tiny: bool) -> Iterator[tuple[str, Any, Goal]]:
    for host in shapes.hosts():
        yield f"Steerling, {host}", load_model(host), STEERLING
    for architecture in ARCHITECTURES:
        shape = shapes.shape(architecture, tiny)
        for host in shapes.hosts():
            yield f"{shape.name}, {host}", shapes.build(shape, host), LARGE


def sample_items(words: int, count: int) -> list[Encoded]:
    """Prompts of 16 tokens or so, each with an answer of one token."""
    dice = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, 21, (count,), generator=dice).tolist()
    drawn = (torch.randint(5, words, (length + 1,), generator=dice) for length in lengths)
    return [Encoded(tuple(each.tolist()), len(each) - 1) for each in drawn]


def _basis(model: Any) -> sl.Basis:
    dice = torch.Generator().manual_seed(1)
    name = hook_name("resid_post", model.cfg.n_layers // 2)
    return sl.Basis({name: torch.randn(CONCEPTS, model.cfg.d_model, generator=dice) / 10})


def _doses(
    model: Any, items: list[Encoded], doses: list[float]
) -> tuple[Callable[[], object], Callable[[], object]]:
    basis = _basis(model)
    steering = sl.add(sl.Direction(basis.hook_name, basis.only()[0]), positions="everywhere")

    def alone() -> None:
        for dose in doses:
            token_log_probs(model, items, steering, [dose])

    return partial(token_log_probs, model, items, steering, doses), alone


def composed(
    model: Any, items: list[Encoded], count: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the run of so many weighted sums of concepts as rows of a batch, and one by one."""
    weights = torch.randn(count, CONCEPTS, generator=torch.Generator().manual_seed(2))
    basis = _basis(model)
    every = family(basis, weights)
    singles = [family(basis, row[None]) for row in weights]

    def alone() -> None:
        for each in singles:
            token_log_probs(model, items, each, [1.0])

    return partial(token_log_probs, model, items, every, [1.0] * count), alone
