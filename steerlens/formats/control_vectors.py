"""Control vectors of llama.cpp and repeng: a vector a layer in a gguf file.

`direction.N` is added to the output of block N, counted from 0: repeng finds it there (its
`hidden_states[N + 1]`) and llama.cpp adds it there (at "l_out" of layer N), so that it lives at
`blocks.N.hook_resid_post`. llama.cpp reads no vector of layer 0, and only float32. Both add
strength times the vector to every token, BOS too; nothing else can be said in the format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from steerlens.directions import Direction, Directions
from steerlens.errors import BadInputError
from steerlens.formats import gguf
from steerlens.formats.layers import Exported, from_layers, to_layers
from steerlens.transforms import Add

ARCHITECTURE = "controlvector"
_HINT = f"{ARCHITECTURE}.model_hint"
_NAME = re.compile(r"direction\.(0|[1-9][0-9]{0,4})")


def from_gguf(path: str | Path, name: str | None = None) -> Directions:
    """Return the directions of a control vector in a gguf file, at each block's output.

    - `name`: by default the file's own, or what the file is called.

    The file's `model_hint` (an architecture, such as "llama") stands in the provenance: the format
    names no model, so that `load`'s check has nothing to go by. Raises BadInputError, naming the
    file, on one that is not there, broken, or no control vector.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     to_gguf(directions["resid_post", 2], f"{folder}/joy.gguf", model_hint="llama")
    ...     from_gguf(f"{folder}/joy.gguf")["resid_post", 2].hook_name
    'blocks.2.hook_resid_post'
    """
    file = gguf.read(path)
    kind = file.fields.get("general.architecture")
    if kind != ARCHITECTURE:
        raise BadInputError(
            f"{path} is a gguf file of {str(kind)[:60]!r}, and one of {ARCHITECTURE!r} is wanted."
        )
    vectors = {}
    for each in file.tensors:
        match = _NAME.fullmatch(each)
        if match is None:
            raise BadInputError(f"{path} holds {each[:60]!r}, which is no direction.N.")
        vectors[int(match[1])] = file.tensor(each)
    _check_widths(vectors, f"The vectors in {path}")
    source = {
        "format": "gguf",
        "model_hint": str(file.fields.get(_HINT, "")),
        "file": file.path.name,
    }
    called = name or str(file.fields.get("general.name") or file.path.stem)
    try:
        found = from_layers(vectors, name=called)
    except BadInputError as error:
        raise BadInputError(f"{path} is no whole control vector: {error}") from None
    return Directions({hook: replace(each, provenance=source) for hook, each in found.items()})


def _check_widths(vectors: Mapping[int, Tensor], what: str) -> None:
    shapes = sorted({tuple(each.shape) for each in vectors.values()})
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise BadInputError(f"{what} have shapes {shapes}; a control vector has one width (d,).")


def to_gguf(value: Exported, path: str | Path, *, model_hint: str | None = None) -> None:
    """Write what a value adds as a control vector that llama.cpp and repeng read.

    - `value`: a direction or directions, as they are (a scale of 1 there is a coefficient of 1
      here), or a steering that adds, times its coefficients.
    - `model_hint`: the model's architecture, as Hugging Face's `model_type` ("llama"); repeng asks
      for one, llama.cpp does not read it.

    Whole or not at all. Raises BadInputError where the format cannot hold the value: anything but
    adding one vector at every token to a block's output, or layer 0, which llama.cpp refuses.
    """
    layers = to_layers(value)
    if 0 in layers:
        raise BadInputError(
            "A control vector cannot act at layer 0: llama.cpp refuses the whole file. Leave that "
            "layer out, or take to_layers(...) for a library of your own."
        )
    _check_widths(layers, "The vectors to write")
    parts = _directions(value)
    hint = model_hint or next((each.provenance.get("model_hint") for each in parts), None)
    fields: dict[str, str | int] = {
        "general.architecture": ARCHITECTURE,
        "general.name": " + ".join(dict.fromkeys(each.name for each in parts)),
        _HINT: hint or "unknown",
        f"{ARCHITECTURE}.layer_count": len(layers),
    }
    gguf.write(path, fields, {f"direction.{layer}": each for layer, each in layers.items()})


def _directions(value: Exported) -> list[Direction]:
    """The directions that a value adds."""
    if isinstance(value, Direction):
        return [value]
    if isinstance(value, Directions):
        return list(value.values())
    return [leaf.transform.along for leaf in value.interventions if isinstance(leaf.transform, Add)]
