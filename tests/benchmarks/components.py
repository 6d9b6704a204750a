"""What edits and attributions cost beside the passes that they stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import steerlens as sl
from benchmarks import shapes
from benchmarks.collecting import ARCHITECTURES, Pairs, equal_pairs
from benchmarks.measuring import Figure, Goal, interleaved, ratio
from benchmarks.results import Row
from benchmarks.served import peak
from benchmarks.shapes import Shape
from steerlens.components import Block
from steerlens.editing.factors import Factors
from steerlens.names import hook_name

HEADS, NEURONS = 100, 1000
FLAT = 0.05


@torch.no_grad()
def edits(tiny: bool) -> Iterator[Row]:
    """An edit of 100 heads and 1,000 neurons: a forward pass with it, and putting it on and off."""
    rounds = 2 if tiny else 21
    for architecture in ARCHITECTURES:
        shape = shapes.shape(architecture, tiny)
        tokens = shapes.sample(shape, 1, 16 if tiny else 128)
        for host in shapes.hosts():
            model, edit = shapes.build(shape, host), sparse_edit(shape)
            what, bare = f"{shape.name}, {host}", partial(model, tokens)
            on_off = interleaved({"edit": partial(_on_off, edit, model), "pass": bare}, rounds)
            yield Row(
                f"{what}: apply and undo / a forward pass of 128 tokens",
                ratio(on_off["edit"], on_off["pass"]),
                Goal(1.0),
            )
            other = shapes.build.__wrapped__(shape, host)
            edit.apply_(other)
            forward = interleaved({"edited": partial(other, tokens), "bare": bare}, rounds)
            yield Row(
                f"{what}: forward, edited / not",
                ratio(forward["edited"], forward["bare"]),
                Goal(1.0),
            )


def _on_off(edit: sl.Edit, model: Any) -> None:
    edit.apply_(model).undo()


def sparse_edit(shape: Shape) -> sl.Edit:
    """Return a random edit of heads and neurons, spread over the layers."""
    dice = torch.Generator().manual_seed(0)
    factors = []
    blocks: list[tuple[Block, int, int, int]] = [
        ("attn", HEADS, shape.n_heads, shape.d_model // shape.n_heads),
        ("mlp", NEURONS, shape.d_mlp, 1),
    ]
    for block, total, of, width in blocks:
        for layer in range(shape.n_layers):
            share = total * (layer + 1) // shape.n_layers - total * layer // shape.n_layers
            units = torch.randperm(of, generator=dice)[:share].sort().values
            v = torch.randn(shape.d_model, generator=dice)
            factors.append(
                Factors(
                    place=(layer, block),
                    of=of,
                    units=units,
                    strengths=torch.full((len(units),), 1e-3),
                    reads=torch.randn(len(units), width, generator=dice),
                    writes=v,
                    toward=v,
                )
            )
    return sl.Edit(tuple(factors))


def attribution(tiny: bool) -> Iterator[Row]:
    """Every head and neuron of all layers, both sides, beside collecting what goes into them."""
    n, length, rounds = (2, 6, 2) if tiny else (64, 32, 5)
    for architecture in ARCHITECTURES:
        shape = shapes.shape(architecture, tiny)
        pairs = equal_pairs(shape, n, length)
        for host in shapes.hosts():
            model = shapes.build(shape, host)
            runs = {"ours": attributed(model, pairs), "means": means(model, pairs)}
            seconds = interleaved(runs, rounds)
            yield Row(
                f"{shape.name}, {host}: attributing / collecting means of z and mlp.hook_post",
                ratio(seconds["ours"], seconds["means"]),
                Goal(1.1),
            )
    few, many = (2, 4) if tiny else (256, 2048)
    used = [peak("benchmarks.components:attributing", tiny=tiny, pairs=n) for n in (few, many)]
    rise = [each.peak - each.before for each in used]
    yield Row(
        f"Llama shape: peak with {many} pairs / with {few}",
        Figure(used[1].peak / used[0].peak),
        None if tiny else Goal(1 + FLAT),
        note=f"of {used[1].peak:.0f} MB; {rise[0]:.0f} and {rise[1]:.0f} above the start",
    )


def attributed(model: Any, pairs: Pairs, max_examples: int = 512) -> Callable[[], object]:
    """Return the run that is ours: scores that need one direction, without probes."""
    vector = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1))
    direction = sl.Direction(hook_name("resid_post", model.cfg.n_layers - 1), vector)
    contrast = pairs.contrast()
    return lambda: sl.attribute(
        model, contrast, direction, probes=False, max_examples=max_examples, progress=False
    )


def means(model: Any, pairs: Pairs) -> Callable[[], object]:
    """Return the run that collects the means of both sides at the components' inputs."""
    contrast = pairs.contrast()

    def run() -> None:
        for side in (contrast.positive, contrast.negative):
            sl.collect(model, side, ["z", "mlp_post"], max_examples=0, progress=False)

    return run


def attributing(tiny: bool, pairs: int) -> Callable[[], object]:
    """Set up an attribution of so many pairs, 32 examples kept of each side."""
    torch.set_num_threads(1)
    shape = shapes.shape("llama", tiny)
    model = shapes.build(shape, "bridge")
    return attributed(model, equal_pairs(shape, pairs, 6), max_examples=2 if tiny else 32)
