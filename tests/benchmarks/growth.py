"""Memory, fitting, how cost grows, and work that several processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

import dask
import torch
from distributed import Client, LocalCluster

import steerlens as sl
from benchmarks import collecting, peers, shapes
from benchmarks.collecting import Ids, equal_pairs, limit
from benchmarks.measuring import Figure, Goal, interleaved, ratio
from benchmarks.results import Row
from benchmarks.served import peak
from steerlens.activations import Activations, collect_sides
from steerlens.directions import FINDERS
from steerlens.directions.quality import oriented
from steerlens.evaluation.sweeps import sweep

BEFORE_WORKERS = "distributed.nanny.pre-spawn-environ"
DASK = {
    "that keep freed memory": {"OMP_NUM_THREADS": 1},
    "as they come": dask.config.get(BEFORE_WORKERS),
}
"""The environment of Dask's workers. By its own, glibc gives freed memory back at once; Dask leaves
it set in this process too, so it comes last."""


def setup_collect(
    architecture: str, tiny: bool, pairs: int, length: int, bare: bool
) -> Callable[[], Any]:
    """Set up means of pairs at all layers, or (`bare`) the limit over the same passes; warm."""
    torch.set_num_threads(1)
    shape = shapes.shape(architecture, tiny)
    model = shapes.build(shape, "bridge")
    few = equal_pairs(shape, 2, length)
    collecting.found(model, few, range(shape.n_layers))()
    both = equal_pairs(shape, pairs, length)
    if not bare:
        return collecting.found(model, both, range(shape.n_layers))
    rows = torch.tensor([*both.positive, *both.negative])
    return partial(limit, model, rows.split(1024 // length), shape.n_layers - 1)


def memory(tiny: bool) -> Iterator[Row]:
    """Peak of resident memory above the loaded model, collecting means at all layers."""
    few, many, length = (2, 8, 4) if tiny else (256, 4096, 8)
    target = "benchmarks.growth:setup_collect"
    shape = shapes.shape("gpt2", tiny)
    given = {"architecture": "gpt2", "tiny": tiny, "length": length}
    used = {n: peak(target, bare=False, pairs=n, **given) for n in (few, many)}
    bare = _rise(peak(target, bare=True, pairs=many, **given))
    what = f"{shape.name}, bridge"
    for n in (few, many):
        yield Row(f"{what}: {n:,} pairs of {length} tokens", Figure(_rise(used[n])), unit="MB")
    yield Row(f"{what}: bare forward passes of as many", Figure(bare), unit="MB")
    times = f"{what}: peak of the process, {many:,} pairs / {few}"
    yield Row(times, Figure(used[many].peak / used[few].peak), Goal(1.05))
    more = Figure(max(0.0, _rise(used[many]) - bare))
    yield Row(f"{what}: more than the bare forward pass", more, Goal(40), unit="MB")
    for who in ("SteerLens", "bare"):
        hoarded = peak(target, hoarding=True, bare=who == "bare", pairs=many, **given)
        label = f"{what}: {who}, as glibc keeps freed memory by default"
        yield Row(label, Figure(_rise(hoarded)), unit="MB")
    if not tiny:
        yield from _beside_peers()


def _beside_peers(pairs: int = 64, length: int = 32) -> Iterator[Row]:
    """Yield the rise of everybody's memory on the same pairs, each as it comes."""
    shape = shapes.shape("gpt2", False)
    given = {"architecture": "gpt2", "tiny": False, "length": length, "pairs": pairs}
    ours = peak("benchmarks.growth:setup_collect", bare=False, **given)
    yield Row(f"SteerLens, {pairs} pairs of {length} tokens", Figure(_rise(ours)), unit="MB")
    for peer, function in peers.RUNS.items():
        batch = 32 if peer == "repeng" else 1  # their defaults
        theirs = peak(
            f"benchmarks.peers:{function}",
            peers.environment(peer),
            folder=str(shapes.folder(shape)),
            pairs=equal_pairs(shape, pairs, length).texts,
            layers=list(range(shape.n_layers)),
            batch_size=batch,
        )
        yield Row(f"{peer}, the same", Figure(_rise(theirs)), unit="MB", note=f"batches of {batch}")
        goal = Goal(0.2) if peer == "repeng" else None
        yield Row(f"SteerLens / {peer}", Figure(_rise(ours) / _rise(theirs)), goal)


def _rise(used: Any) -> float:
    return float(used.peak - used.before)


