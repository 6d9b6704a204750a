"""What collecting costs beside the forward pass that it cannot do without, and beside the peers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import steerlens as sl
from benchmarks import peers, shapes
from benchmarks.measuring import Goal, Run, interleaved, ratio
from benchmarks.results import Row
from benchmarks.served import Served
from benchmarks.shapes import Shape
from steerlens.host import hook_name

Ids = Sequence[Sequence[int]]
ARCHITECTURES = ("gpt2", "llama")


class Stop(Exception):  # noqa: N818 (a signal, not an error)
    """The highest layer has run."""


@torch.no_grad()
def limit(model: Any, batches: Sequence[torch.Tensor], layer: int) -> None:
    """Run forward passes without reading hooks, and no further than a layer: what must be paid."""

    def stop(activation: torch.Tensor, hook: Any) -> None:
        raise Stop

    for batch in batches:
        with suppress(Stop), model.hooks(fwd_hooks=[(hook_name("resid_post", layer), stop)]):
            model(batch)


@dataclass(frozen=True)
class Pairs:
    """A contrast as token ids: rows of both sides."""

    positive: Ids
    negative: Ids

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Return the pairs as text, for libraries that take nothing else."""
        sides = zip(self.positive, self.negative, strict=True)
        return [(_text(positive), _text(negative)) for positive, negative in sides]

    def contrast(self) -> sl.Contrast:
        return sl.Contrast(
            positive=[list(row) for row in self.positive],
            negative=[list(row) for row in self.negative],
        )


def _text(row: Sequence[int]) -> str:
    return " ".join(f"w{each}" for each in row)


def equal_pairs(shape: Shape, pairs: int, length: int) -> Pairs:
    """Return pairs of one length that share nothing."""
    rows = shapes.sample(shape, 2 * pairs, length).tolist()
    return Pairs(rows[:pairs], rows[pairs:])


def found(model: Any, pairs: Pairs, layers: Sequence[int]) -> Run:
    """Return the run that is ours: the mean difference at some layers."""
    names, contrast = [hook_name("resid_post", layer) for layer in layers], pairs.contrast()
    return lambda: sl.find_directions(
        model, contrast, hook_names=names, quality=False, progress=False
    )


@torch.no_grad()
def cached(model: Any, rows: Ids, layers: Sequence[int], *, filtered: bool) -> None:
    """Read the last token by `run_with_cache`: a prompt at a time with everything, or filtered."""
    names = [hook_name("resid_post", layer) for layer in layers]
    if filtered:
        _, cache = model.run_with_cache(torch.tensor(rows), names_filter=names)
        for name in names:
            cache[name][:, -1].mean(0)
        return
    for row in rows:
        _, cache = model.run_with_cache(torch.tensor([row]))
        for name in names:
            cache[name][0, -1].clone()


def served_peers(
    stack: ExitStack, shape: Shape, pairs: Pairs, layers: Sequence[int], batch: int
) -> tuple[dict[str, Served], dict[str, str]]:
    """Return the peers that could be installed and started, and why the others could not."""
    started, failed = {}, {}
    for peer, function in peers.RUNS.items():
        try:
            started[peer] = stack.enter_context(
                Served(
                    f"benchmarks.peers:{function}",
                    peers.environment(peer),
                    folder=str(shapes.folder(shape)),
                    pairs=pairs.texts,
                    layers=list(layers),
                    batch_size=batch,
                )
            )
        except (subprocess.CalledProcessError, RuntimeError) as error:
            failed[peer] = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1]
    return started, failed


def against_peers(
    what: str, seconds: Mapping[str, list[float]], failed: Mapping[str, str], goal: Goal
) -> Iterator[Row]:
    """Yield how many times as fast we are as each peer."""
    for peer in peers.RUNS:
        label = f"{what}: {peer} / SteerLens"
        if peer in failed:
            yield Row(label, None, goal, note=f"not run: {failed[peer]}")
        elif peer in seconds:
            yield Row(label, ratio(seconds[peer], seconds["SteerLens"]), goal)


def all_layers(tiny: bool) -> Iterator[Row]:
    """Mean difference at all layers, pairs of equal lengths that share nothing."""
    yield from _equal(tiny, lambda shape: range(shape.n_layers), Goal(1.3, at_least=True))


def one_layer(tiny: bool) -> Iterator[Row]:
    """Mean difference at one layer in the middle, pairs of equal lengths that share nothing."""
    yield from _equal(tiny, lambda shape: [shape.n_layers // 2 - 1], Goal(2.0, at_least=True))


def _equal(tiny: bool, layers_of: Callable[[Shape], Sequence[int]], goal: Goal) -> Iterator[Row]:
    n, length, rounds = (2, 6, 2) if tiny else (16, 32, 9)
    for architecture in ARCHITECTURES:
        shape = shapes.shape(architecture, tiny)
        pairs, layers = equal_pairs(shape, n, length), layers_of(shape)
        for host in shapes.hosts():
            model = shapes.build(shape, host)
            rows = [*pairs.positive, *pairs.negative]
            runs: dict[str, Run] = {
                "limit": partial(limit, model, [torch.tensor(rows)], max(layers)),
                "SteerLens": found(model, pairs, layers),
                "filtered": partial(cached, model, rows, layers, filtered=True),
            }
            with ExitStack() as stack:
                served: dict[str, Served] = {}
                failed: dict[str, str] = {}
                if host == "bridge" and not tiny:
                    served, failed = served_peers(stack, shape, pairs, layers, n)
                seconds = interleaved({**runs, **served}, rounds)
            what = f"{shape.name}, {host}"
            cost = ratio(seconds["SteerLens"], seconds["limit"])
            yield Row(f"{what}: SteerLens / limit", cost, Goal(1.05))
            yield from against_peers(what, seconds, failed, goal)
            yield Row(
                f"{what}: filtered run_with_cache / SteerLens",
                ratio(seconds["filtered"], seconds["SteerLens"]),
            )
