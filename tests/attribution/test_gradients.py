"""Gradient attribution: a derivative, and only that; nothing of it stays on the model."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import ARCHITECTURES, build, padded, tiny
from reading import CONTRAST, QUIET, SIDES, direction, found, last_two, means, metric
from torch import Tensor

import steerlens as sl
from steerlens.attribution.gradients import gradients
from steerlens.errors import BadInputError
from steerlens.reading import Passages

pytestmark = pytest.mark.host
PLACES = [("attn.hook_z", 0, 1), ("attn.hook_z", 2, 0), ("mlp.hook_post", 1, 5)]
STEP = 0.02


def moved(model: Any, name: str, index: int, change: Tensor, shares: list[float]) -> Tensor:
    """The mean metric of the negative side, with shares of a change at each item's last two."""
    tokens, real = padded(SIDES[1] * len(shares), "right")
    by_row = torch.tensor(shares).repeat_interleave(len(SIDES[1]))

    def add(activation: Tensor, hook: Any) -> Tensor:
        after = activation.clone()
        weights = last_two(real) * by_row[:, None]
        after[:, :, index] += weights.reshape(*real.shape, *[1] * change.ndim) * change
        return after

    with torch.no_grad(), model.hooks(fwd_hooks=[(name, add)]):
        logits = model(tokens)
    values = metric(logits[torch.arange(len(real)), real.sum(1) - 1].double())
    return values.reshape(len(shares), -1).mean(1)


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_the_derivative_of_the_patch(architecture: str, host: str) -> None:
    """A patch in small steps equals it, to 1e-3 in float32; a whole step is another thing."""
    scores, beyond = found(architecture, host), []
    for site, layer, index in PLACES:
        name = f"blocks.{layer}.{site}"
        positive, negative = (side[name][index] for side in means(architecture, host))
        part = scores.heads if site == "attn.hook_z" else scores.neurons
        score = float(part.gradient[layer, index])
        up, down, whole, still = moved(
            tiny(architecture, host), name, index, positive - negative, [STEP, -STEP, 1.0, 0.0]
        ).tolist()
        assert (up - down) / (2 * STEP) == pytest.approx(score, abs=1e-3, rel=1e-3)
        beyond.append(abs(whole - still - score))
    assert max(beyond) > 1e-2


@EACH_HOST
def test_nothing_is_left_on_the_model(host: str) -> None:
    """Flags as they were, no gradients of weights; under no_grad and inference_mode too."""
    model = build("llama", host)
    parameters = list(model.parameters())
    for i, each in enumerate(parameters):
        each.requires_grad_(i % 2 == 0)
    flags = [each.requires_grad for each in parameters]
    runs = []
    for mode in (nullcontext(), torch.no_grad(), torch.inference_mode()):
        with mode:
            runs.append(sl.attribute(model, CONTRAST, direction(), metric=metric, **QUIET))
        assert [each.requires_grad for each in parameters] == flags
        assert all(each.grad is None for each in parameters)
    for each in runs:
        assert not each.heads.gradient.requires_grad
        torch.testing.assert_close(each.heads.gradient, runs[0].heads.gradient)
    with pytest.raises(ZeroDivisionError):
        side = Passages(model, SIDES[1], None)
        gradients(model, side, {(0, "attn"): torch.ones(4, 8)}, lambda x: x[:, 0] / (1 // 0))
    assert [each.requires_grad for each in parameters] == flags


@EACH_HOST
def test_components_that_the_metric_cannot_see_score_nothing(host: str) -> None:
    """In the last layer, a token before the last reaches no logits of the last."""
    model = tiny("gpt2", host)
    scores = sl.attribute(
        model, CONTRAST, direction(), positions=sl.positions.index(1), metric=metric, **QUIET
    )
    assert not scores.heads.gradient[-1].any()
    assert not scores.neurons.gradient[-1].any()
    assert scores.heads.gradient[0].all()


@EACH_HOST
def test_metrics_that_are_none(host: str) -> None:
    side = Passages(tiny("llama", host), SIDES[1], None)

    def attribute(metric: Any) -> None:
        gradients(side.model, side, {(0, "attn"): torch.ones(4, 8)}, metric)

    with pytest.raises(BadInputError, match=r"one number a row, here of shape \(6,\); it gave"):
        attribute(lambda logits: logits.mean())
    with pytest.raises(BadInputError, match="it gave float"):
        attribute(lambda logits: logits.mean().item())
    with pytest.raises(BadInputError, match=r"No gradient reaches.*argmax"):
        attribute(lambda logits: logits.detach()[:, 0])
    with pytest.raises(BadInputError, match="not finite"):
        attribute(lambda logits: logits[:, 0] / 0)