def fitting(tiny: bool) -> Iterator[Row]:
    """Fitting a finder at every layer beside collecting what it is fitted on."""
    n, length, rounds = (4, 4, 2) if tiny else (500, 8, 3)
    shape = shapes.shape("gpt2", tiny)
    model = shapes.build(shape, "bridge")
    pairs = equal_pairs(shape, n, length)
    sides = [[list(row) for row in side] for side in (pairs.positive, pairs.negative)]
    read = partial(collect_sides, model, sides, progress=False)
    found = read()

    def fit(finder: str) -> None:
        for name in found[0]:
            oriented(FINDERS[finder], *(side.examples[name] for side in found))

    finders = ("pca", "probe", "whitened")
    seconds = interleaved({"collect": read, **{f: partial(fit, f) for f in finders}}, rounds)
    for finder in finders:
        cost = ratio(seconds[finder], seconds["collect"])
        goal = None if finder == "whitened" else Goal(0.1)
        yield Row(f"{shape.name}: {finder} of {2 * n:,} examples / collecting", cost, goal)


def growth(tiny: bool) -> Iterator[Row]:
    """Time a token and memory while collecting grows a thousandfold, on Steerling."""
    model, length = _steerling(), 8
    counts = (1, 4) if tiny else (4, 40, 400, 4000)
    for count in counts:
        texts = _steerling_texts(model, count, length)
        read = partial(sl.collect, model, texts, progress=False, max_examples=0)
        [seconds] = interleaved({"collect": read}, 1 if tiny else 3).values()
        used = peak("benchmarks.growth:setup_growth", count=count, length=length)
        tokens = count * length
        each = sorted(seconds)[len(seconds) // 2] / tokens * 1e6
        yield Row(f"{tokens:,} tokens: a token", Figure(each), unit="µs")
        yield Row(f"{tokens:,} tokens: peak of the process", Figure(used.peak), unit="MB")


def _steerling_texts(model: Any, count: int, length: int) -> Ids:
    drawn = torch.randint(
        8, model.cfg.d_vocab, (count, length), generator=torch.Generator().manual_seed(0)
    )
    return [row.tolist() for row in drawn]


def setup_growth(count: int, length: int) -> Callable[[], Any]:
    """Set up a collection on Steerling; warm."""
    model = _steerling()
    texts = _steerling_texts(model, count, length)
    sl.collect(model, texts[:2], progress=False, max_examples=0)
    return partial(sl.collect, model, texts, progress=False, max_examples=0)


def part_collected(texts: Ids) -> Activations:
    """Collect some texts on Steerling, in whatever process this is."""
    return sl.collect(_steerling(), [list(row) for row in texts], progress=False)


@cache
def _steerling() -> Any:
    from steerlens.demo import load_model

    torch.set_num_threads(1)
    return load_model()


def collected_by(executor: Executor, texts: Ids, workers: int) -> Activations:
    """Return what several workers collect of one part each, merged in their order."""
    size = -(-len(texts) // workers)
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    first, *rest = executor.map(part_collected, parts)
    for part in rest:
        first = first.merged(part)
    return first


def workers(tiny: bool) -> Iterator[Row]:
    """The same work done by two processes, beside one: wall seconds."""
    count, rounds = (4, 1) if tiny else (4000, 3)
    texts = _steerling_texts(_steerling(), count, 8)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = {
            "one": partial(part_collected, texts),
            "two": partial(collected_by, pool, texts, 2),
        }
        seconds = interleaved(runs, rounds, wall=True)
    speed = ratio(seconds["one"], seconds["two"])
    yield Row("Steerling: one process / two, collecting", speed, note="the machine has two cores")
    for label, environment in DASK.items():
        with dask.config.set({BEFORE_WORKERS: environment}):
            speed = _beside_dask(tiny, rounds)
        yield Row(f"Steerling: one process / two of Dask's {label}, a sweep of 8 cells", speed)


def _beside_dask(tiny: bool, rounds: int) -> Figure:
    swept = partial(sweep, part_swept, grid(tiny), progress=False)
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            runs = {"one": swept, "dask": partial(swept, executor=client.get_executor())}
            seconds = interleaved(runs, rounds, wall=True)
    return ratio(seconds["one"], seconds["dask"])


def grid(tiny: bool) -> dict[str, list[int]]:
    """Return the cells of a sweep."""
    return {"seed": list(range(8)), "count": [4 if tiny else 1000]}


def part_swept(seed: int, count: int) -> dict[str, float]:
    """One cell: the length of a direction between two random sets of texts on Steerling."""
    rows = torch.randint(
        8, _steerling().cfg.d_vocab, (count, 8), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    contrast = sl.Contrast(positive=rows[: count // 2], negative=rows[count // 2 :])
    found = sl.find_directions(_steerling(), contrast, quality=False, progress=False)
    return {"length": float(found["resid_post", 2].vector.norm())}
