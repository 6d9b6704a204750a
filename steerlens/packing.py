"""Values as plain data: a tree for JSON with tensors beside it, and back by an allow-list.

Steerings, directions and bases are frozen dataclasses all through, so that names of classes and
their fields say all there is to know. Only classes that SteerLens makes public as parts of such
values are built from a file: nothing is unpickled, and no name is looked up anywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from hashlib import sha256
from math import isfinite
from numbers import Integral, Real
from pathlib import Path, PureWindowsPath
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from steerlens import positions, signals, storage, transforms
from steerlens.basis import Basis
from steerlens.directions import Direction, Directions, Eraser, Quality
from steerlens.directions.direction import CausalEffect
from steerlens.errors import BadInputError
from steerlens.host import Host, check_same_model
from steerlens.interventions import Group, Intervention
from steerlens.positions.phrases import Phrase
from steerlens.transforms.exchange import Stored

OPAQUE = (signals.Function, transforms.Function, positions.Custom)
"""Holders of a user's own function, which is no value."""
_STRICT: dict[Any, type] = {
    signals.Signal: signals.Combining,
    transforms.Transform: transforms.Linear,
    positions.Selector: positions.Combining,
}
"""Protocols that any callable would meet, and what their values are here."""
_QUOTED = re.compile(r"""((\\*['"])([^'"\\]+)\2: (\\*['"]))(?!\{)(.*?)(\4)""")
"""A key and its value, where provenance was written out as text inside another."""
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, re.error)
_FLAGS = re.I | re.M | re.S | re.X | re.A | re.U
"""Of a pattern in a file: re.DEBUG, for one, would print."""
_MOST_TIMES = 64
_SMALL = 2**26
"""A file may name its tensors so many times over, or values of so many bytes in all."""
_ACTING = ("transforms", "signals", "positions", "interventions")
"""Rooms whose values may hold no NaN: with it, a bound would never open, and a vector break all."""


@cache
def known() -> dict[str, type]:
    """Return the classes that may stand in a file, by the room and the name that they go by.

    >>> sorted(known())[:3]
    ['basis.Basis', 'directions.CausalEffect', 'directions.Direction']
    """
    found = [Intervention, Group, Direction, Directions, Quality, CausalEffect, Eraser, Basis]
    public = [each for room in (positions, signals, transforms) for each in vars(room).values()]
    parts = [
        each
        for each in public
        if isinstance(each, type)
        and is_dataclass(each)
        and issubclass(each, tuple(_STRICT.values()))
        and each not in OPAQUE
    ]
    return {_called(each): each for each in (*found, Phrase, signals.Network, *parts)}


def _called(kind: type) -> str:
    return f"{kind.__module__.split('.')[1]}.{kind.__name__}"


def write(path: str | Path, kind: str, value: object) -> None:
    """Write a value as one safetensors file of a kind, whole or not at all.

    Raises BadInputError, naming the part, where it holds a function or a class of the user's own.
    """
    packer = _Packer()
    try:
        tree = packer.tree(value, "")
    except RecursionError:
        raise BadInputError(
            f"The {kind} is nested too deeply to be written. Sum its parts at once, a + b + c, "
            "rather than one inside the other."
        ) from None
    about = {"value": tree, "models": sorted(packer.models)}
    storage.write(path, kind, packer.tensors, about)


def read(path: str | Path, kind: str, wanted: Any, model: Host | None = None) -> Any:
    """Return the value of a file of a kind; with `model`, check that it was made on that one.

    `wanted` is what it should be. Raises BadInputError, naming the file, on anything else: another
    kind, a later layout, an unknown class or field, tensors that are missing or do not fit.
    """
    try:
        tensors, about = storage.read(path, kind)
    except RecursionError:
        raise BadInputError(f"{path} is no whole {kind}: it is nested too deeply.") from None
    unpacker = _Unpacker(tensors)
    try:
        if "value" not in about:
            raise BadInputError("its header tells no value")
        value = unpacker.value(about["value"])
        if not _fits(value, wanted):
            raise BadInputError(f"it holds {type(value).__name__}")
    except _BROKEN as error:
        told = str(error).removesuffix(".")
        raise BadInputError(f"{path} is no whole {kind}: {told}.") from None
    for source in unpacker.sources if model is not None else ():
        assert model is not None
        check_same_model(model, source, f"The {kind} in {path}")
    return value


