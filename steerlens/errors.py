"""Errors and warnings for a person at a notebook: the fact, its context, the remedy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


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


class NotEnteredError(SteerLensError, AttributeError):
    """An attribute of what `with` gives, asked of the block before it."""


def warn(message: str) -> None:
    """Warn at the user's own line: frames of SteerLens, and of what wraps them, are left out."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _room(frame.f_globals) in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


_OURS = ("steerlens", "contextlib", "jaxtyping")


def _room(names: dict[str, Any]) -> str:
    return str(names.get("__name__")).partition(".")[0]


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
