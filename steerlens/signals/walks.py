"""What a signal is made of: the hook points and the vectors it looks at, the functions it calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from steerlens.basis import Basis
from steerlens.directions import Direction
from steerlens.signals.signal import At, Combining, Function


def parts(signal: object, place: str) -> Iterator[tuple[object, str]]:
    """Yield a signal and everything in it, each with the hook point that it looks at.

    `place` is where the signal itself stands.
    """
    yield signal, place
    if is_dataclass(signal) and not isinstance(signal, type | Direction | Basis):
        here = signal.hook_name if isinstance(signal, At) else place
        for each in fields(signal):
            yield from parts(getattr(signal, each.name), here)


def holds(signal: object, kind: type) -> bool:
    """Return whether a signal is, or has in it, one of a kind."""
    return any(isinstance(part, kind) for part, _ in parts(signal, ""))


def foreign(signal: object) -> bool:
    """Return whether a function or a class of the user's own is in a signal: it may give NaN."""
    return any(
        isinstance(part, Function)
        or (isinstance(part, Combining) and not type(part).__module__.startswith("steerlens."))
        for part, _ in parts(signal, "")
    )


def hook_points(signal: object) -> Iterator[str]:
    """Yield the hook points that a signal reads besides the one it stands at."""
    return (part.hook_name for part, _ in parts(signal, "") if isinstance(part, At))


def looked_for(signal: object, place: str) -> Iterator[tuple[Direction | Basis, str]]:
    """Yield the directions and bases that a signal looks for, each with where it looks."""
    for part, where in parts(signal, place):
        if isinstance(part, Direction | Basis):
            yield part, where
