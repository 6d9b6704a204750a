"""Attribution against the hosts: parts add up, importance by hand, the basis does not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import ARCHITECTURES, D_HEAD, D_MLP, D_MODEL, N_HEADS, N_LAYERS, build, hosts, tiny
from reading import CONTRAST, LAST_TWO, QUIET, SIDES, V, direction, found, means, metric
from sklearn.metrics import roc_auc_score
from torch import Tensor

import steerlens as sl
from steerlens.attribution.scores import head_importance, neuron_importance
from steerlens.components import components

pytestmark = pytest.mark.host
POST_NORM = ("gemma2", "olmo2")


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_parts_sum_to_what_the_block_writes(architecture: str, host: str) -> None:
    """To 1e-4, on the sides' difference and mean, also through the norm after the block.

    Less the bias: none of these models has one that passes a norm, to be scaled at each token.
    """
    scores = found(architecture, host)
    for layer in range(N_LAYERS):
        for block, part in (("attn", scores.heads), ("mlp", scores.neurons)):
            name = f"blocks.{layer}.hook_{block}_out"
            up, down = (side[name] @ V for side in means(architecture, host))
            same = dict(atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(part.contribution[layer].sum(), up - down, **same)
            bias = constant(tiny(architecture, host), layer, block) @ V
            total = part.mean_contribution[layer].sum() + bias
            torch.testing.assert_close(total, (up + down) / 2, **same)


def constant(model: Any, layer: int, block: Any) -> Tensor:
    """What reaches the stream whatever heads and neurons do."""
    parts = components(model)
    norm, bias = parts.after(layer, block), torch.as_tensor(parts.bias(layer, block))
    assert norm is None or not bias.any()
    return bias.expand(D_MODEL) if norm is None else norm.bias


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "olmo2"])
def test_a_frozen_scale_would_not_add_up(architecture: str, host: str) -> None:
    """Why each token is scaled before the mean is taken: mean inputs tell another story."""
    parts = components(tiny(architecture, host))
    up, down = (side["blocks.1.attn.hook_z"] for side in means(architecture, host))
    written, norm = torch.einsum("hz,hzd->hd", up - down, parts.heads(1)), parts.after(1, "attn")
    frozen = (norm.gain * norm.centre(written) if norm else written) @ V
    exact = found(architecture, host).heads.contribution[1]
    off = (frozen / frozen.norm() - exact / exact.norm()).norm()
    assert (off > 0.01) == (architecture in POST_NORM)


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_importance_by_hand(architecture: str, host: str) -> None:
    scores, parts, layer = found(architecture, host), components(tiny(architecture, host)), 2
    for block, site in (("attn", "attn.hook_z"), ("mlp", "mlp.hook_post")):
        mu = sum(side[f"blocks.{layer}.{site}"] for side in means(architecture, host)) / 2
        norm = parts.after(layer, block)
        v = V if norm is None else norm.pulled(V)
        v = v / v.norm()
        if block == "attn":
            written = torch.stack([mu[h] @ parts.heads(layer)[h] for h in range(N_HEADS)])
            by_hand, g = written @ v / written.norm(dim=1), scores.heads.importance[layer]
            again = head_importance(parts.heads(layer), mu, v)
        else:
            w = parts.neurons(layer)
            by_hand = torch.where(mu < 0, -1.0, 1.0) * (w @ v) / w.norm(dim=1)
            g, again = scores.neurons.importance[layer], neuron_importance(w, mu, v)
        torch.testing.assert_close(g, by_hand, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(g, again, atol=1e-5, rtol=1e-4)


@EACH_HOST
@pytest.mark.parametrize("architecture", ["llama", "pythia", "gemma2"])
def test_auc_is_that_of_the_output_along_the_direction(architecture: str, host: str) -> None:
    """Heads: the output in the stream, the token's scale included; neurons: the activation."""
    model, layer = tiny(architecture, host), 1
    scores = sl.attribute(model, CONTRAST, direction(), **QUIET)
    parts = components(model)
    names = [f"blocks.{layer}.{each}" for each in ("attn.hook_z", "hook_attn_out", "mlp.hook_post")]
    read = [sl.collect(model, side, names, progress=False) for side in SIDES]
    z, out, post = (torch.cat([side.examples[name] for side in read]) for name in names)
    written = torch.einsum("nhz,hzd->nhd", z, parts.heads(layer))
    norm = parts.after(layer, "attn")
    if norm is not None:
        scale = norm.scales(written.sum(1), out)
        written = norm.gain * norm.centre(written) * scale[:, None, None]
    labels = [1] * 6 + [0] * 6
    heads = [roc_auc_score(labels, (written @ V)[:, h]) for h in range(N_HEADS)]
    neurons = [roc_auc_score(labels, post[:, n]) for n in range(D_MLP)]
    torch.testing.assert_close(scores.heads.auc[layer], torch.tensor(heads).float())
    torch.testing.assert_close(scores.neurons.auc[layer], torch.tensor(neurons).float())
    gap = written[:6].mean(0) - written[6:].mean(0)
    torch.testing.assert_close(scores.heads.gap[layer], gap.norm(dim=1), atol=1e-5, rtol=1e-4)
    spread = ((written[:6].var(0) + written[6:].var(0)).sum(1) / 2).sqrt()
    torch.testing.assert_close(
        scores.heads.effect_size[layer], gap.norm(dim=1) / spread, atol=1e-4, rtol=1e-3
    )


