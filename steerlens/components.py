"""What writes to the stream: heads, neurons and the norms after them, as linear maps.

A head's output is `z @ W_O`, a neuron's `post * w_out`; where a norm follows the block (Gemma-2,
OLMo-2), it stands between these and the stream. Given its scale at a token, every such norm is
linear too, so that any change at the stream falls into parts that add up.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from steerlens.errors import BadInputError
from steerlens.host import Host, check_model, device_of

Block = Literal["attn", "mlp"]
Place = tuple[int, Block]
"""A layer and a block of it."""
_NORMS: dict[Block, str] = {"attn": "ln1", "mlp": "ln2"}
_AFTER = ("Olmo2", "Olmo3", "Exaone4")
"""Architectures whose `ln1` and `ln2` stand after the block."""
_PROBE = 1e3
"""Entries of the vectors that a norm is probed with: its epsilon is nothing beside them."""


def label(layer: int, block: Block, unit: int) -> str:
    """Return the name of a head or neuron, as tables, errors and views have it.

    >>> label(3, "attn", 5), label(3, "mlp", 120)
    ('L3H5', 'L3N120')
    """
    return f"L{layer}{'H' if block == 'attn' else 'N'}{unit}"


@dataclass(frozen=True, eq=False)
class Norm:
    """A LayerNorm or RMSNorm as `gain * centre(x) * scale + bias`, with a scale for each token."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    """Whether the mean over entries is taken out first (LayerNorm)."""

    @classmethod
    def of(cls, module: Any, width: int, device: torch.device) -> Norm:
        """Read a norm off its values at a few vectors, on either host, weights folded or not.

        No hook sees these.
        """
        dtype = next((each.dtype for each in module.parameters()), torch.float32)
        signs = torch.ones(width, device=device)
        signs[1::2] = -1.0
        x = _PROBE * signs
        ups = torch.stack([x, -x, x + _PROBE])[None].to(dtype)
        with torch.no_grad(), _unhooked(module):
            up, down, shifted = module(ups)[0].float()
        centred = bool(torch.allclose(up, shifted, rtol=1e-2, atol=1e-3))
        flat = x - x.mean() if centred else x
        unit = flat * width**0.5 / flat.norm()
        return cls((up - down) / 2 / unit, (up + down) / 2, centred)

    def cpu(self) -> Norm:
        """Return the norm with its tensors on the CPU."""
        return Norm(self.gain.cpu(), self.bias.cpu(), self.centred)

    def centre(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return x without its mean over entries, where the norm takes it out."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scales(
        self, x: Float[Tensor, "*batch d_model"], y: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch"]:
        """Return the scale of each token, from what goes into the norm and what comes out."""
        along = self.gain * self.centre(x)
        return ((y - self.bias) * along).sum(-1) / (along * along).sum(-1).clamp_min(1e-30)

    def pulled(self, readout: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return what a readout of the output reads at the input, at a scale of 1.

        `y @ readout` is `scale * x @ pulled(readout)`, the bias aside.
        """
        return self.centre(self.gain * readout)


