"""Fingerprints: a short text that tells whether two values would give the same numbers.

The same in every process and on every machine, so that a file can say what it was made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any, cast

import torch
from torch import Tensor, nn

from steerlens.host import Host

FEW = 16
"""How many numbers of each parameter tell a model."""


def fingerprint(*values: Any) -> str:
    """Return 12 hex digits that two values share where all they are made of is equal.

    Tensors count by their bytes, dataclasses by the fields that are compared, plain objects by
    theirs, functions by their name (what they close over is not seen).

    >>> fingerprint(torch.ones(2)) == fingerprint(torch.ones(2))
    True
    >>> fingerprint({"a": 1}) == fingerprint({"a": 1.5})
    False
    """
    return sha256(repr([_plain(each) for each in values]).encode()).hexdigest()[:12]


def model_fingerprint(model: Host) -> str:
    """Return the fingerprint of a model's weights: of the first few numbers of each parameter.

    Another training seed, another checkpoint and folded norms change it. Cost: microseconds a
    parameter, whatever its size.
    """
    named = sorted(cast(nn.Module, model).named_parameters(), key=lambda pair: str(pair[0]))
    return fingerprint(
        [(name, list(each.shape), each.detach().flatten()[:FEW]) for name, each in named]
    )


def _plain(value: Any) -> Any:
    """A value as nested lists whose text tells all of it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Tensor):
        return ["tensor", list(value.shape), str(value.dtype), _bytes(value)]
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(each)] for key, each in value.items()]
    name = type(value).__qualname__
    if is_dataclass(value) and not isinstance(value, type):
        compared = [each.name for each in fields(value) if each.compare]
        return [name, [[each, _plain(getattr(value, each))] for each in compared]]
    if isinstance(value, set | frozenset):
        return sorted(repr(_plain(each)) for each in value)
    if isinstance(value, Iterable):
        return [_plain(each) for each in value]
    if hasattr(value, "__qualname__"):
        return [str(getattr(value, "__module__", "")), str(value.__qualname__)]
    return [name, _plain(vars(value)) if hasattr(value, "__dict__") else name]


def _bytes(tensor: Tensor) -> str:
    contiguous = tensor.detach().cpu().contiguous().reshape(-1)
    return sha256(contiguous.view(torch.uint8).numpy().tobytes()).hexdigest()