class _Packer:
    """Takes values apart; equal tensors are kept once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.models: set[str] = set()
        self._names: dict[tuple[Any, ...], str] = {}

    def tree(self, value: Any, where: str) -> Any:
        """Plain data for a value that stands `where` in the whole."""
        if value is None or isinstance(value, str | bool):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._kept(value)}
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real):
            number = float(value)
            return number if isfinite(number) else {"float": str(number)}
        if isinstance(value, re.Pattern):
            return {"pattern": [value.pattern, value.flags]}
        if isinstance(value, tuple | list):
            parts = [self.tree(each, f"{where}[{i}]") for i, each in enumerate(value)]
            return {"tuple" if isinstance(value, tuple) else "list": parts}
        if type(value) in known().values():
            return {_called(type(value)): self._fields(value, where)}
        if isinstance(value, Mapping):
            inside = [(k, v, f"{where}[{k!r}]") for k, v in value.items()]
            return {"mapping": [[self.tree(k, at), self.tree(v, at)] for k, v, at in inside]}
        raise BadInputError(_cannot(value, where.removeprefix(".")))

    def _fields(self, value: Any, where: str) -> dict[str, Any]:
        found = {}
        for each in fields(value):
            part = getattr(value, each.name)
            if each.name == "provenance":
                part = _portable(part)
                self.models |= {part["model"]} if "model" in part else set()
            if each.init:
                found[each.name] = self.tree(part, f"{where}.{each.name}")
        return found

    def _kept(self, tensor: Tensor) -> str:
        own = tensor.detach().cpu().contiguous()
        raw = own.reshape(-1).view(torch.uint8).numpy().tobytes()
        key = own.dtype, tuple(own.shape), sha256(raw).digest()
        name = self._names.setdefault(key, str(len(self._names)))
        self.tensors[name] = own
        return name


def _cannot(value: Any, where: str) -> str:
    if isinstance(value, OPAQUE):
        room = type(value).__module__.split(".")[1]
        return (
            f"{value!r}, at {where}, is a function of your own, and a file holds values alone: it "
            f"cannot be saved. Use one of steerlens.{room} in its place."
        )
    return (
        f"{value!r}, at {where or 'the top'}, is a {type(value).__name__}, which is no value of "
        "SteerLens's own: it cannot be saved."
    )


def _portable(provenance: Mapping[str, str]) -> dict[str, str]:
    """Provenance with the last part of every path alone: a file tells nothing of a machine."""

    def inside(found: re.Match[str]) -> str:
        return found[1] + _last(found[3], found[5]) + found[6]

    return {key: _last(key, _QUOTED.sub(inside, str(each))) for key, each in provenance.items()}


def _last(key: str, text: str) -> str:
    """The last part of a model's name, or of a path, however its machine writes paths."""
    path = PureWindowsPath(text)
    return path.name if key == "model" or path.root or text.startswith("~") else text


class _Unpacker:
    """Builds values again."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.sources: list[Mapping[str, str]] = []
        self._room = max(_SMALL, _MOST_TIMES * sum(each.nbytes for each in tensors.values()))

    def value(self, tree: Any) -> Any:
        """The value of plain data. Raises one of `_BROKEN` on what is none."""
        if tree is None or isinstance(tree, str | bool | int | float):
            return tree
        if not isinstance(tree, dict) or len(tree) != 1:
            raise BadInputError(f"a {type(tree).__name__} stands where a value should")
        [(kind, held)] = tree.items()
        if kind == "tensor":
            if held not in self.tensors:
                raise BadInputError(f"its tensor {held!r} is missing")
            self._room -= self.tensors[held].nbytes
            if self._room < 0:
                raise BadInputError("it names its tensors so often that they would fill the memory")
            return self.tensors[held].clone()
        if kind == "float":
            return float(held)
        if kind == "pattern":
            text, flags = held
            return re.compile(text, flags & _FLAGS)
        if kind in ("tuple", "list"):
            parts = [self.value(each) for each in held]
            return tuple(parts) if kind == "tuple" else parts
        if kind == "mapping":
            return {self.value(key): self.value(each) for key, each in held}
        return self._built(kind, {name: self.value(each) for name, each in held.items()})

    def _built(self, name: str, parts: dict[str, Any]) -> Any:
        kind = known().get(name)
        if kind is None:
            raise BadInputError(f"it names {name!r}, which this SteerLens does not have")
        own, hints = [each.name for each in fields(kind) if each.init], _hints(kind)
        for field in own:
            if field not in parts:
                raise BadInputError(f"its {name} lacks {field!r}")
            if not _fits(parts[field], hints[field]):
                raise BadInputError(f"{type(parts[field]).__name__} cannot be {name}.{field}")
        if len(parts) > len(own):
            raise BadInputError(f"its {name} has fields that this SteerLens does not know")
        _check_numbers(name, kind, parts)
        if "model" in parts.get("provenance", ()):
            self.sources.append(parts["provenance"])
        return kind(**parts)


def _check_numbers(name: str, kind: type, parts: Mapping[str, Any]) -> None:
    """Raise BadInputError where a part that acts is NaN, or its vector is not its direction's."""
    if name.split(".")[0] in _ACTING and not issubclass(kind, Stored):
        for field, part in parts.items():
            if isinstance(part, Tensor | float) and bool(torch.isnan(torch.as_tensor(part)).any()):
                raise BadInputError(f"{name}.{field} is not a number")
    along, vector = parts.get("along"), parts.get("vector")
    if not isinstance(along, Direction) or not isinstance(vector, Tensor):
        return
    if not torch.equal(vector, along.vector):
        raise BadInputError(f"the vector of its {name} is not that of its direction")


_hints = cache(get_type_hints)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a field's annotation asks for."""
    hint = _STRICT.get(hint, hint)
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple and inner[-1] is not Ellipsis:
        return isinstance(value, tuple) and [*map(_fits, value, inner)] == [True] * len(inner)
    if origin in (tuple, Sequence):
        listed = isinstance(value, origin) and not isinstance(value, str)
        return listed and all(_fits(each, inner[0]) for each in value)
    if origin is Mapping:
        pairs = value.items() if isinstance(value, Mapping) else ()
        fitting = all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in pairs)
        return isinstance(value, Mapping) and fitting
    if hint in (int, float):
        kinds = (int, float) if hint is float else int
        return isinstance(value, kinds) and not isinstance(value, bool)
    if hint is None or hint is NoneType:
        return value is None
    return isinstance(value, origin or hint)
