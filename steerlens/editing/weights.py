"""An edit in a model's weights: planned whole, written whole, undone bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerlens.components import Block
from steerlens.editing.factors import Embeddings, Factors, Gates
from steerlens.editing.kept import forget, keep
from steerlens.errors import BadInputError
from steerlens.host import Host, is_bridge
from steerlens.provenance import check_same_model

_WEIGHTS: dict[Block, tuple[str, str, str]] = {
    "attn": ("attn", "W_O", "b_O"),
    "mlp": ("mlp", "W_out", "b_out"),
}


@dataclass
class Slice:
    """A part of a weight: what stands there, and what shall."""

    owner: Any
    attribute: str
    name: str
    index: Any
    after: Tensor
    before: Tensor

    @property
    def now(self) -> Tensor:
        """What stands there now."""
        weight: Tensor = getattr(self.owner, self.attribute)
        return weight.detach()[self.index]

    def write(self, value: Tensor) -> None:
        """Write a value, and read it back: a host that hands out copies is an error."""
        with torch.no_grad():
            getattr(self.owner, self.attribute)[self.index] = value
        if not torch.equal(self.now, value):
            raise BadInputError(
                f"What is written to {self.name} does not stay: the host hands out a copy of this "
                "weight. Load the model without weight processing, or run edit.as_steering()."
            )


class Handle:
    """An edit in place: `undo()` restores every bit."""

    slices: list[Slice]
    """Every part of a weight that was written, with what stood there."""

    def __init__(
        self,
        slices: Sequence[Slice],
        untied: _Untied | None,
        model: Host,
        name: str,
        parts: tuple[object, ...],
    ) -> None:
        """Write all slices; on an exception put back what was there."""
        self.untied = untied
        self.model = model
        self.name = name
        """The edit's."""
        self.parts = parts
        """What the edit is made of, by which it is known again."""
        self.slices = list(slices)
        self._undoing = self._done = False
        written: list[Slice] = []
        try:
            for each in self.slices:
                written.append(each)
                each.write(each.after)
        except BaseException:
            with torch.no_grad():
                for each in reversed(written):
                    getattr(each.owner, each.attribute)[each.index] = each.before
            if untied is not None:
                untied.tie()
            raise
        keep(model, self)

    def undo(self) -> None:
        """Put every bit back as it was before the edit.

        Raises BadInputError where something else has changed these weights since: undo the later
        edit first. After an interrupt another call ends what it began; a second one does nothing.
        """
        if self._done:
            return
        for each in self.slices:
            if not self._undoing and not torch.equal(each.now, each.after):
                raise BadInputError(
                    f"{each.name} has been changed since this edit was applied. Undo the later "
                    "change first: edits come off in the reverse of the order they went on, which "
                    "is that of steerlens.editing.handles(model)."
                )
        self._undoing = True
        for each in reversed(self.slices):
            each.write(each.before)
        if self.untied is not None:
            self.untied.tie()
        self._done = True
        forget(self.model, self)

    def __repr__(self) -> str:
        """Return what was touched, and whether it still is."""
        size = sum(each.before.numel() * each.before.element_size() for each in self.slices)
        state = "undone" if self._done else "applied"
        kept = f"{len(self.slices)} slices, {size / 1e6:.1f} MB kept for undo"
        return f"Handle({self.name!r}, {state}, {kept})"


def apply(
    factors: Sequence[Factors],
    gates: Sequence[Gates],
    embeddings: Embeddings | None,
    model: Host,
    provenance: Mapping[str, str],
    name: str,
) -> Handle:
    """Write an edit into a model's weights. Raises BadInputError before anything is written."""
    parts = (*factors, *gates, embeddings)
    check_same_model(model, provenance, "The edit")
    slices = [*_factors(model, factors), *_gates(model, gates)]
    if embeddings is None:
        return Handle(slices, None, model, name, parts)
    rows = list(_embeddings(model, embeddings))
    return Handle([*slices, *rows], _Untied.of(model), model, name, parts)


def _factors(model: Any, factors: Sequence[Factors]) -> Iterator[Slice]:
    """Every slice once, with all changes of a block added up."""
    for place in dict.fromkeys(each.place for each in factors):
        mine = [each for each in factors if each.place == place]
        layer, block = place
        weight = writer(model, layer, block, mine[0].of, mine[0].reads.shape[1])
        units = torch.tensor(
            sorted({i for each in mine for i in each.units.tolist()}), dtype=torch.long
        )
        index = units.to(weight.device)
        wide = torch.promote_types(weight.dtype, torch.float32)
        after = weight.detach()[index].to(wide)
        for each in mine:
            at = torch.searchsorted(units, each.units).to(weight.device)
            k, v = (part.to(after) for part in (each.reads, each.writes))
            change = (each.strengths.to(after)[:, None] * k)[..., None] * v
            after[at] += change if block == "attn" else change[:, 0]
        if len(units):
            yield _slice(model, layer, block, 1, index, after)
        bias = sum(float(each.bias) * each.writes for each in mine if each.bias)
        if isinstance(bias, Tensor):
            yield from _bias(model, layer, block, bias)


