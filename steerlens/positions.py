"""Where in the text: selectors of token positions, one language for reading and writing.

A selector looks at a `Window`, the tokens of one pass with their absolute place in their
texts, and picks some. Positions are absolute and causal: a token's membership is fixed when
it is first computed, so a selector means the same in a full pass, under a KV cache, in a
padded batch and in `generate`. Pads are never picked; BOS only where it is asked for by
index, or is all the prompt there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.host import Host, need_tokenizer

Mask = Bool[Tensor, "batch pos"]


@dataclass(frozen=True)
class Window:
    """The tokens of one pass, placed in their texts."""

    index: Int[Tensor, "batch pos"]
    """Absolute index among the row's real tokens, BOS included; -1 at pads."""
    tokens: Int[Tensor, "batch pos"] | None
    """Token ids; None only in `fwd_hooks` made without them."""
    opens_with_bos: Bool[Tensor, " batch"] | None
    """Whether the row's first real token is BOS; None where tokens are unknown."""
    prompt_lengths: Int[Tensor, " batch"] | None
    """Real tokens of each row's prompt; None where nobody knows."""
    model: Host
    text: int = 0
    """Number of the text (or batch of texts) among those that passed."""
    start: int = 0
    """Column of the text at which this pass begins; above 0 under a KV cache."""
    history: Int[Tensor, "batch total"] | None = None
    """Token ids of the text up to the end of this pass; -1 where a cache was filled unseen."""
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What selectors look up once and keep for later passes of the same session."""

    @property
    def bos(self) -> Mask:
        """True at a row's BOS. Raises BadInputError where tokens are unknown."""
        return (self.index == 0) & self.opening()

    def opening(self) -> Bool[Tensor, "batch 1"]:
        """Return whether each row opens with BOS."""
        if self.opens_with_bos is None:
            raise BadInputError(
                "This selector leaves out BOS and pads, and the text's tokens are not known. Give "
                "fwd_hooks(model, tokens=...), or fill the KV cache while the steering is on."
            )
        return self.opens_with_bos[:, None]

    @property
    def real(self) -> Mask:
        """True at tokens, False at pads."""
        return self.index >= 0

    def from_prompt_end(self) -> Int[Tensor, "batch pos"]:
        """Return the index counted from the prompt's end: -1 is its last token, 0 the first after.

        Raises BadInputError where the prompt's length is unknown.
        """
        if self.prompt_lengths is None:
            raise BadInputError(
                "This selector needs to know where the prompt ends, and nothing tells: the pass "
                "continues a KV cache outside of generate, or its tokens are unknown. Give "
                "prompt_lengths to on(), trace() or fwd_hooks()."
            )
        return self.index - self.prompt_lengths[:, None]


@runtime_checkable
class Selector(Protocol):
    """Picks positions of a window: (batch, pos) -> bool."""

    def __call__(self, window: Window) -> Mask:
        """Return True at the tokens picked; pads are masked by the caller."""


Positions = str | int | slice | Selector


@dataclass(frozen=True)
class Everywhere:
    """Every token, prompt and generated, but BOS."""

    def __call__(self, window: Window) -> Mask:
        """Return every real token but BOS."""
        return window.real & ~window.bos

    def __repr__(self) -> str:
        """Return its name."""
        return "everywhere"


@dataclass(frozen=True)
class FromPromptEnd:
    """Tokens from `start` up to `stop`, counted from the prompt's end (-1 is its last token)."""

    name: str
    start: int | None
    stop: int | None
    with_bos: bool = False

    def __call__(self, window: Window) -> Mask:
        """Return the tokens of that range."""
        place = window.from_prompt_end()
        picked = window.real if self.with_bos else window.real & ~window.bos
        if self.start is not None:
            picked = picked & (place >= self.start)
        return picked if self.stop is None else picked & (place < self.stop)

    def __repr__(self) -> str:
        """Return its name."""
        return self.name


@dataclass(frozen=True)
class First:
    """The first `n` tokens of the text, BOS not counted."""

    n: int

    def __call__(self, window: Window) -> Mask:
        """Return tokens before index n, or n + 1 where the row opens with BOS."""
        end = self.n + window.opening().int()
        return (window.index < end) & ~window.bos

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"first({self.n})"


