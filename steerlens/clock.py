"""The clock: which token stands where in its text, in every pass a host makes.

Neither host tells a hook about tokens, pads or cached keys. `passes.py` listens where they
can be seen and opens each pass here; the clock keeps, for each row, how many real tokens
came before, and answers where each token stands and which ones a selector picks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.errors import BadInputError, HookError
from steerlens.host import Host, token_id
from steerlens.positions import Mask, Selector, Window, padding


@dataclass
class Generation:
    """One call of a `generate` method: its first pass holds every prompt whole."""

    prompt_lengths: Tensor | None = None
    opens_with_bos: Tensor | None = None
    columns: int = 0
    """Of its first pass."""


class Ever:
    """Whether any of many tensors held anything but 0; a device is asked at the end alone."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._found = False
        self._kept: list[Tensor] = []

    def add(self, values: Tensor) -> None:
        """Take one more tensor."""
        if self._found:
            return
        self._kept.append(values)
        if values.is_cpu:
            self._found, self._kept = bool(self), []
        elif len(self._kept) >= _UNASKED:
            self._kept = [self._any()]

    def _any(self) -> Tensor:
        return torch.stack([each.any() for each in self._kept]).any()

    def __bool__(self) -> bool:
        """Return whether any did."""
        return self._found or (bool(self._kept) and bool(self._any()))


_UNASKED = 64


