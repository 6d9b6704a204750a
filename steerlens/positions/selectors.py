"""Selectors by place: ranges counted from the text's beginning or the prompt's end, and names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_

from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.positions.combining import Combining, Custom, Positions
from steerlens.positions.window import Mask, Window


@dataclass(frozen=True)
class Everywhere(Combining):
    """Every token, prompt and generated; BOS only `with_bos`, as a change of weights acts."""

    with_bos: bool = False

    def __call__(self, window: Window) -> Mask:
        """Return every real token."""
        return window.real if self.with_bos else window.words

    def __repr__(self) -> str:
        """Return its name."""
        return "every_token" if self.with_bos else "everywhere"


@dataclass(frozen=True)
class FromPromptEnd(Combining):
    """Tokens from `start` up to `stop`, counted from the prompt's end (-1 is its last token)."""

    name: str
    start: int | None
    stop: int | None
    with_bos: bool = False

    def __call__(self, window: Window) -> Mask:
        """Return the tokens of that range."""
        if window.decoded and self.stop is None and (self.start or 0) <= 0:
            return window.real
        place = window.from_prompt_end()
        bounds = [] if self.with_bos else [window.words]
        bounds += [] if self.start is None else [place >= self.start]
        bounds += [] if self.stop is None else [place < self.stop]
        return reduce(and_, bounds)

    def __repr__(self) -> str:
        """Return its name."""
        return self.name


@dataclass(frozen=True)
class First(Combining):
    """The first `n` tokens of the text, BOS not counted."""

    n: int

    def __call__(self, window: Window) -> Mask:
        """Return tokens before index n, or n + 1 where the row opens with BOS."""
        end = self.n + window.opening().int()
        return (window.index < end) & window.words

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"first({self.n})"


@dataclass(frozen=True)
class Span(Combining):
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
        return f"span({self.start}, {self.stop})"


everywhere = Everywhere()
every_token = Everywhere(with_bos=True)
prompt = FromPromptEnd("prompt", None, 0)
generated = FromPromptEnd("generated", 0, None, with_bos=True)
predicting = FromPromptEnd("predicting", -1, None, with_bos=True)
last_prompt_token = FromPromptEnd("last_prompt_token", -1, 0, with_bos=True)

NAMED: dict[str, Combining] = {
    "everywhere": everywhere,
    "every_token": every_token,
    "prompt": prompt,
    "generated": generated,
    "predicting": predicting,
    "last_prompt_token": last_prompt_token,
}


def first(n: int) -> First:
    """Return a selector of the text's first `n` tokens, BOS not counted.

    Raises BadInputError where n is below 1.

    >>> sl.positions.first(2).show(model, "A good day")
    2 of 4 tokens: <s>[A][ good] day
    """
    if n < 1:
        raise BadInputError(f"first(n) needs n of 1 or more; got {n}.")
    return First(n)


def last(n: int) -> FromPromptEnd:
    """Return a selector of the prompt's last `n` tokens, BOS not counted.

    Raises BadInputError where n is below 1.

    >>> sl.positions.last(2).show(model, ("A good day", " in May"))
    2 of 6 tokens: <s>A[ good][ day] in May
    """
    if n < 1:
        raise BadInputError(f"last(n) needs n of 1 or more; got {n}.")
    return FromPromptEnd(f"last({n})", -n, 0)


def index(i: int) -> FromPromptEnd | Span:
    """Return a selector of one absolute index (BOS is 0); -1 is the prompt's last token.

    >>> sl.positions.index(0).show(model, "A good day")
    1 of 4 tokens: [<s>]A good day
    """
    return last_prompt_token if i == -1 else Span(i, i + 1)


def span(start: int, stop: int | None) -> Span:
    """Return a selector of indices `start` up to `stop`; negative ones from the prompt's end.

    Raises BadInputError where it ends before it starts, and on `start` < 0 <= `stop`.

    >>> sl.positions.span(1, -1).show(model, "A good day")
    2 of 4 tokens: <s>[A][ good] day
    """
    same_sign = stop is not None and (start < 0) == (stop < 0)
    if stop is not None and same_sign and stop <= start:
        raise BadInputError(f"span({start}, {stop}) is empty: it ends before it starts.")
    if stop is not None and start < 0 <= stop:
        raise BadInputError(
            f"span({start}, {stop}) starts from the prompt's end and stops counted from the text's "
            f"beginning. Give span({start}, None), or last({-start}) of the prompt."
        )
    return Span(start, stop)


def selector(positions: Positions) -> Combining:
    """Return the selector that a name, an index, a slice or a selector stands for.

    Raises UnknownNameError for another name, BadInputError for a slice with a step.

    >>> selector("predicting"), selector(-2), selector(slice(2, 5))
    (predicting, index(-2), span(2, 5))
    >>> selector("prompt") & ~sl.positions.first(3)
    prompt & ~first(3)
    """
    if isinstance(positions, Combining):
        return positions
    if isinstance(positions, str):
        return _named(positions)
    if isinstance(positions, slice):
        if positions.step not in (None, 1):
            raise BadInputError(
                "A slice of positions has no step; join single ones: index(0) | index(2)."
            )
        return span(positions.start or 0, positions.stop)
    if isinstance(positions, int) and not isinstance(positions, bool):
        return index(positions)
    if not callable(positions):
        raise BadInputError(
            f"{positions!r} are no positions. Give a name such as 'predicting', one index, a slice "
            "or a selector of steerlens.positions: index(1) | index(2), matching('good')."
        )
    return Custom(positions)


def missed(selector: object) -> str:
    """Return a remedy for a selector that picked nothing."""
    if isinstance(selector, FromPromptEnd):
        return (
            "Outside of generate the whole text is taken as prompt: give prompt_lengths, or "
            "(prompt, completion) items."
        )
    return "Look at what it picks by selector.show(model, text)."


def _named(name: str) -> Combining:
    if name == "last":
        raise UnknownNameError(
            "There are no positions called 'last': while a text is still written nobody knows "
            "which of its tokens will be the last. Of the prompt it is known: 'last_prompt_token', "
            "or last(n) for several; 'predicting' adds every generated token to it."
        )
    if name not in NAMED:
        raise UnknownNameError(
            f"There are no positions called {name!r}. {nearest(name, NAMED).capitalize()}. Text is "
            "looked for by steerlens.positions.matching(...)."
        )
    return NAMED[name]


def _at_least(window: Window, bound: int) -> Mask:
    if bound >= 0:
        return window.index >= bound
    return window.from_prompt_end() >= bound
