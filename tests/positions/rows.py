"""Texts for laws about selectors: a byte-level tokenizer, a host of nothing else, and passes.

Nothing here runs a model: the clock alone tells where each token stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st

from steerlens import positions as ps
from steerlens.clock import Clock
from steerlens.demo.tokens import BOS, PAD, train_tokenizer

WORDS = (
    "a",
    " cat",
    " sat",
    "(",
    ")",
    " day",
    '"',
    "12",
    " 3",
    "é",
    " 日",
    "👍🏽",
    "\n",
    "ab",
    "ba",
)
Row = list[int]


def tokenizer(special: Sequence[str] = (), template: str | None = None) -> Any:
    """A fresh byte-level BPE of few merges, with more special tokens and another template."""
    made: Any = train_tokenizer([" cat sat on a day (12) " * 3, " cat ab ab ab)."], 280)
    made.add_tokens(list(special), special_tokens=True)
    if template is not None:
        made.chat_template = template
    return made


@cache
def host(special: tuple[str, ...] = (), template: str | None = None) -> Any:
    """What selectors ask of a model."""
    given = tokenizer(special, template)

    def none(*arguments: Any, **others: Any) -> None: ...

    def to_tokens(text: str, truncate: bool = True) -> torch.Tensor:
        return torch.tensor([given(text)["input_ids"]])

    cfg = SimpleNamespace(n_ctx=None, d_vocab=len(given))
    members = dict(cfg=cfg, tokenizer=given, hook_dict={}, hooks=none)
    calls = dict(to_tokens=staticmethod(to_tokens), parameters=none, __call__=none)
    return type("Fake", (), {**members, **calls})()


@st.composite
def rows(draw: st.DrawFn, most: int = 14) -> Row:
    """Token ids of a text of few words, or any ids at all, broken characters too; often BOS."""
    if draw(st.integers(0, 3)):
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=most // 2))
        ids = host().tokenizer("".join(words), add_special_tokens=False)["input_ids"][:most]
    else:
        ids = draw(st.lists(st.integers(3, 270), min_size=1, max_size=most))
    return [BOS, *ids] if draw(st.booleans()) else ids


def picks(where: Any, row: Row, prompt: int, model: Any = None) -> list[bool]:
    """What a selector picks of one row, in one pass."""
    return together(where, [row], [prompt], model=model)[0]


def together(
    where: Any,
    texts: Sequence[Row],
    prompts: Sequence[int],
    *,
    left: bool = False,
    cuts: Sequence[int] = (),
    model: Any = None,
) -> list[list[bool]]:
    """What a selector picks of the real tokens of a padded batch, passed in pieces."""
    width = max(map(len, texts))
    fill = [[PAD] * (width - len(row)) for row in texts]
    table = [more + row if left else row + more for row, more in zip(texts, fill, strict=True)]
    tokens = torch.tensor(table)
    blank = [[0] * len(more) for more in fill]
    ones = [[1] * len(row) for row in texts]
    pairs = zip(ones, blank, strict=True)
    mask = torch.tensor([pad + real if left else real + pad for real, pad in pairs])
    bounds = sorted({0, *(cut for cut in cuts if cut < width), width})
    clock = Clock(model or host(), torch.tensor(prompts))
    masks = []
    for start, stop in zip(bounds, bounds[1:], strict=False):  # noqa: RUF007
        clock.begin(tokens[:, start:stop], past=start, attention_mask=mask[:, :stop])
        masks.append(clock.where(ps.selector(where)))
    whole = torch.cat(masks, 1)
    assert not whole[mask == 0].any(), "a pad was picked"
    return [row[real == 1].tolist() for row, real in zip(whole, mask, strict=True)]
