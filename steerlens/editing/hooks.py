"""An edit as HookPoint callbacks: steering whose coefficient is read off the components."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from steerlens.components import components
from steerlens.directions import Direction
from steerlens.editing.factors import Embeddings, Factors, Gates
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.interventions import Intervention
from steerlens.names import hook_name
from steerlens.positions import every_token
from steerlens.signals import Constant, Readout, Reciprocal, Signal, product
from steerlens.steering import Steering, together
from steerlens.transforms import Ablate, Add, AddBeforeNorm, Affine


def as_steering(
    factors: Sequence[Factors],
    gates: Sequence[Gates],
    embeddings: Embeddings | None,
    name: str,
    model: Host | None,
) -> Steering:
    """Return what the edit does, as interventions at every token."""
    found = [*_factors(factors, name, model), *_gates(gates), *_embeddings(embeddings, name)]
    if not found:
        raise BadInputError(
            f"The edit {name!r} changes nothing, so there is nothing to run. Did any component "
            "pass the threshold? See its importance, or take a lower rho."
        )
    return together(found)


def _factors(factors: Sequence[Factors], name: str, model: Host | None) -> Iterator[Intervention]:
    normed = Counter(each.place for each in factors if each.norm is not None)
    for place, times in normed.items():
        if times > 1:
            raise BadInputError(
                f"{times} directions are written in front of the norm after {place[1]!r} of layer "
                f"{place[0]}, which hooks cannot add up. Run one edit inside the other."
            )
    for each in factors:
        read = each.readout()
        amount: Signal = Readout(read, each.bias).at(read.hook_name)
        if each.norm is None:
            vector = Direction(each.name, each.writes, name=name)
            yield Intervention(each.name, Add(vector), every_token, amount)
            continue
        norm = each.norm if model is None else components(model).norm_name(*each.place)
        vector = Direction(f"{norm}.hook_normalized", each.writes, name=name)
        coeff = product(amount, Reciprocal().at(f"{norm}.hook_scale"))
        yield Intervention(vector.hook_name, AddBeforeNorm(vector), every_token, coeff)


def _gates(gates: Sequence[Gates]) -> Iterator[Intervention]:
    for each in gates:
        place = hook_name("z", each.layer)
        yield Intervention(place, Affine(each.gain, each.offset), every_token, Constant(1.0))


def _embeddings(embeddings: Embeddings | None, name: str) -> Iterator[Intervention]:
    if embeddings is not None:
        place = hook_name("resid_pre", 0)
        ablation = Ablate(Direction(place, embeddings.direction, name=name))
        yield Intervention(place, ablation, every_token, Constant(embeddings.share))
