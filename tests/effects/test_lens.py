"""The logit lens of a direction against the model's own final norm and unembedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import EACH, EACH_HOST
from models import tiny

import steerlens as sl
from steerlens import views
from steerlens.components import components
from steerlens.effects import logit_lens
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host


def direction(model: object, seed: int = 0) -> sl.Direction:
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    return sl.Direction("blocks.1.hook_resid_post", vector, name="up")


def chances(model: Any, given: sl.Direction) -> torch.Tensor:
    """What random directions of the same length add to each token's logit less the mean logit."""
    norm = components(model).final
    with torch.no_grad():
        added = (norm.gain * norm.centre(torch.eye(32))) @ model.W_U.float()
    every = added - added.mean(1, keepdim=True)
    return given.norm * every.square().mean(0).sqrt().double()


@EACH
def test_scores_are_what_the_model_adds_to_a_stream_that_is_long(
    architecture: str, host: str
) -> None:
    """Added to a stream so long that the norm's scale stays, the logits change by the lens."""
    model = tiny(architecture, host)
    given = direction(model)
    length = float(2**12)
    stream = length * torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(9))
    across = given.vector - given.vector.mean()
    flat = stream[0, 0] - stream[0, 0].mean()
    stream = stream - across * (flat @ across / (across @ across))  # so its norm hardly changes
    with torch.no_grad():
        normed = [model.ln_final(each) for each in (stream, stream + given.vector)]
        change = ((normed[1] - normed[0]).double() @ model.W_U.double())[0, 0]
    wanted = (change - change.mean()) * length  # the norm's scale, but for a factor
    found = logit_lens(model, given, k=3)
    gain = found.scores.double() * chances(model, given)
    factor = (wanted @ gain) / (gain @ gain)
    torch.testing.assert_close(wanted, factor * gain, atol=0.01 * float(wanted.std()), rtol=0.01)
    assert [each[1] for each in found.promoted] == found.scores.topk(3).indices.tolist()
    assert [each[1] for each in found.suppressed] == (-found.scores).topk(3).indices.tolist()


@EACH_HOST
def test_length_and_name_change_no_score_and_a_sign_turns_the_ends(host: str) -> None:
    model = tiny("gpt2", host)
    given = direction(model)
    longer = sl.Direction(given.hook_name, -7 * given.vector)
    found, turned = (logit_lens(model, each, k=4) for each in (given, longer))
    torch.testing.assert_close(found.scores, -turned.scores)
    assert [each[1] for each in found.promoted] == [each[1] for each in turned.suppressed]
    assert found.chance == turned.chance


@EACH_HOST
def test_an_unembedding_is_promoted_beyond_chance_and_noise_is_not(host: str) -> None:
    model = tiny("llama", host)
    column = model.W_U[:, 7].detach() / model.ln_final(1e4 * torch.ones(1, 1, 32))[0, 0].detach()
    planted = logit_lens(model, sl.Direction("blocks.2.hook_resid_post", column), k=1)
    assert planted.promoted[0][1] == 7
    assert planted.promoted[0][2] > planted.chance[1]
    noise = [logit_lens(model, direction(model, seed), k=1) for seed in range(40)]
    beyond = sum(each.promoted[0][2] > each.chance[1] for each in noise)
    assert beyond <= 5  # 2.5% of 40 is one


@EACH_HOST
def test_it_is_told_and_drawn(host: str) -> None:
    model = tiny("gpt2", host)
    found = logit_lens(model, direction(model), k=2)
    assert found.frame().shape == (4, 3)
    assert found.frame().score.is_monotonic_decreasing
    assert "up promotes" in repr(found)
    assert "chance reaches" in found._repr_html_()
    view = views.logit_lens(found)
    assert view.static.count("<rect") == 4
    assert f"{found.beyond_chance} of 4 tokens beyond chance" in view.subtitle


@pytest.mark.parametrize("k", [0, 10_000])
def test_bad_k(k: int) -> None:
    with pytest.raises(BadInputError, match="tokens of either end"):
        logit_lens(tiny("gpt2", "bridge"), direction(None), k=k)


def test_what_is_not_of_the_stream() -> None:
    model = tiny("gpt2", "bridge")
    with pytest.raises(BadInputError, match="not a direction of this model's stream"):
        logit_lens(model, sl.Direction("blocks.0.attn.hook_z", torch.ones(4, 8)))
