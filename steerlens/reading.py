"""Reading in a pass: which tokens, the hooks that read them, and the end after the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from steerlens.clock import Clock
from steerlens.errors import BadInputError, HookError
from steerlens.host import FwdHooks, Host, by_token, device_of
from steerlens.passes import telling
from steerlens.positions import Mask, Positions, selector
from steerlens.prefixes import pass_room
from steerlens.text import Batch, Item, batches, encode_all

Reading = tuple[Float[Tensor, "item *unit"], Float[Tensor, " item"]]
"""Each item's mean vector, and the mean norm of its tokens."""


class Enough(Exception):  # noqa: N818 (a signal, not an error)
    """Every hook point wanted has been read: the rest of the pass is not needed."""


class Passages:
    """Items as tokens, and where each of them is read."""

    def __init__(
        self,
        model: Host,
        items: Iterable[Item],
        positions: Positions | None,
        use: str = "Reading needs",
    ) -> None:
        """Raise as `encode_all`, and where positions are not given and items do not tell them."""
        self.model = model
        self.encoded = encode_all(model, items, use)
        completed = all(len(item.tokens) > item.prompt_length for item in self.encoded)
        default = "generated" if completed else "last_prompt_token"
        some = any(len(item.tokens) > item.prompt_length for item in self.encoded)
        if positions is None and some and not completed:
            raise BadInputError(
                "Some items have a completion and some have none, so where to read is not "
                "clear. Give positions, for example 'predicting' or 'last_prompt_token'."
            )
        self.positions = selector(default if positions is None else positions)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.encoded)

    def batches(self, batch_tokens: int | None) -> Iterator[tuple[list[int], Batch, Mask]]:
        """Yield (rows, batch, which tokens are read), `batch_tokens` a pass or what fits one."""
        room, device = batch_tokens or pass_room(self.model), device_of(self.model)
        for rows, batch in batches(self.model, self.encoded, batch_tokens=room, device=device):
            yield rows, batch, self.mask(batch, rows)

    def mask(self, batch: Batch, rows: Sequence[int]) -> Mask:
        """Return which tokens are read. Raises BadInputError where an item has none."""
        clock = Clock(self.model, batch.prompt_lengths)
        clock.begin(batch.tokens, past=0, attention_mask=batch.real)
        mask = clock.where(self.positions)
        empty = (~mask.any(1)).nonzero().flatten().tolist()
        if empty:
            row = empty[0]
            raise BadInputError(
                f"Positions {self.positions!r} pick no token in item {rows[row]}, which has "
                f"{int(batch.real[row].sum())} tokens. Choose positions inside the text."
            )
        return mask


@dataclass(frozen=True)
class Picks:
    """The tokens of a pass to read, item by item: as many of each, some of them at weight 0."""

    rows: Int[Tensor, "item 1"]
    columns: Int[Tensor, "item most"]
    weights: Float[Tensor, "item most"]

    @classmethod
    def of(
        cls, rows: Sequence[int], columns: Sequence[Int[Tensor, " _n"]], device: torch.device
    ) -> Picks:
        """Take each item's row in the pass, and the columns to average over."""
        found = pad_sequence(list(columns), batch_first=True, padding_value=-1)
        real = found >= 0
        weights = real / real.sum(1, keepdim=True)
        filled = torch.where(real, found, found[:, :1])
        at = torch.tensor(rows)[:, None]
        return cls(at.to(device), filled.to(device), weights.to(device))

    def pooled(self, activation: Float[Tensor, "batch pos *unit"]) -> Reading:
        """Return, over each item's tokens, the mean activation and the mean norm."""
        device = activation.device
        weights = self.weights.to(device)
        picked = activation[self.rows.to(device), self.columns.to(device)].float()
        flat = picked.flatten(2) if picked.ndim > 2 else picked[..., None]
        norms = (weights * flat.norm(dim=-1)).sum(1)
        one = flat.shape[1] == 1
        means = flat[:, 0] if one else torch.einsum("im,imu->iu", weights, flat)
        return means.reshape(len(means), *activation.shape[2:]), norms


def pooled(
    activation: Float[Tensor, "batch pos *unit"], mask: Bool[Tensor, "batch pos"]
) -> Reading:
    """Return, over each row's positions in `mask`, the mean activation and the mean norm."""
    return Picks.of(range(len(mask)), columns_of(mask), activation.device).pooled(activation)


def columns_of(mask: Bool[Tensor, "batch pos"]) -> list[Int[Tensor, " _n"]]:
    """Return the columns picked in each row, on the CPU."""
    return [row.nonzero().flatten() for row in mask.cpu()]


class Reader:
    """Hooks that read in several passes, and end each pass when all of them have fired."""

    def __init__(self, names: Sequence[str]) -> None:
        """Take the hook points to read at."""
        self.names = names
        self._picks: Picks | None = None
        self._tokens = torch.Size()
        self._fired: set[str] = set()
        self._found: dict[str, Reading] = {}

    @property
    def fwd_hooks(self) -> FwdHooks:
        """The hooks, to be entered once: on some hosts that costs as much as many tokens."""
        return [(name, self._hook(name)) for name in self.names]

    def _hook(self, name: str) -> Callable[..., None]:
        def read(activation: Tensor, hook: Any) -> None:
            if self._picks is not None:
                self._found[name] = self._picks.pooled(by_token(name, activation, self._tokens))
            self._fired.add(name)
            if len(self._fired) == len(self.names):
                raise Enough

        return read

    def run(
        self, model: Host, batch: Batch, picks: Picks | None, options: dict[str, Any]
    ) -> dict[str, Reading]:
        """Run one pass under the hooks; return what was picked, nothing without `picks`.

        Raises HookError where the pass did not reach a hook point.
        """
        self._picks, self._fired, self._found = picks, set(), {}
        self._tokens = batch.tokens.shape
        with telling(model, batch), suppress(Enough):
            model(batch.tokens, **options)
        missing = [name for name in self.names if name not in self._fired]
        if missing:
            raise HookError(
                f"The pass never reached hook point {missing[0]!r}; nothing was read there."
            )
        return self._found