def _gates(model: Any, gates: Sequence[Gates]) -> Iterator[Slice]:
    for each in gates:
        heads, d_head = each.gain.shape
        weight = writer(model, each.layer, "attn", heads, d_head)
        index = each.units.to(weight.device)
        wide = torch.promote_types(weight.dtype, torch.float32)
        before = weight.detach()[index].to(wide)
        after = each.gain[each.units].to(before)[..., None] * before
        yield _slice(model, each.layer, "attn", 1, index, after)
        if bool(each.offset.any()):
            offset = torch.einsum("hi,hid->d", each.offset[each.units].to(before), before)
            yield from _bias(model, each.layer, "attn", offset)


def _bias(model: Any, layer: int, block: Block, change: Tensor) -> Iterator[Slice]:
    part, _, name = _WEIGHTS[block]
    own = getattr(getattr(model.blocks[layer], part), name, None)
    if own is None:
        raise BadInputError(
            f"blocks.{layer}.{part} has no {name} to hold a constant that the edit adds. Run it as "
            "hooks: edit.as_steering()."
        )
    wide = torch.promote_types(own.dtype, torch.float32)
    yield _slice(model, layer, block, 2, slice(None), own.detach().to(wide) + change.to(own.device))


def _slice(model: Any, layer: int, block: Block, which: int, index: Any, after: Tensor) -> Slice:
    names = _WEIGHTS[block]
    owner = getattr(model.blocks[layer], names[0])
    name = f"blocks.{layer}.{names[0]}.{names[which]}"
    return _made(owner, names[which], name, index, after)


def _made(owner: Any, attribute: str, name: str, index: Any, after: Tensor) -> Slice:
    weight: Tensor = getattr(owner, attribute).detach()
    after = after.to(weight.dtype)
    if not torch.isfinite(after).all():
        raise BadInputError(f"The edit is too strong: {name} would overflow in {weight.dtype}.")
    return Slice(owner, attribute, name, index, after, weight[index].clone())


def writer(model: Any, layer: int, block: Block, units: int, d_in: int) -> Tensor:
    """Return W_O or W_out of a layer, in TransformerLens's layout.

    Raises BadInputError, naming the module, where `writable` does, or where it has another shape
    than the edit was made for.
    """
    weight = writable(model, layer, block)
    shape = (units, d_in) if block == "attn" else (units,)
    if tuple(weight.shape[:-1]) != shape:
        part, name, _ = _WEIGHTS[block]
        raise BadInputError(
            f"blocks.{layer}.{part}.{name} has shape {tuple(weight.shape)}; the edit was made for "
            f"{(*shape, 'd_model')}. Is it the same model?"
        )
    return weight


def writable(model: Any, layer: int, block: Block) -> Tensor:
    """Return W_O or W_out of a layer.

    Raises BadInputError, naming the module, where it is missing (a mixture of experts) or
    quantised.
    """
    part, name, _ = _WEIGHTS[block]
    where = f"blocks.{layer}.{part}"
    if not 0 <= layer < int(model.cfg.n_layers):
        raise BadInputError(
            f"The model has no {where}: its layers are 0 to {model.cfg.n_layers - 1}."
        )
    experts = block == "mlp" and bool(getattr(model.cfg, "num_experts", None))
    try:
        weight: Tensor | None = getattr(getattr(model.blocks[layer], part), name, None)
    except NotImplementedError as error:  # a bridge tells packed weights so
        raise BadInputError(
            f"{where}.{name} is quantised, or not in memory: {error} Load the model in bfloat16 "
            "or float32."
        ) from error
    if weight is None or experts:
        kind = "a mixture of experts" if experts else "not known"
        raise BadInputError(
            f"{where} has no {name}: its layout is {kind}, and it cannot be edited. Edit heads "
            "alone (steer2edit with rho_mlp=None, thinkedit), or steer by hooks."
        )
    _check_whole(weight, f"{where}.{name}")
    return weight


def _check_whole(weight: Tensor, name: str) -> None:
    """Raise BadInputError on a weight in fewer than 16 bits."""
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise BadInputError(
            f"{name} is quantised ({weight.dtype}); an edit would be lost in rounding. Load the "
            "model in bfloat16 or float32."
        )


def _embeddings(model: Any, embeddings: Embeddings) -> Iterator[Slice]:
    for part, name in (("embed", "W_E"), ("pos_embed", "W_pos")):
        owner = getattr(model, part, None)
        weight = getattr(owner, name, None)
        if weight is None:
            continue
        _check_whole(weight, f"{part}.{name}")
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        unit = embeddings.direction.to(wide)
        after = wide - embeddings.share * (wide @ unit)[:, None] * unit
        yield _made(owner, name, f"{part}.{name}", slice(None), after)


@dataclass
class _Untied:
    """The unembedding of a bridge, given a weight of its own."""

    head: nn.Module
    tied: nn.Parameter

    @classmethod
    def of(cls, model: Any) -> _Untied | None:
        """Give the unembedding a copy of the shared weight; None where nothing is shared."""
        if not is_bridge(model):
            return None  # a HookedTransformer's W_U is its own
        embedding = model.original_model.get_input_embeddings().weight
        for module in model.original_model.modules():
            own = module._parameters.get("weight")
            if own is embedding and isinstance(module, nn.Linear):
                with torch.inference_mode(False):
                    copy = nn.Parameter(own.detach().clone(), requires_grad=own.requires_grad)
                module._parameters["weight"] = copy
                return cls(module, own)
        return None

    def tie(self) -> None:
        """Share the weight again."""
        self.head._parameters["weight"] = self.tied