@pytest.mark.skipif("hooked_transformer" not in hosts(), reason="needs HookedTransformer")
def test_the_basis_inside_a_head_does_not_matter() -> None:
    """W_V and W_O rotated together leave the model as it was, and every score of a head."""
    model, aim = build("gpt2", "hooked_transformer"), direction()
    before = sl.attribute(model, CONTRAST, aim, metric=metric, progress=False)
    rotation = torch.linalg.qr(torch.randn(D_HEAD["gpt2"], D_HEAD["gpt2"]))[0]
    with torch.no_grad():
        attention = model.blocks[1].attn
        attention.W_V[2] = attention.W_V[2] @ rotation
        attention.b_V[2] = attention.b_V[2] @ rotation
        attention.W_O[2] = rotation.T @ attention.W_O[2]
    after = sl.attribute(model, CONTRAST, aim, metric=metric, progress=False)
    for name, values in vars(before.heads).items():
        torch.testing.assert_close(getattr(after.heads, name), values, atol=1e-4, rtol=1e-4)


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gemma2"])
def test_a_block_takes_the_direction_at_its_own_output(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    made = {f"blocks.{i}.hook_resid_post": direction(i) for i in range(N_LAYERS)}
    made["blocks.1.hook_attn_out"] = direction(7)
    many = sl.attribute(model, CONTRAST, sl.Directions(made), **QUIET)
    for layer in (0, 1):
        one = sl.attribute(model, CONTRAST, direction(layer), **QUIET)
        own = sl.attribute(model, CONTRAST, direction(7), **QUIET) if layer == 1 else one
        torch.testing.assert_close(many.heads.contribution[layer], own.heads.contribution[layer])
        torch.testing.assert_close(many.neurons.importance[layer], one.neurons.importance[layer])


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_batches_do_not_matter(architecture: str, host: str) -> None:
    model, aim = tiny(architecture, host), direction()
    small, large = (
        sl.attribute(
            model,
            CONTRAST,
            aim,
            positions=LAST_TWO,
            metric=metric,
            max_examples=4,
            batch_tokens=size,
            **QUIET,
        )
        for size in (20, 4096)
    )
    for one, other in ((small.heads, large.heads), (small.neurons, large.neurons)):
        for name, values in vars(one).items():
            if name == "accuracy":
                continue
            torch.testing.assert_close(getattr(other, name), values, atol=1e-4, rtol=1e-4)
