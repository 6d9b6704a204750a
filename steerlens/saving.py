"""The verbs `save` and `load`: everything that took work, as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steerlens import packing, storage
from steerlens.attribution import Attribution
from steerlens.attribution.value import Scores
from steerlens.basis import Basis
from steerlens.contrast import Contrast
from steerlens.directions import Direction, Directions
from steerlens.editing import Edit
from steerlens.errors import BadInputError
from steerlens.evaluation import tables
from steerlens.host import Host
from steerlens.provenance import Allow
from steerlens.signals import Combining
from steerlens.steering import Steering


def _mask() -> tuple[type, ...]:
    from steerlens.methods.masks import Mask

    return (Mask,)


def _adaptation() -> tuple[type, ...]:
    from steerlens.methods.adaptation import Adaptation, Trial

    return Adaptation, Trial


KINDS: dict[str, Callable[[], tuple[type, ...]]] = {
    "direction": lambda: (Direction,),
    "directions": lambda: (Directions,),
    "basis": lambda: (Basis,),
    "contrast": lambda: (Contrast,),
    "signal": lambda: (Combining,),
    "attribution": lambda: (Attribution, Scores),
    "mask": _mask,
    "adaptation": _adaptation,
}
"""The class of each kind, and those that stand in files of that kind alone. Steerings, edits and
tables have a way of their own."""


def save(value: object, path: str | Path) -> None:
    """Write what took work as one safetensors file: whole or not at all.

    - `value`: a Steering (gates and all), Direction, Directions, Basis, Edit, Contrast, signal (a
      gate alone), Attribution, a method's Mask, an Adaptation, or the table of a sweep.

    The file says what it holds, what models that was made on (names, no machine's paths), how their
    weights were processed, and a hash of every tensor. Raises BadInputError on anything else, and
    on a function of the user's own.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save(steering, f"{folder}/good.safetensors")
    ...     load(f"{folder}/good.safetensors")
    Steering(4 * add('direction') @ blocks.2.hook_resid_post[predicting])
    """
    if isinstance(value, Steering | Edit):
        value.save(path)
    elif tables.is_table(value):
        packing.write(path, "table", tables.packed(value))
    else:
        kind = kind_of(value)
        packing.write(path, kind, value, KINDS[kind]())


def load(path: str | Path, model: Host | None = None, *, allow: Allow = ()) -> Any:
    """Return what `save` wrote. With `model`, raise BadInputError if it was made on another.

    - `model`: told apart by name, by how its weights were processed (norms folded, writers
      centred), and by its hook points.
    - `allow`: the differences that are meant: "model", "weights", "hook_names", or several.

    Raises BadInputError, naming the file, on one that is not there, broken, changed since it was
    written, of a later layout or none of ours. Nothing in a file is run.
    """
    kind = storage.describe(path)["kind"]
    if kind == "edit":
        return Edit.load(path, model, allow=allow)
    if kind == "table":
        return tables.unpacked(packing.read(path, kind, dict, model, allow), path)
    if kind not in KINDS:
        return Steering.load(path, model, allow=allow)
    classes = KINDS[kind]()
    return packing.read(path, kind, classes[0], model, allow, classes)


def kind_of(value: object) -> str:
    """Return the kind of a value that is packed as it is. Raises BadInputError on others."""
    for kind, classes in KINDS.items():
        if isinstance(value, classes()[0]):
            return kind
    raise BadInputError(
        "Steerings, directions, bases, edits, contrasts, signals, attributions, masks, "
        f"adaptations and tables of sweeps can be saved; got {type(value).__name__}. The value "
        "comes first: save(value, path)."
    )
