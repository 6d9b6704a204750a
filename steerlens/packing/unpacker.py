"""Values built again from plain data, by an allow-list, each field checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.packing.classes import fits, hints, places
from steerlens.transforms.exchange import Stored

_FLAGS = re.I | re.M | re.S | re.X | re.A | re.U
"""Of a pattern in a file: re.DEBUG, for one, would print."""
_MOST_TIMES = 64
_SMALL = 2**26
"""A file may name its tensors so many times over, or values of so many bytes in all."""
_ACTING = ("transforms", "signals", "positions", "interventions")
"""Rooms whose values may hold no NaN: with it, a bound would never open, and a vector break all."""
_ONCE_HELD = ("vector", "units", "plane")
"""Fields of transforms before layout 3: made of the others, and so made again."""
_NOT_YET_HELD = ("provenance",)
"""Fields that parts may lack before layout 3: nothing was told there."""


class Unpacker:
    """Builds values again."""

    def __init__(
        self, tensors: Mapping[str, Tensor], classes: Mapping[str, type], layout: int
    ) -> None:
        """Take the tensors of the file, the classes that may stand in it, and its layout."""
        self.tensors = tensors
        self.used: set[str] = set()
        """The tensors that the tree has named."""
        self.sources: list[Mapping[str, str]] = []
        """Every provenance in it."""
        self.places: dict[str, None] = {}
        """The hook names in it, in order."""
        self._classes = classes
        self._layout = layout
        self._room = max(_SMALL, _MOST_TIMES * sum(each.nbytes for each in tensors.values()))

    def value(self, tree: Any) -> Any:
        """Return the value of plain data. Raises a built-in error on what is none."""
        if tree is None or isinstance(tree, str | bool | int | float):
            return tree
        if not isinstance(tree, dict) or len(tree) != 1:
            raise BadInputError(f"a {type(tree).__name__} stands where a value should")
        [(kind, held)] = tree.items()
        if kind == "tensor":
            if held not in self.tensors:
                raise BadInputError(f"its tensor {held!r} is missing")
            self.used.add(held)
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
            found = {self.value(key): self.value(each) for key, each in held}
            if len(found) < len(held):
                raise BadInputError("a mapping in it has a key twice")
            return found
        return self._built(kind, {name: self.value(each) for name, each in held.items()})

    def _built(self, name: str, parts: dict[str, Any]) -> Any:
        kind = self._classes.get(name)
        if kind is None:
            raise BadInputError(f"it names {name!r}, which this SteerLens does not have")
        own, asked = [each.name for each in fields(kind) if each.init], hints(kind)
        if self._layout < 3:
            own = [at for at in own if at in parts or at not in _NOT_YET_HELD]
            made = _ONCE_HELD if name.startswith("transforms.") else ()
            parts = {at: each for at, each in parts.items() if at in own or at not in made}
        for field in own:
            if field not in parts:
                raise BadInputError(f"its {name} lacks {field!r}")
            if not fits(parts[field], asked[field]):
                raise BadInputError(f"{type(parts[field]).__name__} cannot be {name}.{field}")
        if len(parts) > len(own):
            raise BadInputError(f"its {name} has fields that this SteerLens does not know")
        _check_numbers(name, kind, parts)
        self.places |= dict.fromkeys(places(name, parts))
        if "model" in parts.get("provenance", ()):
            self.sources.append(parts["provenance"])
        return kind(**parts)


def _check_numbers(name: str, kind: type, parts: Mapping[str, Any]) -> None:
    """Raise BadInputError where a part that acts is not a number."""
    if name.split(".")[0] in _ACTING and not issubclass(kind, Stored):
        for field, part in parts.items():
            if isinstance(part, Tensor | float) and bool(torch.isnan(torch.as_tensor(part)).any()):
                raise BadInputError(f"{name}.{field} is not a number")
