"""Reading: one streamed pass over items, moments that merge, a bounded sample of examples.

Nothing here grows with the number of items but the examples, and those are bounded.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import count
from steerlens.errors import BadInputError
from steerlens.host import (
    HookNames,
    Host,
    check_by_token,
    device_of,
    hook_names,
    warn_of_dropout,
)
from steerlens.moments import Moments, merge
from steerlens.names import Key, at_hook
from steerlens.passes import hooked
from steerlens.positions import Positions
from steerlens.prefixes import pass_room
from steerlens.reading import Passages, Picks, Reader, Reading, columns_of
from steerlens.sharing import Stretch, carry_out, planned
from steerlens.text import Batch, Item


@dataclass(frozen=True)
class Activations(Mapping[str, Moments]):
    """What `collect` read: moments at each hook point, and examples to fit on.

    `activations["resid_post", 3]` are moments; `.examples["blocks.3.hook_resid_post"]` has shape
    (n, *unit), float32 on the CPU, item by item in the order given; `.rows` tells which items.

    >>> read = collect(model, ["a good day", "a bad day"], progress=False)
    >>> read["resid_post", 2].mean.shape == read.examples["blocks.2.hook_resid_post"].shape[1:]
    True
    """

    moments: dict[str, Moments]
    norms: dict[str, Moments]
    """Moments of the tokens' norms (of the stream, at a residual hook point), an item each."""
    examples: dict[str, Float[Tensor, "n *unit"]]
    rows: tuple[int, ...]
    positions: str
    max_examples: int

    def __getitem__(self, key: Key) -> Moments:
        """Return the moments at a hook name, or at a (site, layer)."""
        return at_hook(self.moments, key, "reading")

    def __iter__(self) -> Iterator[str]:
        """Iterate over hook names."""
        return iter(self.moments)

    def __len__(self) -> int:
        """Return the number of hook points."""
        return len(self.moments)

    def merged(self, other: Activations) -> Activations:
        """Return both together: exact moments, and examples of each in proportion to its items."""
        if self.moments.keys() != other.moments.keys() or self.positions != other.positions:
            raise BadInputError("Only activations of the same hook points and positions merge.")
        mine, theirs = (next(iter(each.moments.values())).count for each in (self, other))
        share = round(self.max_examples * mine / (mine + theirs))
        first = _spaced(len(self.rows), share)
        second = _spaced(len(other.rows), self.max_examples - share)
        return Activations(
            {name: moments.merged(other[name]) for name, moments in self.moments.items()},
            {name: moments.merged(other.norms[name]) for name, moments in self.norms.items()},
            {
                name: torch.cat([x[first], other.examples[name][second]])
                for name, x in self.examples.items()
            },
            tuple(self.rows[i] for i in first) + tuple(mine + other.rows[i] for i in second),
            self.positions,
            self.max_examples,
        )

    def __repr__(self) -> str:
        """Return the size of what was read."""
        items = next(iter(self.moments.values())).count
        places = count(len(self), "hook point")
        return f"Activations({count(items, 'item')} at {places}, {self.positions})"