class Clock:
    """Follows a host's passes and tells, for the current one, the `Window` of its tokens.

    Cost a pass: one small cumulative sum (none where every token is real or generated), and one
    evaluation of each distinct selector.
    """

    def __init__(self, model: Host, prompt_lengths: Int[Tensor, " batch"] | None = None) -> None:
        """Start before the first pass."""
        self.model = model
        self.text = -1
        """Number of the current text (a generation, or a pass and those that continue it)."""
        self.start = 0
        """Column at which the current pass begins in its text."""
        self.serial = 0
        """Number of passes begun."""
        self.reached: dict[int, int] = {}
        """The latest pass that ran each watched layer."""
        self.picked: dict[Selector, Ever] = {}
        """Whether each selector has picked any token yet."""
        self._declared = prompt_lengths
        self._told_real: Tensor | None = None
        self._window: Window | None = None
        self._masks: dict[int, tuple[Selector, Mask]] = {}
        self._tokens: Int[Tensor, "batch total"] | None = None
        self._real: Bool[Tensor, "batch known"] | None = None
        """Where there are pads; None where there are none. Columns past its end are real."""
        self._total = self._rows = 0
        self.generation: Generation | None = None
        """The generation under way."""
        self._unseen = False
        self._cache: dict[Any, Any] = {}

    @property
    def window(self) -> Window:
        """The tokens of the pass under way."""
        if self._window is None:
            raise HookError(
                "A steered layer ran in a pass whose beginning the clock did not see. Passes that "
                "start in the middle of the model (start_at_layer) cannot be steered."
            )
        return self._window

    @property
    def tokens(self) -> Int[Tensor, "batch total"] | None:
        """Every token id of the current text so far."""
        return self._tokens

    @property
    def real(self) -> Bool[Tensor, "batch total"]:
        """True at tokens and False at pads, for the current text so far."""
        return self.window.real_so_far

    def where(self, selector: Selector) -> Mask:
        """Return the positions that `selector` picks in this pass, pads left out."""
        known = self._masks.get(id(selector))  # equal ones are worked out twice: hashing costs more
        if known is None:
            window = self.window
            mask = selector(window)
            if mask.dtype != torch.bool or mask.shape != window.real.shape:
                raise BadInputError(
                    f"Positions {selector!r} gave {mask.dtype} of shape {tuple(mask.shape)}; they "
                    f"give True or False a token, of shape {tuple(window.real.shape)}."
                )
            mask = mask if mask is window.real else mask & window.real
            self._masks[id(selector)] = known = selector, mask
            self.picked.setdefault(selector, Ever()).add(mask)
        return known[1]

    def begin(
        self,
        tokens: Int[Tensor, "batch new"] | None,
        past: int = 0,
        attention_mask: Tensor | None = None,
        *,
        like: Tensor | None = None,
    ) -> None:
        """Open a pass over the columns from `past`; `tokens` are the last of them.

        `like` is any (batch, pos, ...) tensor of the pass, where tokens are unknown or fewer.
        """
        shaped = tokens if like is None else like
        if shaped is None:
            raise BadInputError("A pass needs its tokens, or a tensor of its shape.")
        rows, width, device = shaped.shape[0], shaped.shape[1], shaped.device
        if self.text < 0 or not (past > 0 or self._mid_generation()):
            self.text += 1
            self._tokens = self._real = None
            self._total = 0
        total = past + width
        self._unseen = past > (0 if self._tokens is None else self._tokens.shape[1])
        self._tokens = _appended(self._tokens, tokens, total)
        decoded = self._mid_generation() and 0 < past == self._total and self._rows == rows
        if not decoded:
            self._real = self._reality(attention_mask, total, rows, device)
        self.start, self._total, self._rows = past, total, rows
        whole = tokens is None or tokens.shape[1] == width
        self._window = Window(
            index=self._decoded() if decoded else self._index(rows, device),
            opens_with_bos=self._opens_with_bos(rows, device),
            tokens=tokens if whole or self._tokens is None else self._tokens[:, past:],
            prompt_lengths=self._prompt_lengths(rows, past, device),
            model=self.model,
            text=self.text,
            start=past,
            history=self._tokens,
            cache=self._cache,
            history_real=self._real,
            decoded=decoded,
        )
        self._masks = {}
        self.serial += 1

    @contextmanager
    def told(self, prompt_lengths: Tensor, real: Tensor) -> Iterator[None]:
        """Take prompt lengths and pads as given, for passes whose caller knows them."""
        before = self._declared, self._told_real
        self._declared, self._told_real = prompt_lengths, real
        try:
            yield
        finally:
            self._declared, self._told_real = before

    def _mid_generation(self) -> bool:
        return self.generation is not None and self.generation.prompt_lengths is not None

    def _reality(
        self, attention_mask: Tensor | None, total: int, rows: int, device: torch.device
    ) -> Bool[Tensor, "batch total"] | None:
        """Pads as told, else from the host's mask, else from runs of pad ids; None without any."""
        if self._told_real is not None and self._told_real.shape == (rows, total):
            return self._told_real.to(device)
        if attention_mask is not None:
            if attention_mask.shape != (rows, total):
                raise BadInputError(
                    f"The attention mask has shape {tuple(attention_mask.shape)} and the pass "
                    f"{(rows, total)}, cached tokens included. Give one of that shape, or none."
                )
            return attention_mask.to(device).bool()
        continued = self._total and self._rows == rows
        if continued and self._real is not None:
            more = self._real.new_ones(rows, max(0, total - self._real.shape[1]))
            return torch.cat([self._real[:, :total], more], 1)
        if continued or self._tokens is None or rows == 1:
            return None
        return ~padding(self._tokens, token_id(self.model, "pad"), token_id(self.model, "bos"))

    def _decoded(self) -> Int[Tensor, "batch pos"]:
        """Each generated token's index: what `generate` appends is real, in every row."""
        assert self.generation is not None
        assert self.generation.prompt_lengths is not None
        first = self.generation.prompt_lengths[:, None] + (self.start - self.generation.columns)
        width = self._total - self.start
        return first if width == 1 else first + torch.arange(width, device=first.device)

    def _index(self, rows: int, device: torch.device) -> Int[Tensor, "batch pos"]:
        """Each new token's index among its row's real ones, -1 at pads."""
        if self._real is None:
            return torch.arange(self.start, self._total, device=device).expand(rows, -1)
        counts, real = self._real.cumsum(1), self._real
        if self.start:
            counts, real = counts[:, self.start :], real[:, self.start :]
        return counts * real - 1

    def _opens_with_bos(self, rows: int, device: torch.device) -> Bool[Tensor, " batch"] | None:
        if self._tokens is None:
            return None
        if self.generation is not None and self.generation.opens_with_bos is not None:
            return self.generation.opens_with_bos
        bos = token_id(self.model, "bos")
        if bos is None:
            return torch.zeros(rows, dtype=torch.bool, device=device)
        if self._unseen:
            return None
        opening = self._tokens[:, :1]
        if self._real is not None:
            opening = self._tokens.gather(1, self._real.int().argmax(1, keepdim=True))
        opens = (opening == bos).squeeze(1)
        if self.generation is not None:
            self.generation.opens_with_bos = opens
        return opens

    def _prompt_lengths(
        self, rows: int, past: int, device: torch.device
    ) -> Int[Tensor, " batch"] | None:
        if self.generation is not None:
            if self.generation.prompt_lengths is None:
                self.generation.prompt_lengths = self._counts(rows, device)
                self.generation.columns = self._total
            return self.generation.prompt_lengths
        if self._declared is not None:
            if len(self._declared) != rows:
                raise BadInputError(
                    f"{len(self._declared)} prompt_lengths were given for a batch of "
                    f"{rows} rows; give one a row."
                )
            return self._declared.to(device)
        return None if past > 0 or self._tokens is None else self._counts(rows, device)

    def _counts(self, rows: int, device: torch.device) -> Int[Tensor, " batch"]:
        """Real tokens of each row so far."""
        if self._real is None:
            return torch.full((rows,), self._total, device=device)
        return self._real.sum(1)

    @contextmanager
    def generating(self, generation: Generation) -> Iterator[None]:
        """Mark passes as belonging to one generation."""
        outer, self.generation = self.generation, generation
        try:
            yield
        finally:
            self.generation = outer


def _appended(before: Tensor | None, tokens: Tensor | None, total: int) -> Tensor | None:
    """Tokens so far, ending in the new ones; -1 (no token) where a cache was filled unseen."""
    if tokens is None:
        return None
    earlier = total - tokens.shape[1]
    if earlier <= 0:
        return tokens[:, -total:]
    if before is None or len(before) != len(tokens):
        before = tokens.new_full((len(tokens), 0), -1)
    if before.shape[1] == earlier:
        return torch.cat([before, tokens], 1)
    missing = tokens.new_full((len(tokens), max(0, earlier - before.shape[1])), -1)
    return torch.cat([missing, before[:, :earlier], tokens], 1)
