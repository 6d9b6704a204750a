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

from steerlens.continued import Text, Texts, appended
from steerlens.errors import BadInputError, HookError
from steerlens.host import Host, token_id
from steerlens.positions import Mask, Selector, Window, closing, padding


@dataclass
class Generation:
    """One call of a `generate` method: its first pass holds every prompt whole."""

    prompt_lengths: Tensor | None = None
    opens_with_bos: Tensor | None = None
    columns: int = 0
    """Of its first pass."""
    text: Text | None = None


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
        self.texts = Texts()
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
    def text(self) -> Text:
        """The current text: of a generation, or of a pass and those that continue it."""
        return self.texts.latest

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
        cache: object = None,
    ) -> None:
        """Open a pass over the columns from `past`; `tokens` are the last of them.

        `like` is any (batch, pos, ...) tensor of the pass, where tokens are unknown or fewer;
        `cache` the object that holds its keys and values, where there is one.
        """
        shaped = tokens if like is None else like
        if shaped is None:
            raise BadInputError("A pass needs its tokens, or a tensor of its shape.")
        rows, width, device = shaped.shape[0], shaped.shape[1], shaped.device
        text, self.start, total = self._text(cache, past), past, past + width
        self._unseen = past > (0 if text.tokens is None else text.tokens.shape[1])
        text.tokens = appended(text.tokens, tokens, total)
        decoded = self._mid_generation() and 0 < past == text.total and text.rows == rows
        if not decoded:
            text.real = self._reality(attention_mask, total, rows, device)
        text.total, text.rows = total, rows
        self.filled(cache)
        whole = tokens is None or tokens.shape[1] == width
        self._window = Window(
            index=self._decoded() if decoded else self._index(rows, device),
            opens_with_bos=self._opens_with_bos(rows, device),
            tokens=tokens if whole or text.tokens is None else text.tokens[:, past:],
            prompt_lengths=self._prompt_lengths(rows, past, device),
            model=self.model,
            kept=text.kept,
            start=past,
            history=text.tokens,
            cache=self._cache,
            history_real=text.real,
            decoded=decoded,
        )
        self._masks = {}
        self.serial += 1

    def filled(self, cache: object) -> None:
        """Say that a cache holds the current text so far; None where a pass keeps none."""
        if cache is not None:
            self.texts.bind(cache, self.text)

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

    def _text(self, cache: object, past: int) -> Text:
        """The text that a pass belongs to: its generation's, a new one, or its cache's."""
        generation = self.generation
        if generation is not None and generation.text is not None and self._mid_generation():
            text = self.texts.at(generation.text, past)
        else:
            text = self.texts.going_on(cache, past) if past else self.texts.new()
        if generation is not None:
            generation.text = text
        self.texts.latest = text
        return text

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
        text, real, pad = self.text, None, token_id(self.model, "pad")
        continued = text.total and text.rows == rows
        if continued and text.real is not None:
            more = text.real.new_ones(rows, max(0, total - text.real.shape[1]))
            real = torch.cat([text.real[:, :total], more], 1)
        if text.tokens is None or rows == 1 or (continued and self.generation is not None):
            return real
        if not continued:
            return ~padding(text.tokens, pad, token_id(self.model, "bos"))
        here = ~closing(text.tokens, pad)
        here[:, : self.start] = True
        return here if real is None else real & here

    def _decoded(self) -> Int[Tensor, "batch pos"]:
        """Each generated token's index: what `generate` appends is real, in every row."""
        assert self.generation is not None
        assert self.generation.prompt_lengths is not None
        first = self.generation.prompt_lengths[:, None] + (self.start - self.generation.columns)
        width = self.text.total - self.start
        return first if width == 1 else first + torch.arange(width, device=first.device)

    def _index(self, rows: int, device: torch.device) -> Int[Tensor, "batch pos"]:
        """Each new token's index among its row's real ones, -1 at pads."""
        if self.text.real is None:
            return torch.arange(self.start, self.text.total, device=device).expand(rows, -1)
        counts, real = self.text.real.cumsum(1), self.text.real
        if self.start:
            counts, real = counts[:, self.start :], real[:, self.start :]
        return counts * real - 1

    def _opens_with_bos(self, rows: int, device: torch.device) -> Bool[Tensor, " batch"] | None:
        if self.text.tokens is None:
            return None
        if self.generation is not None and self.generation.opens_with_bos is not None:
            return self.generation.opens_with_bos
        bos = token_id(self.model, "bos")
        if bos is None:
            return torch.zeros(rows, dtype=torch.bool, device=device)
        if self._unseen:
            return None
        opening = self.text.tokens[:, :1]
        if self.text.real is not None:
            opening = self.text.tokens.gather(1, self.text.real.int().argmax(1, keepdim=True))
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
                self.generation.columns = self.text.total
            return self.generation.prompt_lengths
        if self._declared is not None:
            if len(self._declared) != rows:
                raise BadInputError(
                    f"{len(self._declared)} prompt_lengths were given for a batch of "
                    f"{rows} rows; give one a row."
                )
            return self._declared.to(device)
        return None if past > 0 or self.text.tokens is None else self._counts(rows, device)

    def _counts(self, rows: int, device: torch.device) -> Int[Tensor, " batch"]:
        """Real tokens of each row so far."""
        if self.text.real is None:
            return torch.full((rows,), self.text.total, device=device)
        return self.text.real.sum(1)

    @contextmanager
    def generating(self, generation: Generation) -> Iterator[None]:
        """Mark passes as belonging to one generation."""
        outer, self.generation = self.generation, generation
        try:
            yield
        finally:
            self.generation = outer