def collect(
    model: Host,
    items: Iterable[Item],
    hook_names: HookNames = "resid_post",
    positions: Positions | None = None,
    *,
    max_examples: int = 1024,
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Activations:
    """Read one vector an item at every hook point named, in one streamed pass.

    The vector is the mean over the positions picked: by default the completion's tokens where
    an item has a completion, else its last token. Moments cover all items; at most
    `max_examples` vectors a hook point are kept (a seeded sample), whose size the progress bar
    tells as soon as the first batch is read. A pass holds `batch_tokens`, padding among them: 1,024
    on a CPU and 4,096 on a GPU, unless they are given. It stops at the highest layer read. What
    items share at their beginning, before anything is read, is computed once where that is cheaper
    and no hook of anybody's is on.

    Raises BadInputError where positions pick nothing in an item or activations are not finite,
    UnknownNameError for a hook point the host lacks, HookError for one that never fired.

    >>> activations = collect(model, ["good day", "bad day"], "resid_post")
    >>> activations
    Activations(2 items at ... hook points, last_prompt_token)
    """
    [found] = collect_sides(
        model,
        [items],
        hook_names,
        positions,
        max_examples=max_examples,
        batch_tokens=batch_tokens,
        seed=seed,
        progress=progress,
    )
    return found


def collect_sides(
    model: Host,
    sides: Iterable[Iterable[Item]],
    hook_names: HookNames = "resid_post",
    positions: Positions | None = None,
    *,
    max_examples: int = 1024,
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Activations]:
    """Read several sets of items as `collect` reads one, in passes that they share.

    So a prompt that stands on both sides of a contrast is computed once. Raises as `collect` does.

    >>> one, other = collect_sides(model, [["a good day"], ["a bad day", "a day"]], progress=False)
    >>> one
    Activations(1 item at ... hook points, last_prompt_token)
    """
    names, batch_tokens = _names(model, hook_names), batch_tokens or pass_room(model)
    read = [_Side(model, items, positions, max_examples, seed) for items in sides]
    owners = [(side, row) for side in read for row in range(len(side))]
    texts = [text for side in read for text in side.encoded]
    columns = [each for side in read for each in side.columns(batch_tokens)]
    free = [int(each[0]) for each in columns]
    plan = planned(model, [side.encoded for side in read], free, batch_tokens)
    reader, device = Reader(names), device_of(model)
    bar = tqdm(
        total=len(texts), desc=f"reading {count(len(names), 'hook point')}", disable=not progress
    )

    def run(stretch: Stretch, batch: Batch, options: dict[str, Any]) -> None:
        ends = [] if stretch.then else [(i, n) for i, row in enumerate(stretch.rows) for n in row]
        picks = None
        if ends:
            places = [columns[number] - stretch.start for _, number in ends]
            picks = Picks.of([row for row, _ in ends], places, device)
        found = reader.run(model, batch, picks, options)
        for side in read:
            here = [i for i, (_, number) in enumerate(ends) if owners[number][0] is side]
            side.sink.add([owners[ends[i][1]][1] for i in here], _part(found, here, len(ends)))
        bar.set_postfix_str(f"examples {sum(s.sink.megabytes() for s in read):.0f} MB", False)
        bar.update(len(ends))

    warn_of_dropout(model)
    with bar, torch.no_grad(), hooked(model, reader.fwd_hooks):
        carry_out(model, texts, plan, run)
    return [side.sink.activations(repr(side.positions)) for side in read]


class _Side(Passages):
    """What is read of one set of items, and where it is kept."""

    def __init__(
        self,
        model: Host,
        items: Iterable[Item],
        positions: Positions | None,
        max_examples: int,
        seed: int,
    ) -> None:
        super().__init__(model, items, positions)
        self.sink = Sink(sampled(len(self), max_examples, seed), max_examples)

    def columns(self, batch_tokens: int) -> list[Int[Tensor, " _n"]]:
        """Return which columns of each item are read."""
        found: dict[int, Tensor] = {}
        for rows, _, mask in self.batches(batch_tokens):
            found.update(zip(rows, columns_of(mask), strict=True))
        return [found[row] for row in range(len(self))]


def _part(
    found: Mapping[str, Reading], rows: list[int], total: int
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Return some rows of every reading."""
    if len(rows) == total:
        return found
    return {name: (vectors[rows], norms[rows]) for name, (vectors, norms) in found.items()}


def _names(model: Host, names: HookNames) -> list[str]:
    found = hook_names(model, names)
    for name in found:
        check_by_token(name)
    return found


def _spaced(total: int, most: int) -> list[int]:
    """At most `most` of `total` rows, evenly spaced (they are a random sample already)."""
    return list(range(total)) if total <= most else [i * total // most for i in range(most)]


def sampled(total: int, most: int, seed: int) -> tuple[int, ...]:
    """Return at most `most` of `total` rows, a seeded random sample, in order."""
    if total <= most:
        return tuple(range(total))
    return tuple(sorted(random.Random(seed).sample(range(total), most)))


class Sink:
    """Moments of everything, and the examples at the rows to keep."""

    def __init__(self, kept: Sequence[int], max_examples: int) -> None:
        """Take the rows whose vectors are kept as examples."""
        self.moments: dict[str, Moments] = {}
        self.norms: dict[str, Moments] = {}
        self.examples: dict[str, Tensor] = {}
        self.kept = tuple(kept)
        self.max_examples = max_examples
        self.place = {row: i for i, row in enumerate(kept)}

    def add(self, rows: Sequence[int], readings: Mapping[str, Reading]) -> None:
        """Take what was read of some rows, by hook point."""
        if not rows or not readings:
            return
        here = [(i, self.place[row]) for i, row in enumerate(rows) if row in self.place]
        target = torch.tensor([place for _, place in here], dtype=torch.long)
        device = next(iter(readings.values()))[0].device
        source = torch.tensor([i for i, _ in here], dtype=torch.long, device=device)
        for name, (vectors, norms) in readings.items():
            merge(self.moments, name, Moments.of(vectors))
            merge(self.norms, name, Moments.of(norms))
            if name not in self.examples:
                self.examples[name] = torch.empty(len(self.kept), *vectors.shape[1:])
            if here:
                self.examples[name][target] = vectors[source.to(vectors.device)].cpu()

    def megabytes(self) -> float:
        """Return the size of the examples."""
        return sum(x.numel() for x in self.examples.values()) * 4 / 1e6

    def activations(self, positions: str) -> Activations:
        """Return all that was read. Raises BadInputError where it is not finite."""
        found = {name: moments.cpu() for name, moments in self.moments.items()}
        norms = {name: moments.cpu() for name, moments in self.norms.items()}
        for name, moments in found.items():
            if not torch.isfinite(moments.mean).all():
                raise BadInputError(
                    f"The activations at {name!r} are not finite (NaN or infinity). The model "
                    "overflows on these items, often in float16: load it in bfloat16 or float32."
                )
        return Activations(found, norms, self.examples, self.kept, positions, self.max_examples)
