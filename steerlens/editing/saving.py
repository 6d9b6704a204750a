"""An edit as one safetensors file, with what it was made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from steerlens import storage
from steerlens.components import Block
from steerlens.editing.factors import Embeddings, Factors, Gates, Place
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.packing.classes import fits, hints
from steerlens.provenance import Allow, allowed, check_same_model, provenance

if TYPE_CHECKING:
    from steerlens.editing.value import Edit

KIND = "edit"
_TENSORS = ("factors", "gates", "embeddings", "importance")
"""What the names of an edit's tensors begin with."""


def save(edit: Edit, path: str | Path) -> None:
    """Write an edit; see `Edit.save`."""
    tensors: dict[str, Tensor] = {}
    described: list[dict[str, Any]] = []
    for i, each in enumerate(edit.factors):
        for name in ("units", "strengths", "reads", "writes", "toward"):
            tensors[f"factors.{i}.{name}"] = getattr(each, name).clone()
        described.append({"place": each.place, "of": each.of, "bias": each.bias, "norm": each.norm})
    for gate in edit.gates:
        tensors[f"gates.{gate.layer}.gain"] = gate.gain
        tensors[f"gates.{gate.layer}.offset"] = gate.offset
    if edit.embeddings is not None:
        tensors["embeddings"] = edit.embeddings.direction
    for (layer, block), g in edit.importance.items():
        tensors[f"importance.{layer}.{block}"] = g.clone()
    made_on = dict(edit.provenance)
    if "model" in made_on:
        made_on["model"] = Path(made_on["model"]).name  # a folder's path stays where it is
    about = {
        "name": edit.name,
        "maker": edit.maker,
        "factors": described,
        "gates": [each.layer for each in edit.gates],
        "share": None if edit.embeddings is None else edit.embeddings.share,
        "reasons": [[*place, why] for place, why in edit.reasons.items()],
        "provenance": made_on,
    }
    storage.write(path, KIND, tensors, about)


def load(kind: type[Edit], path: str | Path, model: Host | None, allow: Allow) -> Edit:
    """Read an edit; see `Edit.load`."""
    tensors, about = storage.read(path, KIND)
    try:
        edit = kind(
            tuple(_factors(tensors, i, each) for i, each in enumerate(about["factors"])),
            tuple(
                Gates(layer, tensors[f"gates.{layer}.gain"], tensors[f"gates.{layer}.offset"])
                for layer in about["gates"]
            ),
            None if about["share"] is None else Embeddings(tensors["embeddings"], about["share"]),
            name=about["name"],
            maker=about["maker"],
            importance={
                _place(name.split(".")[1:]): g
                for name, g in tensors.items()
                if name.startswith("importance.")
            },
            reasons={_place(each[:2]): each[2] for each in about["reasons"]},
            provenance=about["provenance"],
        )
        for part in (edit, *edit.factors, *edit.gates, edit.embeddings):
            _check_fields(part)
        unread = sorted(name for name in tensors if name.split(".")[0] not in _TENSORS)
        if unread:
            raise BadInputError(f"nothing names its tensor {unread[0][:60]!r}")
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        told = str(error).removesuffix(".").replace("\n", " ")
        raise BadInputError(f"{path} is no whole edit: {told}.") from None
    if model is None:
        return edit
    check_same_model(model, edit.provenance, f"The edit in {path}", allow)
    return replace(edit, provenance=_moved(edit.provenance, provenance(model), allowed(allow)))


def _check_fields(part: Any) -> None:
    """Raise BadInputError where a field is not what its annotation asks for."""
    kind: Any = type(part)
    for name, hint in hints(kind).items() if part is not None else ():
        if not fits(getattr(part, name), hint):
            raise BadInputError(f"its {name} is no {hint}")


def _moved(
    made_on: Mapping[str, str], here: Mapping[str, str], allow: set[str]
) -> Mapping[str, str]:
    """Provenance of an edit that is meant for another model: that model's, and what it was."""
    keys = {"model": ["model"], "weights": ["weights", "writers"]}
    keys_allowed = [key for each in allow for key in keys.get(each, ()) if key in here]
    differing = [key for key in keys_allowed if made_on.get(key, here[key]) != here[key]]
    before = {f"{key} before": made_on[key] for key in differing}
    return {**made_on, **{key: here[key] for key in differing}, **before}


def _factors(tensors: dict[str, Tensor], i: int, about: dict[str, Any]) -> Factors:
    names = ("units", "strengths", "reads", "writes", "toward")
    parts = {name: tensors[f"factors.{i}.{name}"] for name in names}
    return Factors(
        _place(about["place"]), about["of"], **parts, bias=about["bias"], norm=about["norm"]
    )


def _place(parts: list[Any]) -> Place:
    layer, block = parts
    if block not in ("attn", "mlp"):
        raise ValueError(f"there is no block {block!r}")
    return int(layer), cast(Block, block)
