"""How a change at the logits falls into parts: pure functions over two readings of one batch.

Along a readout u of the final stream, with r the final norm's scale and a bar for the mean of
base and steered, `x' r' - x r = (x' - x) r̄ + x̄ (r' - r)`: the first term is linear in what each
component changes, the second is the norm's own part. A norm after a block falls the same way.
"""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from steerlens.components import Block, Components
from steerlens.effects.reading import Reading

NOT_SUMMED = ("whole", "neurons")
"""The change itself, and what MLPs' parts consist of."""
Parts = dict[str, Float[Tensor, "n *part"]]
"""Parts of the change at each scored token, by name."""


def parts(
    weights: Components,
    base: Reading,
    steered: Reading,
    readout: Float[Tensor, "n d_vocab"],
) -> Parts:
    """Return what each part adds to the change of the read-out logits, at each scored token.

    - `embedded`: (n,) the embeddings (0, unless another hook changes them);
    - `written`: (n, hook point) what the steering writes to the stream, straight to the logits;
    - `heads`: (n, layer, head), `mlps`: (n, layer), and `neurons`: (n, layer, neuron), which are
      what MLPs are made of and are not added once more;
    - `norms_after`: (n, layer, 2) the scales of norms after attention and MLP;
    - `final_norm`: (n,) the scale of the final norm;
    - `cap`: (n,) what a soft cap on logits leaves out (and rounding in them);
    - `elsewhere`: (n,) what is left: writing inside norms or behind them, and rounding;
    - `whole`: (n,) the change itself. All others but `neurons` add up to it.
    """
    final = weights.final
    pulled, through = read_through(weights, base, steered, readout)
    x, x_steered = base.stream[-1], steered.stream[-1]
    r, r_steered = final.scales(x, base.normed), final.scales(x_steered, steered.normed)

    def along(change: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        return (change * through).sum(-1)

    found: dict[str, list[Tensor]] = {"heads": [], "mlps": [], "neurons": [], "norms_after": []}
    for layer in range(weights.n_layers):
        by_head, norm_attn = read_in_heads(weights, base, steered, layer, through)
        heads = ((steered.z[layer] - base.z[layer]) * by_head).sum(-1)
        neurons, norm_mlp = _neurons(weights, base, steered, layer, through)
        found["heads"].append(heads)
        found["norms_after"].append(torch.stack([norm_attn, norm_mlp], dim=1))
        found["mlps"].append(along(steered.mlp[layer] - base.mlp[layer]) - norm_mlp)
        if neurons is not None:
            found["neurons"].append(neurons)
    made: Parts = {name: torch.stack(each, dim=1) for name, each in found.items() if each}
    made["embedded"] = along(steered.embedded - base.embedded)
    made["written"] = (
        torch.stack([along(each) for each in steered.written.values()], dim=1)
        if steered.written
        else through.new_zeros(len(through), 0)
    )
    made["final_norm"] = ((x + x_steered) / 2 * pulled).sum(-1) * (r_steered - r)
    made["whole"] = ((steered.logits - base.logits) * readout).sum(-1)
    read = ((steered.normed - base.normed) @ weights.unembedding * readout).sum(-1)
    made["cap"] = made["whole"] - read
    told = [each for name, each in made.items() if name not in NOT_SUMMED]
    sums = torch.stack([each.reshape(len(each), -1).sum(1) for each in told])
    made["elsewhere"] = made["whole"] - sums.sum(0)
    return made


def read_through(
    weights: Components, base: Reading, steered: Reading, readout: Float[Tensor, "n d_vocab"]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, "n d_model"]]:
    """Return what a readout of logits reads in the last layer's stream.

    At a scale of 1 of the final norm, and at the mean of base's and the steered pass's.
    """
    final = weights.final
    pulled = final.pulled(readout @ weights.unembedding.T)
    ends = ((each.stream[-1], each.normed) for each in (base, steered))
    scale = torch.stack([final.scales(x, y) for x, y in ends]).mean(0)
    return pulled, pulled * scale[:, None]


def read_in_heads(
    weights: Components,
    base: Reading,
    steered: Reading,
    layer: int,
    through: Float[Tensor, "n d_model"],
) -> tuple[Float[Tensor, "n head d_head"], Float[Tensor, " n"]]:
    """Return what a readout of the stream reads in each head's z, and a norm's part after them."""
    summed = tuple(weights.summed(each.z[layer], layer) for each in (base, steered))
    read, norm = _before(weights, layer, "attn", (base, steered), summed, through)
    return einsum(read, weights.heads(layer), "n d, head d_head d -> n head d_head"), norm


def _neurons(
    weights: Components, base: Reading, steered: Reading, layer: int, through: Tensor
) -> tuple[Float[Tensor, "n neuron"] | None, Float[Tensor, " n"]]:
    """Each neuron's part, if they have an output each, and that of a norm after the MLP."""
    if not base.post:
        return None, through.new_zeros(len(through))
    out, bias = weights.neurons(layer), weights.bias(layer, "mlp")
    summed = tuple(each.post[layer] @ out + bias for each in (base, steered))
    read, norm = _before(weights, layer, "mlp", (base, steered), summed, through)
    return (steered.post[layer] - base.post[layer]) * (read @ out.T), norm


def _before(
    weights: Components,
    layer: int,
    block: Block,
    readings: tuple[Reading, Reading],
    summed: tuple[Tensor, ...],
    through: Tensor,
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """What a readout of the stream reads before the norm after a block; and the norm's own part."""
    norm = weights.after(layer, block)
    if norm is None:
        return through, through.new_zeros(len(through))
    outputs = [getattr(each, block)[layer] for each in readings]
    r, r_steered = (norm.scales(x, y) for x, y in zip(summed, outputs, strict=True))
    pulled = norm.pulled(through)
    own = ((summed[0] + summed[1]) / 2 * pulled).sum(-1) * (r_steered - r)
    return pulled * ((r + r_steered) / 2)[:, None], own
