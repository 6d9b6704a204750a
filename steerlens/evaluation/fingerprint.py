"""Fingerprints: a short text that tells whether two values would give the same numbers.

The same in every process and on every machine, so that a file can say what it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from copyreg import dispatch_table
from dataclasses import fields, is_dataclass
from hashlib import sha256
from types import MethodType
from typing import Any, cast

from torch import Tensor, nn

from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.storage import hash_of


def fingerprint(*values: Any) -> str:
    """Return 12 hex digits that two values share where all they are made of is equal.

    Tensors count by their bytes, dataclasses by the fields that are compared, functions by their
    name (what they close over is not seen), NumPy's values by their numbers, and any other object
    by what a copy of it would be made from. Raises BadInputError on one that cannot be told from
    others of its kind: a generator, a lock, an open file.

    >>> fingerprint(torch.ones(2)) == fingerprint(torch.ones(2))
    True
    >>> fingerprint({"a": 1}) == fingerprint({"a": 1.5})
    False
    """
    try:
        told = repr([_plain(each) for each in values])
    except RecursionError:
        raise BadInputError(
            "A value holds itself, or is nested too deeply to be told from others. Give parts."
        ) from None
    return sha256(told.encode()).hexdigest()[:12]


def model_fingerprint(model: Host) -> str:
    """Return the fingerprint of a model's weights: of every bit of each parameter.

    Another training seed, another checkpoint, folded norms and an edit change it. Cost: a hash of
    the weights on the CPU, some seconds a gigabyte.
    """
    named = sorted(cast(nn.Module, model).named_parameters(), key=lambda pair: str(pair[0]))
    return fingerprint([(name, hash_of(each)) for name, each in named])


def _plain(value: Any) -> Any:
    """A value as nested lists whose text tells all of it."""
    if isinstance(value, Tensor):
        return ["tensor", hash_of(value)]
    if hasattr(value, "tolist") and not isinstance(value, type):
        # before floats: NumPy's float64 is one, under another repr
        value = value.tolist()
    if value is None or isinstance(value, str | bytes | int | float):
        return value
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(each)] for key, each in value.items()]
    name = type(value).__qualname__
    if is_dataclass(value) and not isinstance(value, type):
        compared = [each.name for each in fields(value) if each.compare]
        return [name, [[each, _plain(getattr(value, each))] for each in compared]]
    if isinstance(value, Set):
        return sorted(repr(_plain(each)) for each in value)
    if isinstance(value, Sequence):
        return [_plain(each) for each in value]
    if isinstance(value, MethodType):
        return [_plain(value.__func__), _plain(value.__self__)]
    if callable(value) and hasattr(value, "__qualname__"):  # a generator has one too
        return [str(getattr(value, "__module__", "")), str(value.__qualname__)]
    return [name, _plain(_made_from(value))]


def _made_from(value: Any) -> Any:
    """What `copy` makes another such object from: attributes, slots, a pattern and its flags."""
    reduce = dispatch_table.get(type(value))
    try:
        return reduce(value) if reduce else value.__reduce_ex__(4)
    except Exception as error:
        raise BadInputError(
            f"A {type(value).__qualname__} cannot be told from another: {error}. Give the values "
            "that it is made of, or leave out path=."
        ) from error
