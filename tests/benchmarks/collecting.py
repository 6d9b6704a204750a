"""What collecting costs beside the forward pass that it cannot do without, and beside the peers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import torch

import steerlens as sl
from benchmarks import peers, shapes
from benchmarks.measuring import Goal, Run, interleaved, ratio
from benchmarks.results import Row
from benchmarks.served import Served
from benchmarks.shapes import Shape
from steerlens.names import hook_name

Ids = Sequence[Sequence[int]]
ARCHITECTURES = ("gpt2", "llama")
PASS_ROWS = 32
"""Rows of a pass of the limit: about a thousand tokens of texts of one length."""


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


def realistic_pairs(shape: Shape, pairs: int, longest: int, seed: int = 0) -> Pairs:
    """Return pairs of 8 to `longest` tokens: three of four two answers to one prompt."""
    random = Random(seed)
    sides: tuple[list[list[int]], list[list[int]]] = ([], [])
    for i in range(pairs):
        prompt = [] if i % 4 == 3 else _words(random, shape, random.randint(6, longest - 8))
        for side in sides:
            size = random.randint(2, 8) if prompt else random.randint(8, longest)
            side.append(prompt + _words(random, shape, size))
    return Pairs(*sides)


def _words(random: Random, shape: Shape, size: int) -> list[int]:
    return [random.randrange(shapes.FIRST, shape.d_vocab) for _ in range(size)]


def distinct_tokens(rows: Ids) -> int:
    """Return how many tokens there are to compute, each after its own beginning once."""
    return len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


def found(model: Any, pairs: Pairs, layers: Sequence[int]) -> Run:
    """Return the run that is ours: the mean difference at some layers."""
    names, contrast = [hook_name("resid_post", layer) for layer in layers], pairs.contrast()
    return lambda: sl.find_directions(
        model, contrast, hook_names=names, quality=False, progress=False
    )


@torch.no_grad()
def cached(model: Any, rows: Ids, layers: Sequence[int], *, filtered: bool) -> None:
    """Read the last token by `run_with_cache`, a prompt at a time; all it caches, or `filtered`."""
    names = [hook_name("resid_post", layer) for layer in layers]
    for row in rows:
        tokens = torch.tensor([row])
        options = {"names_filter": names} if filtered else {}
        _, cache = model.run_with_cache(tokens, **options)
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
    n, length, rounds = (2, 6, 2) if tiny else (8, 32, 11)
    for architecture in ARCHITECTURES:
        shape = shapes.shape(architecture, tiny)
        pairs = equal_pairs(shape, n, length)
        distinct = torch.tensor([*pairs.positive, *pairs.negative])
        for host in shapes.hosts():
            against = Comparison(shape, host, pairs, layers_of(shape), distinct, rounds)
            yield from against.rows(None if tiny or host != "bridge" else n, goal, Goal(1.05))


def realistic(tiny: bool) -> Iterator[Row]:
    """Mean difference at all layers, pairs of 8 to 200 tokens, most of them after one prompt."""
    n, longest, rounds = (6, 40, 2) if tiny else (8, 200, 7)
    for architecture in ARCHITECTURES:
        shape = shapes.shape(architecture, tiny)
        pairs = realistic_pairs(shape, n, longest)
        count = distinct_tokens([*pairs.positive, *pairs.negative])
        distinct = shapes.sample(shape, -(-count // longest), longest)
        for host in shapes.hosts():
            layers = range(shape.n_layers)
            against = Comparison(shape, host, pairs, layers, distinct, rounds)
            # One text a batch: in larger ones the peers' padding costs more than it saves.
            yield from against.rows(None if tiny or host != "bridge" else 1, Goal(3, at_least=True))


@dataclass(frozen=True)
class Comparison:
    """One set of pairs on one model, read by everybody who can."""

    shape: Shape
    host: str
    pairs: Pairs
    layers: Sequence[int]
    distinct: torch.Tensor
    """As many tokens as the pairs have different ones."""
    rounds: int

    def rows(
        self, peers_batch: int | None, peers_goal: Goal, limit_goal: Goal | None = None
    ) -> Iterator[Row]:
        """Yield our cost over the limit, and everybody's over ours; peers with a batch size."""
        model = shapes.build(self.shape, self.host)
        texts = [*self.pairs.positive, *self.pairs.negative]
        runs: dict[str, Run] = {
            "limit": partial(limit, model, self.distinct.split(PASS_ROWS), max(self.layers)),
            "SteerLens": found(model, self.pairs, self.layers),
            "run_with_cache, filtered": partial(cached, model, texts, self.layers, filtered=True),
        }
        if limit_goal is not None:  # where texts are few and short
            runs["run_with_cache"] = partial(cached, model, texts, self.layers, filtered=False)
        with ExitStack() as stack:
            served, failed = {}, {}
            if peers_batch is not None:
                served, failed = served_peers(
                    stack, self.shape, self.pairs, self.layers, peers_batch
                )
            seconds = interleaved({**runs, **served}, self.rounds)
        what = f"{self.shape.name}, {self.host}"
        ours = seconds["SteerLens"]
        yield Row(f"{what}: SteerLens / limit", ratio(ours, seconds["limit"]), limit_goal)
        if peers_batch is not None:
            yield from against_peers(what, seconds, failed, peers_goal)
        for name in [name for name in seconds if name.startswith("run_with_cache")]:
            yield Row(f"{what}: {name} / SteerLens", ratio(seconds[name], ours))
