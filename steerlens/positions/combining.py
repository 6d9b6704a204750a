"""Selectors combined: `a | b`, `a & b`, `~a`, with names and indices on either side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from steerlens.errors import BadInputError
from steerlens.positions.window import Mask, Window

if TYPE_CHECKING:
    from steerlens.host import Host
    from steerlens.positions.showing import Lengths, Shown


@runtime_checkable
class Selector(Protocol):
    """Picks positions of a window: (batch, pos) -> bool."""

    def __call__(self, window: Window) -> Mask:
        """Return True at the tokens picked; pads are masked by the caller."""


Positions = str | int | slice | Selector


class Combining:
    """The operators of selectors, and `show`.

    >>> import steerlens as sl
    >>> sl.positions.prompt & ~sl.positions.first(3)
    prompt & ~first(3)
    >>> (sl.positions.first(3) | "generated") & ~sl.positions.index(5)
    (first(3) | generated) & ~index(5)
    """

    def __call__(self, window: Window) -> Mask:
        """Return True at the tokens picked."""
        raise NotImplementedError

    def __or__(self, other: Positions) -> AnyOf:
        """Return a selector of what either picks."""
        return AnyOf(_parts(AnyOf, self, other))

    def __ror__(self, other: Positions) -> AnyOf:
        """Return a selector of what either picks."""
        return AnyOf(_parts(AnyOf, other, self))

    def __and__(self, other: Positions) -> AllOf:
        """Return a selector of what both pick."""
        return AllOf(_parts(AllOf, self, other))

    def __rand__(self, other: Positions) -> AllOf:
        """Return a selector of what both pick."""
        return AllOf(_parts(AllOf, other, self))

    def __invert__(self) -> Complement:
        """Return a selector of every token that this one does not pick, BOS and pads left out."""
        return Complement(self)

    def __bool__(self) -> bool:
        """Raise BadInputError: `and`, `or` and `not` would drop a half."""
        raise BadInputError(
            f"Positions {self!r} are neither true nor false. Combine selectors by &, | and ~."
        )

    def show(self, model: Host, texts: Any, prompt_length: Lengths | None = None) -> Shown:
        """Return `texts` (one, or several) with the picked tokens in brackets; runs no pass.

        A text is a string, token ids, chat messages or a (prompt, completion) tuple; without a
        completion or a `prompt_length` (real tokens, BOS included; one a row) it is all prompt.
        Raises BadInputError on a text that cannot be read, or a prompt longer than its text.

        >>> sl.positions.first(2).show(model, "A good day")
        2 of 4 tokens: <s>[A][ good] day
        """
        from steerlens.positions.showing import shown

        return shown(self, model, texts, prompt_length)


@dataclass(frozen=True)
class _Several(Combining):
    parts: tuple[Combining, ...]
    sign: ClassVar[str]

    def masks(self, window: Window) -> Iterator[Mask]:
        """Yield what each part picks."""
        return (part(window) & window.real for part in self.parts)

    def __repr__(self) -> str:
        """Return the formula."""
        return f" {self.sign} ".join(_bracketed(part) for part in self.parts)


@dataclass(frozen=True, repr=False)
class AnyOf(_Several):
    """What any of its parts picks."""

    sign = "|"

    def __call__(self, window: Window) -> Mask:
        """Return the union."""
        return reduce(or_, self.masks(window))


@dataclass(frozen=True, repr=False)
class AllOf(_Several):
    """What all of its parts pick."""

    sign = "&"

    def __call__(self, window: Window) -> Mask:
        """Return the intersection."""
        return reduce(and_, self.masks(window))


@dataclass(frozen=True)
class Complement(Combining):
    """Every token that a selector does not pick, BOS and pads left out."""

    part: Combining

    def __call__(self, window: Window) -> Mask:
        """Return what is left. Raises BadInputError where tokens are unknown."""
        return window.words & ~self.part(window)

    def __repr__(self) -> str:
        """Return the formula."""
        return f"~{_bracketed(self.part)}"


@dataclass(frozen=True)
class Custom(Combining):
    """A selector of the user's own: any function of a window."""

    function: Selector

    def __call__(self, window: Window) -> Mask:
        """Return what the function picks."""
        return self.function(window)

    def __repr__(self) -> str:
        """Return the function's name."""
        return str(getattr(self.function, "__name__", self.function))


def _parts(kind: type[_Several], *operands: Positions) -> tuple[Combining, ...]:
    """The operands as selectors, those of the same kind taken apart."""
    from steerlens.positions.selectors import selector

    found = [selector(each) for each in operands]
    return tuple(
        part for each in found for part in (each.parts if isinstance(each, kind) else (each,))
    )


def _bracketed(part: Combining) -> str:
    return f"({part!r})" if isinstance(part, _Several) else repr(part)
