"""What a selector picks of a text, shown without a pass of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.cards import card
from steerlens.errors import BadInputError
from steerlens.host import Host, token_id
from steerlens.positions.combining import Selector
from steerlens.positions.window import Window, padding
from steerlens.text import Batch, Encoded, encode, pad, token_strings

Lengths = int | Sequence[int] | Int[Tensor, " batch"]


@dataclass(frozen=True, repr=False)
class Shown:
    """Texts with what a selector picks of them."""

    selector: str
    """The selector's formula."""
    strings: tuple[tuple[str, ...], ...]
    """The tokens as text, a row each, pads left out."""
    picked: tuple[tuple[bool, ...], ...]
    """Which of them are picked."""
    joint: str = ""
    """What stands between tokens: nothing, or a space between ids."""

    def __repr__(self) -> str:
        """Return a line a row: `2 of 4 tokens: <s>[A][ good] day`."""
        return "\n".join(f"{count}: {line}" for count, line in self._lines())

    def _repr_html_(self) -> str:
        rows = enumerate(self._lines())
        several = len(self.strings) > 1
        named = {f"{i}: {count}" if several else count: line for i, (count, line) in rows}
        return card(self.selector, named)

    def _lines(self) -> list[tuple[str, str]]:
        rows = zip(self.strings, self.picked, strict=True)
        return [
            (
                f"{sum(picked)} of {len(strings)} tokens",
                self.joint.join(map(_bracketed, strings, picked)),
            )
            for strings, picked in rows
        ]


def shown(
    selector: Selector, model: Host, texts: Any, prompt_length: Lengths | None = None
) -> Shown:
    """Return what `selector` picks of `texts`; see `Combining.show`."""
    encoded = [encode(model, text) for text in _items(model, texts)]
    if prompt_length is not None:
        encoded = _cut(encoded, prompt_length)
    batch = pad(model, encoded)
    mask = selector(window_of(model, batch)) & batch.real
    rows = list(zip(mask, batch.real, batch.tokens, strict=True))
    return Shown(
        repr(selector),
        tuple(tuple(token_strings(model, tokens[real])) for _, real, tokens in rows),
        tuple(tuple(picked[real].tolist()) for picked, real, _ in rows),
        joint=" " if model.tokenizer is None else "",
    )


def window_of(model: Host, batch: Batch) -> Window:
    """Return the window of a batch of whole texts, as the clock would open it for one pass."""
    bos = token_id(model, "bos")
    return Window(
        index=torch.where(batch.real, batch.real.int().cumsum(1) - 1, -1),
        tokens=batch.tokens,
        opens_with_bos=batch.tokens[:, 0] == (-1 if bos is None else bos),
        prompt_lengths=batch.prompt_lengths,
        model=model,
        history=batch.tokens,
        history_real=batch.real,
    )


def _items(model: Host, texts: Any) -> list[Any]:
    """The texts one by one, a padded batch without its pads."""
    if isinstance(texts, Tensor) and texts.ndim == 2:
        texts = texts.cpu()
        if len(texts) == 1:
            return [texts]
        pads = padding(texts, token_id(model, "pad"), token_id(model, "bos"))
        return [row[~filler] for row, filler in zip(texts, pads, strict=True)]
    one = isinstance(texts, str | Tensor | Encoded) or len(texts) == 0
    pair = isinstance(texts, tuple) and len(texts) == 2 and isinstance(texts[1], str)
    return [texts] if one or pair or isinstance(texts[0], int | Mapping) else list(texts)


def _cut(encoded: list[Encoded], prompt_length: Lengths) -> list[Encoded]:
    """The texts with prompts of the lengths given."""
    given = torch.as_tensor(prompt_length)
    lengths = given.expand(len(encoded)).tolist() if given.ndim == 0 else given.tolist()
    if len(lengths) != len(encoded):
        raise BadInputError(
            f"{len(lengths)} prompt lengths were given for {len(encoded)} texts; give one a text."
        )
    for item, length in zip(encoded, lengths, strict=True):
        if not 1 <= length <= len(item.tokens):
            raise BadInputError(
                f"A prompt of {length} tokens does not fit a text of {len(item.tokens)} "
                "(BOS included)."
            )
    return [
        replace(item, prompt_length=length) for item, length in zip(encoded, lengths, strict=True)
    ]


def _bracketed(token: str, picked: bool) -> str:
    plain = "".join(each if each.isprintable() else repr(each)[1:-1] for each in token)
    return f"[{plain}]" if picked else plain
