"""Values as plain data: a tree for JSON with tensors beside it, and back by an allow-list.

Steerings, directions, contrasts and the like are frozen dataclasses all through, so that names of
classes and their fields say all there is to know. Only classes that SteerLens makes public as parts
of such values are built from a file: nothing is unpickled, and no name is looked up anywhere else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from steerlens import storage
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.packing.classes import OPAQUE as OPAQUE
from steerlens.packing.classes import fits
from steerlens.packing.classes import known as known
from steerlens.packing.packer import Packer, portable
from steerlens.packing.unpacker import Unpacker
from steerlens.provenance import Allow, allowed, check_places, check_same_model

__all__ = ["OPAQUE", "known", "portable", "read", "write"]

_BROKEN = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, re.error)


def write(path: str | Path, kind: str, value: object, also: tuple[type, ...] = ()) -> None:
    """Write a value as one safetensors file of a kind, whole or not at all.

    `also` are classes of that kind's own. Raises BadInputError, naming the part, where the value
    holds a function or a class of the user's own.
    """
    packer = Packer(known(also))
    try:
        tree = packer.tree(value, "")
    except RecursionError:
        raise BadInputError(
            f"The {kind} is nested too deeply to be written. Sum its parts at once, a + b + c, "
            "rather than one inside the other."
        ) from None
    about = {"value": tree, "models": sorted(packer.models), "hook_names": list(packer.places)}
    storage.write(path, kind, packer.tensors, about)


def read(
    path: str | Path,
    kind: str,
    wanted: Any,
    model: Host | None = None,
    allow: Allow = (),
    also: tuple[type, ...] = (),
) -> Any:
    """Return the value of a file of a kind; with `model`, check that it was made on that one.

    `wanted` is what it should be, `allow` which differences of the model are meant. Raises
    BadInputError, naming the file, on anything else: another kind, a later layout, an unknown class
    or field, tensors that are missing, do not fit, or that nothing names.
    """
    allowed(allow)
    tensors, about = storage.read(path, kind)
    unpacker = Unpacker(tensors, known(also), about["version"])
    try:
        if "value" not in about:
            raise BadInputError("its header tells no value")
        value = unpacker.value(about["value"])
        if not fits(value, wanted):
            raise BadInputError(f"it holds {type(value).__name__}")
        if unused := sorted(tensors.keys() - unpacker.used):
            raise BadInputError(f"nothing names its tensor {unused[0][:60]!r}")
    except RecursionError:
        raise BadInputError(f"{path} is no whole {kind}: it is nested too deeply.") from None
    except _BROKEN as error:
        told = str(error).removesuffix(".")
        raise BadInputError(f"{path} is no whole {kind}: {told}.") from None
    if model is not None:
        for source in unpacker.sources:
            check_same_model(model, source, f"The {kind} in {path}", allow)
        check_places(model, unpacker.places, f"The {kind} in {path}", allow)
    return value
