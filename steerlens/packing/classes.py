"""The classes that may stand in a file, and whether a value is what a field asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from steerlens import positions, signals, transforms
from steerlens.basis import Basis
from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions, Eraser, Quality
from steerlens.directions.direction import CausalEffect
from steerlens.interventions import Group, Intervention
from steerlens.positions.phrases import Phrase
from steerlens.text import Encoded

OPAQUE = (signals.Function, transforms.Function, positions.Custom)
"""Holders of a user's own function, which is no value."""
_STRICT: dict[Any, type] = {
    signals.Signal: signals.Combining,
    transforms.Transform: transforms.Linear,
    positions.Selector: positions.Combining,
}
"""Protocols that any callable would meet, and what their values are here."""


@cache
def known(also: tuple[type, ...] = ()) -> dict[str, type]:
    """Return the classes that may stand in a file, by the room and the name that they go by.

    `also` are those of one kind of file alone.

    >>> sorted(known())[:3]
    ['basis.Basis', 'contrast.Contrast', 'directions.CausalEffect']
    """
    found = [Intervention, Group, Direction, Directions, Quality, CausalEffect, Eraser, Basis]
    found += [Contrast, Encoded, Phrase, signals.Network]
    public = [each for room in (positions, signals, transforms) for each in vars(room).values()]
    parts = [
        each
        for each in public
        if isinstance(each, type)
        and is_dataclass(each)
        and issubclass(each, tuple(_STRICT.values()))
        and each not in OPAQUE
    ]
    return {called(each): each for each in (*found, *parts, *also)}


def called(kind: type) -> str:
    """Return the name that a class goes by in a file: its room and its own.

    >>> called(Basis)
    'basis.Basis'
    """
    return f"{kind.__module__.split('.')[1]}.{kind.__name__}"


def places(name: str, parts: Mapping[str, Any]) -> Iterable[str]:
    """Return the hook names that a value's fields speak of."""
    for field in ("hook_name", "reads"):
        if isinstance(parts.get(field), str):
            yield parts[field]
    field = {"directions.Directions": "found", "basis.Basis": "vectors"}.get(name, "")
    yield from parts.get(field, ())


hints = cache(get_type_hints)
"""The annotations of a class, by field."""


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of the type that a field's annotation asks for."""
    hint = _STRICT.get(hint, hint)
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple and inner[-1] is not Ellipsis:
        long = isinstance(value, tuple) and len(value) == len(inner)
        return long and all(map(fits, value, inner))
    if origin in (tuple, Sequence):
        listed = isinstance(value, origin) and not isinstance(value, str)
        return listed and all(fits(each, inner[0]) for each in value)
    if origin is Mapping:
        pairs = value.items() if isinstance(value, Mapping) else ()
        fitting = all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in pairs)
        return isinstance(value, Mapping) and fitting
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    if hint is None or hint is NoneType:
        return value is None
    return isinstance(value, origin or hint)
