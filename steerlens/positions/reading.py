"""The text as it grows: a row's tokens spelt out, and followed token by token.

A selector of text makes a follower for each row and asks it about each token once, in order,
with the text up to that token: so it is causal, and a token's membership is kept for later
passes over the same text. A character spread over several tokens belongs to the one that
completes it. Pads and BOS have no text.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.host import need_tokenizer
from steerlens.positions.window import Mask, Window
from steerlens.text import Spelling

Follower = Callable[[str, int, int], bool]
"""Says of one token whether it is picked, from the text and where the token's part of it begins
and ends. It may look at nothing after that end, and is asked about every token once, in order."""

_BROKEN = "�"


class RowText:
    """One row's text so far, and what each selector of text picked of it."""

    def __init__(self, spelling: Spelling) -> None:
        """Start empty."""
        self.ids: list[int] = []
        self.text = ""
        self.ends: list[int] = []
        """Where each token's part of the text ends."""
        self._spelling = spelling
        self._open: list[int] = []
        """The latest tokens, as long as a character of theirs is unfinished."""
        self._spelt = 0
        """How many characters of these are already in the text."""
        self._followed: dict[Hashable, tuple[Follower, list[bool]]] = {}

    def extend(self, ids: list[int], *, opens_with_bos: bool) -> None:
        """Append tokens."""
        pieces, end = [], len(self.text)
        for token in ids:
            piece = "" if opens_with_bos and not self.ids else self._piece(token)
            self.ids.append(token)
            pieces.append(piece)
            end += len(piece)
            self.ends.append(end)
        self.text += "".join(pieces)

    def _piece(self, token: int) -> str:
        """The characters that a token completes."""
        self._open.append(token)
        if len(self._open) == 1 and not (self.ends and self.ends[-1]):
            whole = self._spelling.opening(token)
        else:
            whole = self._spelling.following(self._open)
        finished = whole.rstrip(_BROKEN)
        piece = finished[self._spelt :]
        self._spelt = max(self._spelt, len(finished))
        if finished == whole:
            self._open, self._spelt = [], 0
        return piece

    def follow(self, selector: Hashable, make: Callable[[], Follower]) -> list[bool]:
        """Return whether each token is picked, asking only about those not asked about yet."""
        if selector not in self._followed:
            self._followed[selector] = make(), []
        follower, picked = self._followed[selector]
        for i in range(len(picked), len(self.ids)):
            picked.append(follower(self.text, self.ends[i - 1] if i else 0, self.ends[i]))
        return picked


class Reader:
    """The texts of all rows, kept from pass to pass as long as they only grow."""

    def __init__(self, tokenizer: Any) -> None:
        """Start with no text."""
        self.rows: list[RowText] = []
        self._spelling = Spelling(tokenizer)
        self._history: Tensor | None = None

    def read(self, window: Window, history: Tensor) -> list[RowText]:
        """Return the rows' texts up to the end of the pass."""
        if history is not self._history:
            real, before = window.real_so_far.tolist(), self.rows
            texts = [
                [token for token, is_real in zip(*row, strict=True) if is_real]
                for row in zip(history.tolist(), real, strict=True)
            ]
            _check_seen(texts)
            opens = window.opening()[:, 0].tolist()
            kept: list[RowText | None] = [*before, *[None] * len(texts)]
            self.rows = [self._row(*row) for row in zip(kept, texts, opens, strict=False)]
            self._history = history
        return self.rows

    def _row(self, row: RowText | None, ids: list[int], opens_with_bos: bool) -> RowText:
        if row is None or row.ids != ids[: len(row.ids)]:
            row = RowText(self._spelling)
        row.extend(ids[len(row.ids) :], opens_with_bos=opens_with_bos)
        return row


def follow(window: Window, selector: Hashable, make: Callable[[], Follower]) -> Mask:
    """Return the tokens that followers made by `make`, one a row, pick; BOS left out.

    Raises BadInputError where tokens are unknown, passed unseen, or have no tokenizer.
    """
    if window.history is None:
        raise BadInputError(f"{selector!r} needs the tokens: fwd_hooks(model, tokens=...).")
    if Reader not in window.cache:
        window.cache[Reader] = Reader(need_tokenizer(window.model, repr(selector)))
    rows = window.cache[Reader].read(window, window.history)
    new = window.real.sum(1).tolist()
    picked = [
        each
        for row, count in zip(rows, new, strict=True)
        for each in row.follow(selector, make)[len(row.ids) - count :]
    ]
    mask = torch.zeros_like(window.real)
    mask[window.real] = torch.tensor(picked, dtype=torch.bool, device=mask.device)
    return mask & ~window.bos


def _check_seen(texts: list[list[int]]) -> None:
    if any(min(ids, default=0) < 0 for ids in texts):
        raise BadInputError(
            "A selector of text needs the text from its beginning, and this pass continues a KV "
            "cache that was filled without it. Fill the cache while the steering is on."
        )
