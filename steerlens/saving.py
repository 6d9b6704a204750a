"""The verbs `save` and `load`: steerings, directions, bases and edits as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from steerlens import packing
from steerlens.basis import Basis
from steerlens.directions import Direction, Directions
from steerlens.editing import Edit
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.steering import Steering

Saved = Steering | Direction | Directions | Basis | Edit
KINDS: dict[str, type[Direction | Directions | Basis]] = {
    "direction": Direction,
    "directions": Directions,
    "basis": Basis,
}


def save(value: Saved, path: str | Path) -> None:
    """Write a Steering, Direction, Directions, Basis or Edit as one safetensors file.

    Whole or not at all, with the names of the models it was made on, and no machine's paths.
    Raises BadInputError on anything else, and on a steering with a function of the user's own.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(steering, f"{folder}/good.safetensors")
    ...     load(f"{folder}/good.safetensors")
    Steering(4 * add('direction') @ blocks.2.hook_resid_post[predicting])
    """
    if isinstance(value, Steering | Edit):
        value.save(path)
    else:
        packing.write(path, kind_of(value), value)


def load(path: str | Path, model: Host | None = None) -> Saved:
    """Return what `save` wrote. With `model`, raise BadInputError if it is for another by name.

    Raises BadInputError, naming the file, on one that is not there, broken, of a later layout or
    none of ours. Nothing in a file is run.
    """
    kind = _kind(path)
    if kind == "edit":
        return Edit.load(path, model)
    if kind in KINDS:
        return cast(Saved, packing.read(path, kind, KINDS[kind], model))
    return Steering.load(path, model)


def kind_of(value: object) -> str:
    """Return the kind of a direction, directions or a basis. Raises BadInputError on others."""
    for kind, each in KINDS.items():
        if isinstance(value, each):
            return kind
    raise BadInputError(
        f"Steerings, directions, bases and edits can be saved; got {type(value).__name__}."
    )


def _kind(path: str | Path) -> str:
    """What a file says it holds; where it cannot be told, reading it will tell why."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return str(json.loads(file.metadata()["steerlens"])["kind"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return "steering"
