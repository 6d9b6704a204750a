"""Contributions beside brute force and TransformerLens: where they agree, and where not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import N_HEADS, hosts, tiny
from reading import CONTRAST, QUIET, SIDES, A, B, V, found, means, read
from torch import Tensor

import steerlens as sl

pytestmark = pytest.mark.host
END = "blocks.2.hook_resid_post"


def without(layer: int, head: int) -> list[Any]:
    def drop(z: Tensor, hook: Any) -> Tensor:
        after = z.clone()
        after[:, :, head] = 0
        return after

    return [(f"blocks.{layer}.attn.hook_z", drop)]


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "pythia", "gemma2", "olmo2"])
def test_ablating_a_head_takes_its_contribution_out(architecture: str, host: str) -> None:
    """Exactly so at the block's output, to 1e-4, where no norm follows.

    It rightly differs after a norm, whose scale falls to the heads that stay, and in the stream
    at the end, where later layers answer.
    """
    model, layer = tiny(architecture, host), 1
    at_block, at_end = [], []
    for head in (0, N_HEADS - 1):
        expected = float(found(architecture, host).heads.contribution[layer, head])
        ablated = [read(model, side, without(layer, head)) for side in SIDES]
        for name, off in ((f"blocks.{layer}.hook_attn_out", at_block), (END, at_end)):
            up, down = (
                (before[name] - after[name]) @ V
                for before, after in zip(means(architecture, host), ablated, strict=True)
            )
            off.append(abs(float(up - down) - expected))
    assert (max(at_block) < 1e-4) == (architecture not in ("gemma2", "olmo2"))
    assert max(at_end) > 1e-2


@pytest.mark.skipif("hooked_transformer" not in hosts(), reason="needs HookedTransformer")
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_direct_logit_attribution(architecture: str) -> None:
    """Along W_U[:, a] - W_U[:, b], ours times its length is TransformerLens's, to 1e-4.

    Ours is in the stream's units: theirs divides each item by its own scale of the final norm
    (and centres it where that is a LayerNorm), which is undone here; left in, the two differ.
    """
    model = tiny(architecture, "hooked_transformer")
    readout = (model.W_U[:, A] - model.W_U[:, B]).detach()
    if architecture == "gpt2":
        readout = readout - readout.mean()
    aim = sl.Direction("blocks.2.hook_resid_post", readout)
    scores = sl.attribute(model, CONTRAST, aim, **QUIET)
    sides, scaled = [], []
    for side in SIDES:
        values = torch.zeros(2, len(side), model.cfg.n_layers * N_HEADS)
        for i, item in enumerate(side):
            with torch.no_grad():
                _, cache = model.run_with_cache(item[None])
                heads = cache.stack_head_results(layer=-1, pos_slice=-1)
                theirs = cache.logit_attrs(heads, A, B, pos_slice=-1, has_batch_dim=True)
            values[0, i] = theirs.flatten() * cache["ln_final.hook_scale"][0, -1]
            values[1, i] = theirs.flatten()
        sides.append(values[0].mean(0))
        scaled.append(values[1].mean(0))
    ours = scores.heads.contribution.flatten() * aim.norm
    torch.testing.assert_close(ours, sides[0] - sides[1], atol=1e-4, rtol=1e-4)
    middle = scores.heads.mean_contribution.flatten() * aim.norm
    torch.testing.assert_close(middle, (sides[0] + sides[1]) / 2, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, scaled[0] - scaled[1], atol=1e-2)