@dataclass(frozen=True)
class Span:
    """Absolute indices from `start` up to `stop`; negative ones count from the prompt's end."""

    start: int
    stop: int | None

    def __call__(self, window: Window) -> Mask:
        """Return the tokens of the span."""
        picked = _at_least(window, self.start)
        return picked if self.stop is None else picked & ~_at_least(window, self.stop)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        if self.stop == self.start + 1:
            return f"index({self.start})"
        return f"span({self.start}, {'' if self.stop is None else self.stop})"


@dataclass(frozen=True)
class Matching:
    """Every token equal to one of `tokens` (ids, or words that are a single token)."""

    tokens: tuple[int | str, ...]

    def __call__(self, window: Window) -> Mask:
        """Return the tokens that match."""
        if window.tokens is None:
            raise BadInputError(f"{self!r} needs the tokens: fwd_hooks(model, tokens=...).")
        if self not in window.cache:
            ids = [each for token in self.tokens for each in _token_ids(window.model, token)]
            window.cache[self] = torch.tensor(ids, device=window.tokens.device)
        return torch.isin(window.tokens, window.cache[self])

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"matching({', '.join(repr(token) for token in self.tokens)})"


everywhere = Everywhere()
prompt = FromPromptEnd("prompt", None, 0)
generated = FromPromptEnd("generated", 0, None, with_bos=True)
predicting = FromPromptEnd("predicting", -1, None, with_bos=True)
last_prompt_token = FromPromptEnd("last_prompt_token", -1, 0, with_bos=True)

NAMED: dict[str, Selector] = {
    "everywhere": everywhere,
    "prompt": prompt,
    "generated": generated,
    "predicting": predicting,
    "last_prompt_token": last_prompt_token,
}


def first(n: int) -> Selector:
    """Return a selector of the text's first `n` tokens, BOS not counted."""
    if n < 1:
        raise BadInputError(f"first(n) needs n of 1 or more; got {n}.")
    return First(n)


def index(i: int) -> Selector:
    """Return a selector of one absolute index (BOS is 0); -1 is the prompt's last token."""
    return last_prompt_token if i == -1 else Span(i, i + 1)


def span(start: int, stop: int | None) -> Selector:
    """Return a selector of indices `start` up to `stop`; negative ones from the prompt's end."""
    same_sign = stop is not None and (start < 0) == (stop < 0)
    if stop is not None and same_sign and stop <= start:
        raise BadInputError(f"span({start}, {stop}) is empty: it ends before it starts.")
    return Span(start, stop)


def matching(*tokens: int | str) -> Selector:
    """Return a selector of tokens equal to any of these ids or single-token words."""
    if not tokens:
        raise BadInputError("matching() needs at least one token.")
    return Matching(tokens)


def selector(positions: Positions) -> Selector:
    """Return the selector that a name, an index, a slice or a selector stands for.

    >>> selector("predicting"), selector(-2), selector(slice(2, 5))
    (predicting, index(-2), span(2, 5))
    """
    if isinstance(positions, str):
        if positions not in NAMED:
            raise UnknownNameError(
                f"There are no positions called {positions!r}. "
                f"{nearest(positions, NAMED).capitalize()}."
            )
        return NAMED[positions]
    if isinstance(positions, slice):
        if positions.step not in (None, 1):
            raise BadInputError("A slice of positions has no step.")
        return span(positions.start or 0, positions.stop)
    if isinstance(positions, int):
        return index(positions)
    if not callable(positions):
        raise BadInputError(
            f"Positions are a name, an index, a slice or a selector: {positions!r}."
        )
    return positions


def _at_least(window: Window, bound: int) -> Mask:
    if bound >= 0:
        return window.index >= bound
    return window.from_prompt_end() >= bound


def _token_ids(model: Host, token: int | str) -> list[int]:
    """Ids whose text is the word, alone or after a space."""
    if isinstance(token, int):
        return [token]
    tokenizer = need_tokenizer(model, f"matching({token!r})")
    spelt = (
        tokenizer(form, add_special_tokens=False)["input_ids"] for form in (token, " " + token)
    )
    ids = sorted({form[0] for form in spelt if len(form) == 1})
    if not ids:
        raise BadInputError(
            f"matching({token!r}): the model's tokenizer splits {token!r} into several tokens. "
            "Give one of its tokens, or an id."
        )
    return ids
