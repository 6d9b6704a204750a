"""Errors written for a person at a notebook: the fact, its context, the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SteerLensError(Exception):
    """What SteerLens raises; its message states the fact, the context and the remedy."""

    def __str__(self) -> str:
        """Return the message as written (KeyError would quote it)."""
        return str(self.args[0]) if self.args else ""


class BadInputError(SteerLensError, ValueError):
    """A value that cannot be right: an empty side, a wrong shape, a position past the text."""


class OutOfReachError(BadInputError):
    """A dose that no coefficient gives: beyond what can be reached, or where it jumps."""


class UnknownNameError(SteerLensError, KeyError):
    """A name that nothing answers to: a hook point, a method, a position."""


class HookError(SteerLensError, RuntimeError):
    """A hook point that never fired, or fired where it should not have."""


def nearest(name: str, names: Iterable[str], count: int = 4) -> str:
    """Return the known names closest to `name`, as a phrase for an error message.

    >>> nearest("resid_pst", ["resid_pre", "resid_post", "z"])
    "nearest: 'resid_post', 'resid_pre'"
    """
    known = list(names)
    close = get_close_matches(name, known, n=count, cutoff=0.5)
    if close:
        return "nearest: " + ", ".join(repr(each) for each in close)
    return "known: " + ", ".join(repr(each) for each in known[: count * 2])