@dataclass(frozen=True, eq=False)
class Components:
    """The linear maps from a model's heads and neurons to its stream and its logits.

    Weights are float32, those of the model as it stands: read anew for each use.
    """

    model: Any

    @property
    def n_layers(self) -> int:
        """The number of layers."""
        return int(self.model.cfg.n_layers)

    def heads(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """Return W_O of a layer."""
        weight: Tensor = self.model.blocks[layer].attn.W_O
        return weight.detach().float()

    def neurons(self, layer: int) -> Float[Tensor, "neuron d_model"]:
        """Return W_out of a layer. Raises BadInputError where its MLP is a mixture of experts."""
        if not self.has_neurons:
            raise BadInputError(
                f"The MLP of blocks.{layer} is a mixture of experts, whose neurons have no one "
                "output each. Take heads and whole MLPs."
            )
        weight: Tensor = self.model.blocks[layer].mlp.W_out
        return weight.detach().float()

    def writers(self, layer: int, block: Block) -> Float[Tensor, "unit *d_head d_model"]:
        """Return the weights by which a block's heads, or its neurons, write."""
        return self.heads(layer) if block == "attn" else self.neurons(layer)

    @cached_property
    def has_neurons(self) -> bool:
        """Whether MLPs have neurons with one output vector each."""
        return not getattr(self.model.cfg, "num_experts", None) and hasattr(
            self.model.blocks[0].mlp, "W_out"
        )

    def bias(self, layer: int, block: Block) -> Float[Tensor, " d_model"] | float:
        """Return what the block adds whatever its heads or neurons do."""
        part = self.model.blocks[layer]
        found = getattr(part.attn, "b_O", None) if block == "attn" else _bias(part.mlp)
        return 0.0 if found is None else found.detach().float()

    def after(self, layer: int, block: Block) -> Norm | None:
        """Return the norm between the block and the stream, None where there is none."""
        return self._after[layer, block]

    def norm_name(self, layer: int, block: Block) -> str | None:
        """Return the name of the norm between the block and the stream, None where none is.

        A norm has `hook_scale` and `hook_normalized` under it.
        """
        part, name = self.model.blocks[layer], _NORMS[block]
        if hasattr(part, f"{name}_post"):
            return f"blocks.{layer}.{name}_post"
        return f"blocks.{layer}.{name}" if self._norms_follow else None

    def before(self, layer: int) -> Norm | None:
        """Return the norm between the stream and attention, None where there is none."""
        return None if self._norms_follow else self._norm(self.model.blocks[layer].ln1)

    def reading(self, layer: int) -> tuple[Float[Tensor, "head d_model d_head"], ...]:
        """Return W_Q, W_K and W_V, those of grouped keys and values repeated for their heads."""
        attention = self.model.blocks[layer].attn
        found = [getattr(attention, name).detach().float() for name in ("W_Q", "W_K", "W_V")]
        heads = len(found[0])
        return tuple(each.repeat_interleave(heads // len(each), dim=0) for each in found)

    @cached_property
    def _norms_follow(self) -> bool:
        config = self.model.cfg
        kind = getattr(config, "architecture", None) or getattr(config, "original_architecture", "")
        return str(kind).startswith(_AFTER)

    @cached_property
    def _after(self) -> dict[tuple[int, Block], Norm | None]:
        after = self._norms_follow
        found: dict[tuple[int, Block], Norm | None] = {}
        for layer, part in enumerate(self.model.blocks):
            for block, name in _NORMS.items():
                module = getattr(part, f"{name}_post", getattr(part, name, None) if after else None)
                found[layer, block] = None if module is None else self._norm(module)
        return found

    @cached_property
    def final(self) -> Norm:
        """The norm before the unembedding."""
        return self._norm(self.model.ln_final)

    def _norm(self, module: Any) -> Norm:
        return Norm.of(module, int(self.model.cfg.d_model), device_of(self.model))

    @cached_property
    def unembedding(self) -> Float[Tensor, "d_model d_vocab"]:
        """W_U."""
        weight: Tensor = self.model.W_U
        return weight.detach().float()

    def summed(
        self, z: Float[Tensor, "*batch head d_head"], layer: int
    ) -> Float[Tensor, "*batch d_model"]:
        """Return what the attention block writes, before any norm after it."""
        written = einsum(z.float(), self.heads(layer), "... head d_head, head d_head d -> ... d")
        return written + self.bias(layer, "attn")


@contextmanager
def _unhooked(module: nn.Module) -> Iterator[None]:
    """Take every hook off a module and what is in it, and put them back."""
    parts = list(module.modules())
    kept = [(each, each._forward_hooks, each._forward_pre_hooks) for each in parts]
    try:
        for each in parts:
            each._forward_hooks, each._forward_pre_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for each, after, before in kept:
            each._forward_hooks, each._forward_pre_hooks = after, before


_CONSTANTS = ("residual_multiplier", "logits_scaling", "logit_scale")
"""What some architectures (Granite, Cohere) multiply blocks' outputs or logits by."""


def components(model: Host) -> Components:
    """Return a model's components.

    Raises BadInputError where its heads have no W_O, or where a constant that stands between them
    and the logits would be left out.

    >>> components(model).heads(0).shape
    torch.Size([8, 16, 128])
    """
    check_model(model)
    try:
        model.blocks[0].attn.W_O  # type: ignore[attr-defined]  # noqa: B018
    except AttributeError as error:
        raise BadInputError(
            f"The attention of {getattr(model.cfg, 'model_name', 'this model')} has no W_O, so its "
            "heads cannot be told apart. Read or steer whole blocks, at 'attn_out' and 'mlp_out'."
        ) from error
    config = getattr(getattr(model, "original_model", None), "config", model.cfg)
    for name in _CONSTANTS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise BadInputError(
                f"This model multiplies by {name} = {getattr(config, name)} between its components "
                "and its logits, which is not accounted for: parts would come out too large."
            )
    return Components(model)


def _bias(mlp: Any) -> Tensor | None:
    found: Tensor | None = getattr(mlp, "b_out", None)
    return found
