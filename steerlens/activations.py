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
from steerlens.host import FwdHooks, HookNames, Host, device_of, hook_names
from steerlens.passes import telling
from steerlens.positions import Mask, Positions, selector
from steerlens.text import Batch, Encoded, Item, batches, encode


class _Enough(Exception):  # noqa: N818 (a signal, not an error)
    """Every hook point wanted has been read: the rest of the pass is not needed."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and spread of vectors at one hook point; two of them merge into one.

    >>> x = torch.randn(10, 4)
    >>> merged = Moments.of(x[:3]).merged(Moments.of(x[3:]))
    >>> bool(torch.allclose(merged.mean, Moments.of(x).mean))
    True
    """

    count: int
    mean: Float[Tensor, "*unit"]
    """In float64."""
    squares: Float[Tensor, "*unit"]
    """Sum of squared deviations from the mean, in float64."""
    norms: float
    """Sum of the vectors' norms, heads taken together."""

    @classmethod
    def of(cls, vectors: Float[Tensor, "n *unit"]) -> Moments:
        """Return the moments of some vectors, on the CPU."""
        x = vectors.double()
        mean = x.mean(0)
        norms = float(x.flatten(1).norm(dim=1).sum())
        return cls(len(x), mean.cpu(), ((x - mean) ** 2).sum(0).cpu(), norms)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub and LeVeque, 1979)."""
        total = self.count + other.count
        gap = other.mean - self.mean
        return Moments(
            total,
            self.mean + gap * (other.count / total),
            self.squares + other.squares + gap**2 * (self.count * other.count / total),
            self.norms + other.norms,
        )

    @property
    def variance(self) -> Float[Tensor, "*unit"]:
        """The unbiased variance of each entry."""
        return self.squares / max(1, self.count - 1)

    @property
    def mean_norm(self) -> float:
        """The mean norm of the vectors: of the stream, at a residual hook point."""
        return self.norms / max(1, self.count)


@dataclass(frozen=True)
class Activations(Mapping[str, Moments]):
    """What `collect` read: moments at each hook point, and examples to fit on.

    `activations["blocks.3.hook_resid_post"]` are moments; `.examples[...]` has shape
    (n, *unit), float32 on the CPU, item by item in the order given; `.rows` tells which items.
    """

    moments: dict[str, Moments]
    examples: dict[str, Float[Tensor, "n *unit"]]
    rows: tuple[int, ...]
    positions: str

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
        """Return both together, as if collected in one pass over all items."""
        if self.moments.keys() != other.moments.keys() or self.positions != other.positions:
            raise BadInputError("Only activations of the same hook points and positions merge.")
        shift = next(iter(self.moments.values())).count
        return Activations(
            {name: moments.merged(other[name]) for name, moments in self.moments.items()},
            {name: torch.cat([x, other.examples[name]]) for name, x in self.examples.items()},
            self.rows + tuple(shift + row for row in other.rows),
            self.positions,
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
    tells before it starts. The pass stops at the highest layer read.

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
    picker = _Picker(positions, encoded)
    kept = _sample(len(items), max_examples, seed)
    sink = _Sink(names, kept)
    device = device_of(model)
    bar = tqdm(
        total=len(items), desc=f"reading {count(len(names), 'hook point')}", disable=not progress
    )
    with bar, torch.no_grad():
        for rows, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device):
            vectors = _read(model, names, batch, picker.mask(model, batch, rows))
            sink.add(rows, vectors)
            bar.set_postfix_str(f"examples {sink.megabytes(vectors):.0f} MB", refresh=False)
            bar.update(len(rows))
    return sink.activations(repr(picker))


def _names(model: Host, names: HookNames) -> list[str]:
    return list(dict.fromkeys(hook_names(model, names)))


def _sample(total: int, most: int, seed: int) -> tuple[int, ...]:
    if total <= most:
        return tuple(range(total))
    return tuple(sorted(random.Random(seed).sample(range(total), most)))


class _Picker:
    """Turns positions into a mask over a padded batch of whole items."""

    def __init__(self, positions: Positions | None, encoded: Sequence[Encoded]) -> None:
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


def _read(
    model: Host, names: Sequence[str], batch: Batch, mask: Mask
) -> dict[str, Float[Tensor, "batch *unit"]]:
    """Run one pass with a reading hook at each name; stop when all have been read."""
    vectors: dict[str, Tensor] = {}

    def reader(name: str) -> Callable[..., None]:
        def read(activation: Tensor, hook: Any) -> None:
            vectors[name] = pooled(activation, mask)
            if len(vectors) == len(names):
                raise _Enough

        return read

    fwd_hooks: FwdHooks = [(name, reader(name)) for name in names]
    with telling(model, batch), model.hooks(fwd_hooks=fwd_hooks), suppress(_Enough):
        model(batch.tokens)
    missing = [name for name in names if name not in vectors]
    if missing:
        raise HookError(
            f"The pass never reached hook point {missing[0]!r}; nothing was read there."
        )
    return vectors


def pooled(
    activation: Float[Tensor, "batch pos *unit"], mask: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch *unit"]:
    """Return the mean of each row's activations over the positions in `mask`, in float32."""
    weight = mask.float() / mask.sum(1, keepdim=True)
    flat = rearrange(activation.float(), "batch pos ... -> batch pos (...)")
    flat = torch.where(mask[..., None], flat, 0)
    means = torch.einsum("bp,bpu->bu", weight, flat)
    return means.reshape(len(mask), *activation.shape[2:])


class _Sink:
    """Moments of everything, and the examples at the rows to keep."""

    def __init__(self, names: Sequence[str], kept: Sequence[int]) -> None:
        self.moments: dict[str, Moments] = {}
        self.examples: dict[str, Tensor] = {}
        self.kept = tuple(kept)
        self.place = {row: i for i, row in enumerate(kept)}

    def add(self, rows: Sequence[int], vectors: Mapping[str, Tensor]) -> None:
        here = [(i, self.place[row]) for i, row in enumerate(rows) if row in self.place]
        source = torch.tensor([i for i, _ in here], dtype=torch.long)
        target = torch.tensor([place for _, place in here], dtype=torch.long)
        for name, x in vectors.items():
            more = Moments.of(x)
            before = self.moments.get(name)
            self.moments[name] = more if before is None else before.merged(more)
            if name not in self.examples:
                self.examples[name] = torch.empty(len(self.kept), *x.shape[1:])
            self.examples[name][target] = x.cpu()[source]

    def megabytes(self, vectors: Mapping[str, Tensor]) -> float:
        return sum(x[0].numel() for x in vectors.values()) * len(self.kept) * 4 / 1e6

    def activations(self, positions: str) -> Activations:
        for name, moments in self.moments.items():
            if not torch.isfinite(moments.mean).all():
                raise BadInputError(
                    f"The activations at {name!r} are not finite (NaN or infinity). The model "
                    "overflows on these items, often in float16: load it in bfloat16 or float32."
                )
        return Activations(self.moments, self.examples, self.kept, positions)
