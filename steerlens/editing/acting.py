"""What an edit adds at each token: one component's share, along the direction that it writes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.attribution.sides import input_name
from steerlens.cards import count, number
from steerlens.editing.factors import Factors
from steerlens.editing.value import Edit
from steerlens.errors import BadInputError, HookError, UnknownNameError, nearest
from steerlens.host import Host, check_hook_name, device_of
from steerlens.passes import one_pass
from steerlens.provenance import check_same_model
from steerlens.reading import Enough
from steerlens.text import Batch, Item, batches, encode_all, token_strings


@dataclass(frozen=True, eq=False)
class Acting:
    """What an edited component adds at every token of some items: λ k·x, times v."""

    component: str
    """As L3H5 or L3N120."""
    strength: float
    """λ."""
    tokens: tuple[tuple[str, ...], ...]
    """Each item's tokens as text, BOS included."""
    values: tuple[Float[Tensor, " _pos"], ...]
    """λ k·x at each token: how far the output moves along v, in units of the stream, in front of
    any norm after the block."""
    prompt_lengths: tuple[int, ...]
    """How many tokens of each item are its prompt."""

    def __repr__(self) -> str:
        """Return the component, and how much was read."""
        largest = max(float(each.abs().max()) for each in self.values)
        return (
            f"Acting({self.component}, λ {number(self.strength)}, up to {number(largest)} at "
            f"{count(sum(map(len, self.tokens)), 'token')} of {count(len(self.tokens), 'item')})"
        )


def acting(
    edit: Edit, model: Host, items: Iterable[Item], component: str, *, batch_tokens: int = 4096
) -> Acting:
    """Return what the edit of one component adds along v at every token.

    x is what goes into the component, a head's z or a neuron's `mlp_post`, in the model as it
    stands: inside `edit.applied(model)` or `edit.as_steering().on(model)` with what earlier edits
    have changed. Raises UnknownNameError on a component that the edit leaves alone, BadInputError
    on one that it moves along several v, on another model, and without items. Cost: a forward
    pass an item, up to the component's layer.

    >>> edit = sl.steer2edit(model, contrast, rho_attn=0.01, rho_mlp=None, progress=False)
    >>> found = acting(edit, model, ["a good day", "a bad day"], edit.frame()["component"][0])
    >>> len(found.tokens[0]) == len(found.values[0])
    True
    """
    factors, row = _factors_of(edit, component)
    check_same_model(model, edit.provenance, "The edit")
    name = check_hook_name(model, input_name(factors.place))
    encoded = encode_all(model, items, "Tokens are read in")
    values: dict[int, Tensor] = {}
    device = device_of(model)
    for rows, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device):
        read = _read(model, batch, name, factors, row)
        for at, line in zip(rows, read, strict=True):
            values[at] = line[: len(encoded[at].tokens)]
    return Acting(
        component,
        float(factors.strengths[row]),
        tuple(tuple(token_strings(model, torch.tensor(each.tokens))) for each in encoded),
        tuple(values[at] for at in range(len(encoded))),
        tuple(each.prompt_length for each in encoded),
    )


def _factors_of(edit: Edit, component: str) -> tuple[Factors, int]:
    """Return the factors that change a component, and its row in them."""
    labels = [(each, each.labels) for each in edit.factors]
    found = [(each, mine.index(component)) for each, mine in labels if component in mine]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInputError(
            f"The edit moves {component} along {len(found)} directions, each with a k of its own. "
            "Take one: dataclasses.replace(edit, factors=edit.factors[:1])."
        )
    if any(component in each.labels for each in edit.gates):
        raise UnknownNameError(
            f"{component} is gated: its z is scaled entry by entry, along no one direction. "
            "Compare edit.as_steering() with the model instead: sl.effect(model, steering, items)."
        )
    known = [label for _, mine in labels for label in mine]
    if not known:
        raise UnknownNameError(
            f"The edit {edit.name!r} has no {component!r}: it moves no head and no neuron along a "
            "direction."
        )
    raise UnknownNameError(
        f"The edit {edit.name!r} leaves {component!r} alone, or there is none; of the "
        f"{count(len(known), 'component')} that it moves, {nearest(component, known)}. "
        "All are in edit.frame()."
    )


@torch.no_grad()
def _read(
    model: Host, batch: Batch, name: str, factors: Factors, row: int
) -> Float[Tensor, "batch pos"]:
    """Return λ k·x at every token of a batch, pads too; the pass stops there."""
    unit, k = int(factors.units[row]), factors.strengths[row] * factors.reads[row]
    found: list[Tensor] = []

    def read(activation: Tensor, hook: Any) -> None:
        wanted = (factors.of, len(k))[: activation.ndim - 2]  # a neuron is one number
        if tuple(activation.shape[2:]) != wanted:
            raise BadInputError(
                f"{name!r} has shape {tuple(activation.shape[2:])} a token, and the edit was made "
                f"for {wanted}. It belongs to another model."
            )
        x = activation[:, :, unit].detach().reshape(*activation.shape[:2], -1).float()
        found.append((x @ k.to(x)).cpu())
        raise Enough

    with suppress(Enough):
        one_pass(model, batch, [(name, read)])
    if not found:
        raise HookError(f"The pass never reached hook point {name!r}; nothing was read there.")
    return found[0]
