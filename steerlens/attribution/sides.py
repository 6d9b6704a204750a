"""Reading a side of a contrast: what goes into heads and neurons, with the scale of its norm.

One streamed pass, as `collect` makes it, with one thing more: where a norm follows the block, its
scale at each token is read off what goes in and what comes out, and multiplies what that token
puts into the block's components before anything is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.activations import Activations, Sink, sampled
from steerlens.attribution.scores import Inputs
from steerlens.cards import count
from steerlens.components import Block, Components, Norm, Place
from steerlens.errors import HookError
from steerlens.host import FwdHooks, Host, hook_names
from steerlens.names import hook_name
from steerlens.passes import one_pass
from steerlens.positions import Mask
from steerlens.reading import Enough, Passages, Reading, pooled
from steerlens.text import Batch


def places(parts: Components) -> list[Place]:
    """Return every block whose components are scored, in the order of the model.

    Raises UnknownNameError where the host has no hook point for what goes in.
    """
    blocks: tuple[Block, ...] = ("attn", "mlp") if parts.has_neurons else ("attn",)
    found = [(layer, block) for layer in range(parts.n_layers) for block in blocks]
    hook_names(parts.model, [input_name(place) for place in found])
    return found


def input_name(place: Place) -> str:
    """Return the hook point of what goes into a block's components.

    >>> input_name((3, "mlp"))
    'blocks.3.mlp.hook_post'
    """
    layer, block = place
    return hook_name("z" if block == "attn" else "mlp_post", layer)


@dataclass(frozen=True)
class Read:
    """What was read of one side: moments of all items, and at most so many examples."""

    inputs: Activations
    scaled: Activations
    """Of the inputs times the norm's scale, at the same names; only where a norm follows."""

    def at(self, name: str) -> Inputs:
        """Return what goes into the components of a block."""
        examples = self.inputs.examples[name]
        moments = self.scaled.get(name, self.inputs[name])
        scaled = self.scaled.examples.get(name) if name in self.scaled else examples
        return Inputs(self.inputs[name].mean, moments, examples, scaled)


def read(
    parts: Components,
    side: Passages,
    wanted: Sequence[Place],
    *,
    max_examples: int,
    batch_tokens: int | None,
    seed: int,
    progress: bool,
) -> Read:
    """Read a side in one streamed pass, which stops at the last layer's components.

    Examples are the same items at every block, a seeded sample of `max_examples`; where a norm
    follows, z is kept twice (as it is, and scaled). Cost: a forward pass without unembedding.
    """
    kept = sampled(len(side), max_examples, seed)
    inputs, heads, neurons = Sink(kept, max_examples), Sink(kept, max_examples), Sink((), 0)
    bar = tqdm(
        total=len(side),
        desc=f"reading {count(parts.n_layers, 'layer')} of components",
        disable=not progress,
    )
    with bar, torch.no_grad():
        for rows, batch, mask in side.batches(batch_tokens):
            seen = _Pass(parts, mask)
            seen.run(batch, wanted)
            inputs.add(rows, seen.inputs)
            heads.add(rows, seen.scaled["attn"])
            neurons.add(rows, seen.scaled["mlp"])
            kept_mb = inputs.megabytes() + heads.megabytes()
            bar.set_postfix_str(f"examples {kept_mb:.0f} MB", refresh=False)
            bar.update(len(rows))
    positions = repr(side.positions)
    scaled_z, scaled_post = heads.activations(positions), neurons.activations(positions)
    scaled = Activations(
        {**scaled_z.moments, **scaled_post.moments},
        {**scaled_z.norms, **scaled_post.norms},
        scaled_z.examples,
        kept,
        positions,
        max_examples,
    )
    return Read(inputs.activations(positions), scaled)


class _Pass:
    """The hooks of one pass, and what they have read."""

    def __init__(self, parts: Components, mask: Mask) -> None:
        self.parts, self.mask = parts, mask
        self.inputs: dict[str, Reading] = {}
        self.scaled: dict[Block, dict[str, Reading]] = {"attn": {}, "mlp": {}}
        self.waiting: dict[str, Tensor] = {}
        """Inputs whose scale is not known yet."""

    def run(self, batch: Batch, wanted: Sequence[Place]) -> None:
        model: Host = self.parts.model
        hooks: FwdHooks = [hook for place in wanted for hook in self._hooks(place)]
        self.left = len(hooks)
        with suppress(Enough):
            one_pass(model, batch, hooks)
        if self.left:
            raise HookError(
                f"The pass reached {len(hooks) - self.left} of {len(hooks)} hook points of heads "
                "and neurons. Does a hook of yours end it, or is a layer skipped?"
            )

    def _hooks(self, place: Place) -> FwdHooks:
        name, (layer, block) = input_name(place), place
        norm = self.parts.after(layer, block)
        if norm is None:
            return [(name, self._reading(name, keep=False))]
        output = hook_name(f"{block}_out", layer)
        return [(name, self._reading(name, keep=True)), (output, self._scaling(place, norm))]

    def _reading(self, name: str, *, keep: bool) -> Callable[..., None]:
        def read(activation: Tensor, hook: Any) -> None:
            self.inputs[name] = pooled(activation, self.mask)
            if keep:
                self.waiting[name] = activation
            self._done()

        return read

    def _scaling(self, place: Place, norm: Norm) -> Callable[..., None]:
        name, (layer, block) = input_name(place), place

        def scale(activation: Tensor, hook: Any) -> None:
            x = self.waiting.pop(name).float()
            scales = norm.scales(_output(self.parts, layer, block, x), activation.float())
            scales = scales.reshape(*scales.shape, *[1] * (x.ndim - scales.ndim))
            self.scaled[block][name] = pooled(x * scales, self.mask)
            self._done()

        return scale

    def _done(self) -> None:
        self.left -= 1
        if not self.left:
            raise Enough


def _output(parts: Components, layer: int, block: Block, x: Tensor) -> Tensor:
    """What the block writes, before the norm after it."""
    if block == "attn":
        return parts.summed(x, layer)
    return x @ parts.neurons(layer) + parts.bias(layer, block)
