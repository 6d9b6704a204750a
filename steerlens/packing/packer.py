"""Values taken apart: a tree for JSON, and their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from numbers import Integral, Real
from pathlib import PureWindowsPath
from typing import Any

from torch import Tensor

from steerlens.errors import BadInputError
from steerlens.packing.classes import OPAQUE, called, places
from steerlens.storage import hash_of

_QUOTED = re.compile(r"""((\\*['"])([^'"\\]+)\2: (\\*['"]))(?!\{)(.*?)(\4)""")
"""A key and its value, where provenance was written out as text inside another."""


class Packer:
    """Takes values apart; equal tensors are kept once."""

    def __init__(self, classes: Mapping[str, type]) -> None:
        """Take the classes that may stand in the file."""
        self.tensors: dict[str, Tensor] = {}
        """By the names that the tree gives them."""
        self.models: set[str] = set()
        """What models its parts say they were made on."""
        self.places: dict[str, None] = {}
        """The hook names in it, in order."""
        self._classes = set(classes.values())
        self._names: dict[str, str] = {}

    def tree(self, value: Any, where: str) -> Any:
        """Return plain data for a value that stands `where` in the whole."""
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
        if type(value) in self._classes:
            return {called(type(value)): self._fields(value, where)}
        if isinstance(value, Mapping):
            inside = [(k, v, f"{where}[{k!r}]") for k, v in value.items()]
            return {"mapping": [[self.tree(k, at), self.tree(v, at)] for k, v, at in inside]}
        raise BadInputError(_cannot(value, where.removeprefix(".")))

    def _fields(self, value: Any, where: str) -> dict[str, Any]:
        found = {}
        parts = {each.name: getattr(value, each.name) for each in fields(value)}
        self.places |= dict.fromkeys(places(called(type(value)), parts))
        for each in fields(value):
            part = parts[each.name]
            if each.name == "provenance":
                part = portable(part)
                self.models |= {part["model"]} if "model" in part else set()
            if each.init:
                found[each.name] = self.tree(part, f"{where}.{each.name}")
        return found

    def _kept(self, tensor: Tensor) -> str:
        own = tensor.detach().cpu().contiguous()
        name = self._names.setdefault(hash_of(own), str(len(self._names)))
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


def portable(provenance: Mapping[str, str]) -> dict[str, str]:
    """Return provenance with the last part of every path alone: no file tells of a machine."""

    def inside(found: re.Match[str]) -> str:
        return found[1] + _last(found[3], found[5]) + found[6]

    return {key: _last(key, _QUOTED.sub(inside, str(each))) for key, each in provenance.items()}


def _last(key: str, text: str) -> str:
    """The last part of a model's name, or of a path, however its machine writes paths."""
    path = PureWindowsPath(text)
    return path.name if key == "model" or path.root or text.startswith("~") else text
