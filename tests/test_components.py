"""Components against the hosts: on every architecture, parts add up to what is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import ARCHITECTURES, tiny
from torch import Tensor

from steerlens.components import Block, components

pytestmark = pytest.mark.host
TOKENS = torch.tensor([[1, 5, 9, 20, 7, 30], [1, 8, 40, 33, 6, 12]])
SITES = ("attn.hook_z", "mlp.hook_post", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


def read(model: Any, *names: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def reader(name: str) -> Any:
        def keep(activation: Tensor, hook: Any) -> None:
            found[name] = activation.detach()

        return keep

    with torch.no_grad(), model.hooks(fwd_hooks=[(name, reader(name)) for name in names]):
        found["logits"] = model(TOKENS)
    return found


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_and_neurons_write_what_their_block_writes(architecture: str, host: str) -> None:
    """Through the norm after the block where there is one, with the scale read off the values."""
    model = tiny(architecture, host)
    parts = components(model)
    layer = 1
    seen = read(model, *(f"blocks.{layer}.{site}" for site in SITES))
    z, post, attn, mlp, _ = (seen[f"blocks.{layer}.{site}"] for site in SITES)
    raw = {"attn": parts.summed(z, layer), "mlp": post @ parts.neurons(layer)}
    raw["mlp"] = raw["mlp"] + parts.bias(layer, "mlp")
    blocks: tuple[tuple[Block, Tensor], ...] = (("attn", attn), ("mlp", mlp))
    for block, written in blocks:
        norm = parts.after(layer, block)
        assert (norm is None) == (architecture not in ("gemma2", "olmo2"))
        if norm is None:
            torch.testing.assert_close(raw[block], written, atol=1e-5, rtol=1e-5)
            continue
        scale = norm.scales(raw[block], written)[..., None]
        found = norm.gain * norm.centre(raw[block]) * scale + norm.bias
        torch.testing.assert_close(found, written, atol=1e-5, rtol=1e-5)


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_final_norm_reads_as_a_linear_map(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    parts = components(model)
    seen = read(model, "blocks.2.hook_resid_post", "unembed.hook_in")
    x, y = seen["blocks.2.hook_resid_post"], seen["unembed.hook_in"]
    assert parts.final.centred == (architecture in ("gpt2", "pythia"))
    scale = parts.final.scales(x, y)
    readout = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    pulled = (x * parts.final.pulled(readout)).sum(-1) * scale
    torch.testing.assert_close(
        pulled, ((y - parts.final.bias) * readout).sum(-1), atol=1e-4, rtol=1e-4
    )
    cap = getattr(model.cfg, "output_logits_soft_cap", -1.0) or -1.0
    logits = y @ parts.unembedding
    logits = cap * (logits / cap).tanh() if cap > 0 else logits
    gap = logits - seen["logits"]
    torch.testing.assert_close(gap, torch.zeros_like(gap) + gap[0, 0, 0], atol=1e-4, rtol=0)
