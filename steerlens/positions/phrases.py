"""Selectors by what is written: a token, a text of several tokens, a regular expression.

A match is known when its last token is: that token completes it. The tokens before it were
computed while it was still open whether the match would come, so no selector picks them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.host import Host, need_tokenizer
from steerlens.positions.combining import Combining
from steerlens.positions.reading import follow
from steerlens.positions.window import Mask, Window
from steerlens.text import single_tokens

Text = str | re.Pattern[str]


@dataclass(frozen=True)
class Phrase:
    """What is looked for in a text: another text, or a regular expression."""

    sought: Text

    def completed(self, text: str, begin: int, end: int, since: int = 0) -> int | None:
        """Return where a match in text[:end] ends, if that is after `begin`; None without one.

        Matches begin at `since` or later. An empty match counts as none.
        """
        if begin == end:
            return None
        if isinstance(self.sought, str):
            width = len(self.sought)
            at = text.find(self.sought, max(since, begin - width + 1), end)
            return None if at < 0 else at + width
        ends = (match.end() for match in self.sought.finditer(text, since, end) if match[0])
        return next((each for each in ends if each > begin), None)


@dataclass(frozen=True)
class Matching(Combining):
    """Every token equal to one of these, or that completes one of these texts."""

    tokens: tuple[int | Text, ...]

    def __call__(self, window: Window) -> Mask:
        """Return the tokens that match."""
        if window.tokens is None:
            raise BadInputError(f"{self!r} needs the tokens: fwd_hooks(model, tokens=...).")
        if self not in window.cache:
            window.cache[self] = self._resolved(window.model, window.tokens)
        ids, phrases = window.cache[self]
        picked = torch.isin(window.tokens, ids)
        if not phrases:
            return picked
        return picked | follow(window, self, lambda: partial(_completes_any, phrases))

    def _resolved(
        self, model: Host, like: Tensor
    ) -> tuple[Int[Tensor, " ids"], tuple[Phrase, ...]]:
        """Ids to be equal to, and texts to look for."""
        ids: set[int] = set()
        phrases = []
        for token in self.tokens:
            found = {token} if isinstance(token, int) else _token_ids(model, token)
            ids |= found
            if not found:
                phrases.append(Phrase(token))  # type: ignore[arg-type]
        return torch.tensor(sorted(ids), dtype=like.dtype, device=like.device), tuple(phrases)

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"matching({', '.join(repr(token) for token in self.tokens)})"


@dataclass(frozen=True)
class Between(Combining):
    """Tokens after a match of `opens` and before the one that completes a match of `shuts`."""

    opens: Phrase
    shuts: Phrase | None

    def __call__(self, window: Window) -> Mask:
        """Return the tokens between."""
        return follow(window, self, lambda: _InBetween(self.opens, self.shuts))

    def __repr__(self) -> str:
        """Return the call that makes it."""
        if self.shuts is None:
            return f"after({self.opens.sought!r})"
        return f"between({self.opens.sought!r}, {self.shuts.sought!r})"


def matching(*tokens: int | Text) -> Matching:
    r"""Return a selector of tokens that equal one of these, or complete a match of one of these.

    An id, or a word that is a single token, alone or after a space, picks every token equal to
    it. Any other text, and a regular expression (`re.compile(...)`), is looked for in the text
    so far, special tokens included, however it is tokenised; the token that completes a match
    is picked. It cannot be more: when the match's first tokens pass, its last is not known yet.
    A regular expression is searched anew at each token (in about 0.1 ms in a text of 1,000
    tokens); an empty match counts as none.

    Raises BadInputError without anything to match. A pass without tokens, or text without a
    tokenizer, raises it too.

    >>> sl.positions.matching("good").show(model, "A good day, a good day")
    2 of 8 tokens: <s>A[ good] day, a[ good] day
    >>> import re
    >>> sl.positions.matching("A good", re.compile(r"day\b")).show(model, "A good day")
    2 of 4 tokens: <s>A[ good][ day]
    """
    if not tokens:
        raise BadInputError("matching() needs at least one token.")
    for token in tokens:
        if not isinstance(token, int):
            _checked(token)
    return Matching(tokens)


def after(text: Text) -> Between:
    """Return a selector of every token after the one that completes the row's first match.

    `text` is looked for as text, however it is tokenised; a regular expression works too.
    Raises BadInputError on an empty text.

    >>> sl.positions.after("good").show(model, "A good day, a good day")
    5 of 8 tokens: <s>A good[ day][,][ a][ good][ day]
    """
    return Between(_checked(text), None)


def between(opens: Text, shuts: Text) -> Between:
    """Return a selector of tokens after a match of `opens` and before the next of `shuts`.

    Neither the token that completes the one nor that which completes the other is picked, and
    it begins again with the next match of `opens`. If `shuts` takes several tokens, its first
    ones are picked: it is not known yet what they begin. Raises BadInputError on an empty text.

    >>> sl.positions.between(",", ".").show(model, "A day, a good day. A good day.")
    3 of 12 tokens: <s>A day,[ a][ good][ day]. A good day.
    """
    return Between(_checked(opens), _checked(shuts))


class _InBetween:
    """Follows a row: looks for the one phrase, then from there on for the other."""

    def __init__(self, opens: Phrase, shuts: Phrase | None) -> None:
        self.opens, self.shuts = opens, shuts
        self.open = False
        self.since = 0

    def __call__(self, text: str, begin: int, end: int) -> bool:
        if self.open and self.shuts is None:
            return True
        inside = self.open
        while (sought := self.shuts if self.open else self.opens) is not None:
            found = sought.completed(text, begin, end, self.since)
            if found is None:
                break
            self.open, self.since, inside = not self.open, found, False
        return inside


def _completes_any(phrases: tuple[Phrase, ...], text: str, begin: int, end: int) -> bool:
    return any(phrase.completed(text, begin, end) is not None for phrase in phrases)


def _checked(text: Text) -> Phrase:
    sought = text.pattern if isinstance(text, re.Pattern) else text
    if not isinstance(sought, str):
        raise BadInputError(f"Text to look for is a string or a regular expression: {text!r}.")
    if not sought:
        raise BadInputError("An empty text is everywhere and nowhere: give one with characters.")
    return Phrase(text)


def _token_ids(model: Host, text: Text) -> set[int]:
    """Ids to be equal to; none for a text of several tokens, or a pattern."""
    tokenizer = need_tokenizer(model, f"matching({text!r})")
    if isinstance(text, re.Pattern):
        return set()
    return single_tokens(tokenizer, text)
