"""One pass read for an effect: what each component puts out at the tokens that are scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steerlens.errors import HookError
from steerlens.host import FwdHooks, Host
from steerlens.names import STREAM, hook_name
from steerlens.passes import hooked, keeping, one_pass
from steerlens.steering import Steering, under
from steerlens.text import Batch


@dataclass(frozen=True, eq=False)
class Reading:
    """A pass at its scored tokens (`n`); a list holds one tensor a layer."""

    embedded: Float[Tensor, "n d_model"]
    z: list[Float[Tensor, "n head d_head"]]
    patterns: list[Float[Tensor, "n head key"]]
    post: list[Float[Tensor, "n neuron"]]
    """Empty where the MLP has no neurons with an output each."""
    attn: list[Float[Tensor, "n d_model"]]
    """What attention hands to the stream, before anything is written there."""
    mlp: list[Float[Tensor, "n d_model"]]
    stream: list[Float[Tensor, "n d_model"]]
    """After the layer, with all that is written."""
    normed: Float[Tensor, "n d_model"]
    """What the unembedding reads."""
    logits: Float[Tensor, "n d_vocab"]
    written: dict[str, Float[Tensor, "n d_model"]] = field(default_factory=dict)
    """What a steering added to the stream, by hook point."""
    touched: Bool[Tensor, "batch pos"] | None = None
    """Which tokens it wrote at."""


def read(
    model: Host,
    batch: Batch,
    mask: Bool[Tensor, "batch pos"],
    steering: Steering | None = None,
    *,
    neurons: bool = True,
) -> Reading:
    """Run one pass, steered or not, and read it.

    Under another steering that is on, that one writes first. Raises HookError where the pass does
    not come by a hook point.
    """
    layers, own = range(model.cfg.n_layers), _written(model, steering)
    before, after = _Reader(mask), _Reader(mask)
    outer = before.hooks(
        "blocks.0.hook_resid_pre", *_each(layers, "hook_attn_out", "hook_mlp_out"), *own
    )
    inner = after.hooks(
        *_each(layers, "attn.hook_z", "attn.hook_pattern", "hook_resid_post"),
        *(_each(layers, "mlp.hook_post") if neurons else ()),
        "unembed.hook_in",
        *own,
    )
    bare, written = dict[str, Tensor](), dict[str, Tensor]()
    outermost = hooked(model, [*outer, *keeping(bare, own)])
    with torch.no_grad(), outermost, under(steering, model):
        logits = one_pass(model, batch, [*inner, *keeping(written, own)])[mask].float()
    read, found = after.seen, before.seen
    _check({**found, **read}, [*outer, *inner])
    touched = [(bare[name] != written[name]).any(-1) for name in own]

    def each(site: str, seen: dict[str, Tensor]) -> list[Tensor]:
        return [seen[f"blocks.{layer}.{site}"] for layer in layers]

    return Reading(
        embedded=found["blocks.0.hook_resid_pre"],
        z=each("attn.hook_z", read),
        patterns=each("attn.hook_pattern", read),
        post=each("mlp.hook_post", read) if neurons else [],
        attn=each("hook_attn_out", found),
        mlp=each("hook_mlp_out", found),
        stream=each("hook_resid_post", read),
        normed=read["unembed.hook_in"],
        logits=logits,
        written={name: read[name] - found[name] for name in own},
        touched=reduce(or_, touched) if touched else None,
    )


def _written(model: Host, steering: Steering | None) -> list[str]:
    """The hook points of the stream that a steering writes, whatever name it has for them."""
    if steering is None:
        return []
    points = model.hook_dict
    every = (hook_name(site, layer) for layer in range(model.cfg.n_layers) for site in STREAM)
    names = {id(points[name]): name for name in every if name in points}
    found = (names.get(id(points[leaf.hook_name])) for leaf in steering.interventions)
    return [name for name in dict.fromkeys(found) if name is not None]


def _each(layers: range, *sites: str) -> list[str]:
    return [f"blocks.{layer}.{site}" for site in sites for layer in layers]


class _Reader:
    """Keeps what stands at hook points, at the scored tokens."""

    def __init__(self, mask: Bool[Tensor, "batch pos"]) -> None:
        self.mask, self.seen = mask, dict[str, Tensor]()

    def hooks(self, *names: str) -> FwdHooks:
        return [(name, self._keep(name)) for name in dict.fromkeys(names)]

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(activation: Tensor, hook: Any) -> None:
            if name.endswith("hook_pattern"):
                activation = activation.transpose(1, 2)  # a row a query, as everywhere else
            self.seen[name] = activation[self.mask.to(activation.device)].detach().float()

        return keep


def _check(seen: dict[str, Tensor], wanted: FwdHooks) -> None:
    """Raise HookError where a hook point never fired."""
    for name, _ in wanted:
        if name not in seen:
            raise HookError(
                f"The pass never reached hook point {name!r}, so an effect cannot be told apart. "
                "Does a hook of yours end it, or is a layer skipped?"
            )
