"""Reading: one streamed pass over items, moments that merge, a bounded sample of examples.

Nothing here grows with the number of items but the examples, and those are bounded.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import count
from steerlens.clock import Clock
from steerlens.errors import BadInputError, HookError
from steerlens.host import FwdHooks, HookNames, Host, check_by_token, device_of, hook_names
from steerlens.moments import Moments, merge
from steerlens.passes import telling
from steerlens.positions import Mask, Positions, selector
from steerlens.text import Batch, Encoded, Item, batches, encode


class Enough(Exception):  # noqa: N818 (a signal, not an error)
    """Every hook point wanted has been read: the rest of the pass is not needed."""


@dataclass(frozen=True)
class Activations(Mapping[str, Moments]):
    """What `collect` read: moments at each hook point, and examples to fit on.

    `activations["blocks.3.hook_resid_post"]` are moments; `.examples[...]` has shape
    (n, *unit), float32 on the CPU, item by item in the order given; `.rows` tells which items.
    """

    moments: dict[str, Moments]
    norms: dict[str, Moments]
    """Moments of the tokens' norms (of the stream, at a residual hook point), an item each."""
    examples: dict[str, Float[Tensor, "n *unit"]]
    rows: tuple[int, ...]
    positions: str
    max_examples: int

    def __getitem__(self, name: str) -> Moments:
        """Return the moments at a hook point."""
        return self.moments[name]

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
    items: Sequence[Item],
    hook_names: HookNames = "resid_post",
    positions: Positions | None = None,
    *,
    max_examples: int = 1024,
    batch_tokens: int = 4096,
    seed: int = 0,
    progress: bool = True,
) -> Activations:
    """Read one vector an item at every hook point named, in one streamed pass.

    The vector is the mean over the positions picked: by default the completion's tokens where
    an item has a completion, else its last token. Moments cover all items; at most
    `max_examples` vectors a hook point are kept (a seeded sample), whose size the progress bar
    tells as soon as the first batch is read. The pass stops at the highest layer read.

    Raises BadInputError where positions pick nothing in an item or activations are not finite,
    UnknownNameError for a hook point the host lacks, HookError for one that never fired.

    >>> activations = collect(model, ["good day", "bad day"], "resid_post")
    >>> activations
    Activations(2 items at ... hook points, last_prompt_token)
    """
    if isinstance(items, str) or len(items) == 0:
        raise BadInputError(f"collect needs a list of one item or more; got {items!r}.")
    names = _names(model, hook_names)
    encoded = [encode(model, item) for item in items]
    picker = Picker(positions, encoded)
    kept = sampled(len(items), max_examples, seed)
    sink = Sink(kept, max_examples)
    device = device_of(model)
    bar = tqdm(
        total=len(items), desc=f"reading {count(len(names), 'hook point')}", disable=not progress
    )
    with bar, torch.no_grad():
        for rows, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device):
            sink.add(rows, _read(model, names, batch, picker.mask(model, batch, rows)))
            bar.set_postfix_str(f"examples {sink.megabytes():.0f} MB", refresh=False)
            bar.update(len(rows))
    return sink.activations(repr(picker))


def _names(model: Host, names: HookNames) -> list[str]:
    found = list(dict.fromkeys(hook_names(model, names)))
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


class Picker:
    """Turns positions into a mask over a padded batch of whole items."""

    def __init__(self, positions: Positions | None, encoded: Sequence[Encoded]) -> None:
        """Raise BadInputError where positions are not given and items do not tell them."""
        completed = all(len(item.tokens) > item.prompt_length for item in encoded)
        default = "generated" if completed else "last_prompt_token"
        some = any(len(item.tokens) > item.prompt_length for item in encoded)
        if positions is None and some and not completed:
            raise BadInputError(
                "Some items have a completion and some have none, so where to read is not "
                "clear. Give positions, for example 'predicting' or 'last_prompt_token'."
            )
        self.selector = selector(default if positions is None else positions)

    def __repr__(self) -> str:
        return repr(self.selector)

    def mask(self, model: Host, batch: Batch, rows: Sequence[int]) -> Mask:
        """Return which tokens are picked. Raises BadInputError where an item has none."""
        clock = Clock(model, batch.prompt_lengths)
        clock.begin(batch.tokens, past=0, attention_mask=batch.real)
        mask = clock.where(self.selector)
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            row = empty[0]
            raise BadInputError(
                f"Positions {self!r} pick no token in item {rows[row]}, which has "
                f"{int(batch.real[row].sum())} tokens. Choose positions inside the text."
            )
        return mask


Reading = tuple[Float[Tensor, "batch *unit"], Float[Tensor, " batch"]]
"""Each row's mean vector, and the mean norm of its tokens."""


def _read(model: Host, names: Sequence[str], batch: Batch, mask: Mask) -> dict[str, Reading]:
    """Run one pass with a reading hook at each name; stop when all have been read."""
    readings: dict[str, Reading] = {}

    def reader(name: str) -> Callable[..., None]:
        def read(activation: Tensor, hook: Any) -> None:
            readings[name] = pooled(activation, mask)
            if len(readings) == len(names):
                raise Enough

        return read

    fwd_hooks: FwdHooks = [(name, reader(name)) for name in names]
    with telling(model, batch), model.hooks(fwd_hooks=fwd_hooks), suppress(Enough):
        model(batch.tokens)
    missing = [name for name in names if name not in readings]
    if missing:
        raise HookError(
            f"The pass never reached hook point {missing[0]!r}; nothing was read there."
        )
    return readings


def pooled(
    activation: Float[Tensor, "batch pos *unit"], mask: Bool[Tensor, "batch pos"]
) -> Reading:
    """Return, over each row's positions in `mask`, the mean activation and the mean norm."""
    mask = mask.to(activation.device)
    weight = mask.float() / mask.sum(1, keepdim=True)
    flat = rearrange(activation.float(), "batch pos ... -> batch pos (...)")
    flat = torch.where(mask[..., None], flat, 0)
    means = torch.einsum("bp,bpu->bu", weight, flat)
    norms = (weight * flat.norm(dim=-1)).sum(1)
    return means.reshape(len(mask), *activation.shape[2:]), norms


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
        here = [(i, self.place[row]) for i, row in enumerate(rows) if row in self.place]
        source = torch.tensor([i for i, _ in here], dtype=torch.long)
        target = torch.tensor([place for _, place in here], dtype=torch.long)
        for name, (vectors, norms) in readings.items():
            x = vectors.cpu()
            merge(self.moments, name, Moments.of(x))
            merge(self.norms, name, Moments.of(norms))
            if name not in self.examples:
                self.examples[name] = torch.empty(len(self.kept), *x.shape[1:])
            self.examples[name][target] = x[source]

    def megabytes(self) -> float:
        """Return the size of the examples."""
        return sum(x.numel() for x in self.examples.values()) * 4 / 1e6

    def activations(self, positions: str) -> Activations:
        """Return all that was read. Raises BadInputError where it is not finite."""
        for name, moments in self.moments.items():
            if not torch.isfinite(moments.mean).all():
                raise BadInputError(
                    f"The activations at {name!r} are not finite (NaN or infinity). The model "
                    "overflows on these items, often in float16: load it in bfloat16 or float32."
                )
        return Activations(
            self.moments, self.norms, self.examples, self.kept, positions, self.max_examples
        )
