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
    """One call of a `generate` method."""

    prompt_lengths: Tensor | None = None


class Clock:
    """Follows a host's passes and tells, for the current one, the `Window` of its tokens.

    Cost a pass: one small cumulative sum, and one evaluation of each distinct selector.
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
        self.picked: dict[Selector, Tensor] = {}
        """Whether each selector has picked any token yet."""
        self._declared = prompt_lengths
        self._told_real: Tensor | None = None
        self._window: Window | None = None
        self._masks: dict[Selector, Mask] = {}
        self._tokens: Int[Tensor, "batch total"] | None = None
        self._real: Bool[Tensor, "batch total"] | None = None
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
        assert self._real is not None
        return self._real

    def where(self, selector: Selector) -> Mask:
        """Return the positions that `selector` picks in this pass, pads left out."""
        if selector not in self._masks:
            window = self.window
            mask = selector(window)
            if mask.dtype != torch.bool or mask.shape != window.real.shape:
                raise BadInputError(
                    f"Positions {selector!r} gave {mask.dtype} of shape {tuple(mask.shape)}; they "
                    f"give True or False a token, of shape {tuple(window.real.shape)}."
                )
            mask = mask & window.real
            self._masks[selector] = mask
            seen = self.picked.get(selector)
            self.picked[selector] = mask.any() if seen is None else seen | mask.any()
        return self._masks[selector]

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
        total = past + width
        self._unseen = past > (0 if self._tokens is None else self._tokens.shape[1])
        self._tokens = _appended(self._tokens, tokens, total)
        self._real = self._reality(attention_mask, total, rows, device)
        self.start = past
        counts = self._real.int().cumsum(1)
        self._window = Window(
            index=torch.where(self._real, counts - 1, -1)[:, past:],
            opens_with_bos=self._opens_with_bos(rows, device),
            tokens=None if self._tokens is None else self._tokens[:, past:],
            prompt_lengths=self._prompt_lengths(counts[:, -1], past),
            model=self.model,
            text=self.text,
            start=past,
            history=self._tokens,
            cache=self._cache,
            history_real=self._real,
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
    ) -> Bool[Tensor, "batch total"]:
        """Pads as told, else from the host's mask, else from runs of pad ids."""
        if self._told_real is not None and self._told_real.shape == (rows, total):
            return self._told_real.to(device)
        if attention_mask is not None:
            if attention_mask.shape != (rows, total):
                raise BadInputError(
                    f"The attention mask has shape {tuple(attention_mask.shape)} and the pass "
                    f"{(rows, total)}, cached tokens included. Give one of that shape, or none."
                )
            return attention_mask.to(device).bool()
        before = self._real
        if before is not None and before.shape[0] == rows and before.shape[1] <= total:
            more = torch.ones(rows, total - before.shape[1], dtype=torch.bool, device=device)
            return torch.cat([before, more], 1)
        if before is not None and before.shape[0] == rows:
            return before[:, :total]
        real = torch.ones(rows, total, dtype=torch.bool, device=device)
        if self._tokens is None or rows == 1:
            return real
        return real & ~padding(
            self._tokens, token_id(self.model, "pad"), token_id(self.model, "bos")
        )

    def _opens_with_bos(self, rows: int, device: torch.device) -> Bool[Tensor, " batch"] | None:
        if self._tokens is None:
            return None
        bos = token_id(self.model, "bos")
        if bos is None:
            return torch.zeros(rows, dtype=torch.bool, device=device)
        first = self._tokens.gather(1, self.real.int().argmax(1, keepdim=True))
        return None if self._unseen else (first == bos).squeeze(1)

    def _prompt_lengths(self, counts: Tensor, past: int) -> Int[Tensor, " batch"] | None:
        if self.generation is not None:
            if self.generation.prompt_lengths is None:
                self.generation.prompt_lengths = counts
            return self.generation.prompt_lengths
        if self._declared is not None:
            if len(self._declared) != len(counts):
                raise BadInputError(
                    f"{len(self._declared)} prompt_lengths were given for a batch of "
                    f"{len(counts)} rows; give one a row."
                )
            return self._declared.to(counts.device)
        return None if past > 0 or self._tokens is None else counts

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
    missing = tokens.new_full((len(tokens), max(0, earlier - before.shape[1])), -1)
    return torch.cat([missing, before[:, :earlier], tokens], 1)
