"""Effects: parts that add up to the whole change, on every architecture and host."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import models
import pytest
import torch
from cases import EACH_HOST
from models import ARCHITECTURES, hosts, tiny
from torch import Tensor

import steerlens as sl
from steerlens.effects import effect
from steerlens.effects.account import SUMMED
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.evaluation.metrics import kl

pytestmark = pytest.mark.host
ITEMS = [("good day w1 w2", "w3 w4"), "w5 w6 bad", "w7 w8", ("the w9", "good w1 w2")]
WEIGHTS = torch.randn(models.D_VOCAB, generator=torch.Generator().manual_seed(4))
METRICS = {"divergence": None, "answers": ("good", "bad"), "weights": WEIGHTS}


def direction(hook_name: str, seed: int = 0, shape: tuple[int, ...] = (32,)) -> sl.Direction:
    vector = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return sl.Direction(hook_name, vector, name="d")


def steering(scale: float = 1.0) -> sl.Steering:
    """Writes to the stream after layer 1 where a completion is predicted, and everywhere before."""
    late = sl.add(direction("blocks.1.hook_resid_post"), coeff=scale, positions="predicting")
    return late + sl.add(direction("blocks.0.hook_attn_out", 1), coeff=0.7 * scale)


def logits(model: Any, item: Any, steered: sl.Steering | None) -> Tensor:
    """At the tokens that predict an item's completion, or its last one: an item at a time."""
    prompt, completion = item if isinstance(item, tuple) else (item, "")
    start = model.to_tokens(prompt).shape[1] - 1
    tokens = model.to_tokens(f"{prompt} {completion}".strip())
    end = max(start + 1, tokens.shape[1] - 1)
    with torch.no_grad():
        if steered is None:
            return model(tokens)[0, start:end]
        with steered.on(model, prompt_lengths=[start + 1]):
            return model(tokens)[0, start:end]


@EACH_HOST
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_parts_add_up_to_the_whole(architecture: str, host: str, metric: str) -> None:
    model = tiny(architecture, host)
    items = [item for item in ITEMS if isinstance(item, str)] if metric == "answers" else ITEMS
    found = effect(model, steering(), items, METRICS[metric])
    changes = []
    for item in items:
        base, steered = (logits(model, item, each) for each in (None, steering()))
        if metric == "divergence":
            both = (base.log_softmax(-1), steered.log_softmax(-1))
            changes.append((kl(*both) + kl(*reversed(both))).mean())
            continue
        good, bad = (int(model.to_tokens(word)[0, -1]) for word in ("good", "bad"))
        weights = WEIGHTS if metric == "weights" else torch.zeros(models.D_VOCAB)
        if metric == "answers":
            weights[good], weights[bad] = 1.0, -1.0
        changes.append(((steered - base) @ weights).mean())
    assert found.change == pytest.approx(float(torch.stack(changes).mean()), abs=1e-4)
    total = sum(float(found.parts[name].mean.sum()) for name in SUMMED)
    assert total == pytest.approx(found.change, abs=1e-4)
    assert found.direct + found.mediated + found.remainder == pytest.approx(found.change, abs=1e-4)
    capped = architecture == "gemma2"
    assert (abs(float(found.parts["cap"].mean)) > 1e-4) == capped
    after = found.parts["norms_after"].mean
    assert (float(after.abs().max()) > 1e-4) == (architecture in ("gemma2", "olmo2"))
    torch.testing.assert_close(found.parts["neurons"].mean.sum(1), found.mlps, atol=1e-4, rtol=1e-4)


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_a_heads_part_by_hand(architecture: str, host: str) -> None:
    """From the cache of each run: the change of its z, through W_O and both norms' mean scales."""
    model = tiny(architecture, host)
    item, layer, head = "w5 w6 bad", 2, 3
    found = effect(model, steering(), [item], WEIGHTS)
    z_name, after = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.ln1_post.hook_scale"
    sites = [z_name, "ln_final.hook_scale", *([after] if architecture == "gemma2" else [])]
    caches = [seen(model, item, each, sites) for each in (None, steering())]
    z = [each[z_name][0, -1, head] for each in caches]
    written = (z[1] - z[0]) @ model.blocks[layer].attn.W_O[head].detach()
    if architecture == "gemma2":
        written = written * gain(model.blocks[2].ln1_post) * mean_inverse(caches, after)
    weighed = gain(model.ln_final) * (model.W_U.detach() @ WEIGHTS)
    if architecture == "gpt2":
        weighed = weighed - weighed.mean()
    wanted = float(written @ weighed * mean_inverse(caches, "ln_final.hook_scale"))
    assert float(found.heads[layer, head]) == pytest.approx(wanted, abs=1e-4)


def seen(
    model: Any, item: str, steered: sl.Steering | None, names: Sequence[str]
) -> dict[str, Tensor]:
    """What stands at hook points in a pass."""
    found: dict[str, Tensor] = {}

    def reader(name: str) -> Any:
        return lambda activation, hook: found.update({name: activation.detach()})

    with torch.no_grad(), steered.on(model) if steered is not None else nullcontext():
        with model.hooks(fwd_hooks=[(name, reader(name)) for name in names]):
            model(model.to_tokens(item))
    return found


def gain(norm: Any) -> Tensor:
    """What a norm multiplies by: read off one vector whose own scale is known."""
    signs = torch.tensor([1.0, -1.0]).repeat(models.D_MODEL // 2)
    out = norm(1e4 * signs[None, None])[0, 0] - norm(-1e4 * signs[None, None])[0, 0]
    return (out / 2 * signs).detach()


def mean_inverse(caches: list[dict[str, Tensor]], name: str) -> float:
    return sum(1 / float(each[name][0, -1]) for each in caches) / 2


@EACH_HOST
def test_nothing_written_changes_nothing(host: str) -> None:
    found = effect(tiny("llama", host), steering(0.0), ITEMS)
    assert all(float(each.mean.abs().max()) == 0 for each in found.parts.values())
    assert all(float(each.mean.abs().max()) == 0 for each in found.responses.values())


@EACH_HOST
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_batches_and_rows_make_no_difference(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    scales = torch.tensor([1.0, 0.5, -2.0, 0.0])
    one = effect(model, steering() * scales, ITEMS, batch_tokens=8)
    two = effect(model, steering() * scales, ITEMS, batch_tokens=4096)
    pairs = zip(scales.tolist(), ITEMS, strict=True)
    alone = [effect(model, scale * steering(), [item]) for scale, item in pairs]
    for name, each in one.parts.items():
        torch.testing.assert_close(each.mean, two.parts[name].mean, atol=1e-4, rtol=1e-4)
        mean = torch.stack([found.parts[name].mean for found in alone]).mean(0)
        torch.testing.assert_close(each.mean, mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(each.variance, two.parts[name].variance, atol=1e-4, rtol=1e-4)
    for name, each in one.responses.items():
        torch.testing.assert_close(each.mean, two.responses[name].mean, atol=1e-4, rtol=1e-4)


def test_nothing_grows_with_the_prompts() -> None:
    model = tiny("llama", hosts()[0])
    few, many = (effect(model, steering(), ITEMS * times, batch_tokens=64) for times in (1, 8))

    def size(found: sl.Effect) -> int:
        every = [*found.parts.values(), *found.responses.values()]
        return sum(each.mean.numel() + each.squares.numel() for each in every)

    assert size(few) == size(many)
    assert (few.prompts, many.prompts) == (4, 32)
    torch.testing.assert_close(few.heads, many.heads, atol=1e-5, rtol=1e-4)


@EACH_HOST
def test_the_stream_moves_as_it_is_told(host: str) -> None:
    """Where nothing comes after, the change is what was written; before it, there is none."""
    model = tiny("gpt2", host)
    vector = direction("blocks.1.hook_resid_post")
    found = effect(model, sl.add(vector, coeff=2.0), ITEMS, direction=vector)
    stream = found.responses["stream"].mean
    assert float(stream[0]) == 0
    assert float(stream[1]) > 0
    assert float(found.responses["cosine"].mean[1]) == pytest.approx(1, abs=1e-5)
    assert float(found.responses["share"].mean[1]) == pytest.approx(1, abs=1e-5)
    assert float(found.responses["cosine"].mean[2]) < 1
    own = effect(model, sl.add(vector, coeff=2.0), ITEMS)
    torch.testing.assert_close(own.responses["cosine"].mean, found.responses["cosine"].mean)
    pattern, steered, first = (
        found.responses[name].mean for name in ("pattern", "to_steered", "to_first")
    )
    assert float(pattern[:2].abs().max()) == 0
    assert 0 < float(pattern[2].min()) <= float(pattern[2].max()) <= 1
    mlp = found.responses["mlp"].mean
    assert float(mlp[1]) == 0 < float(mlp[2])
    # All tokens but the first are written at: what they gain, it loses.
    torch.testing.assert_close(steered, -first, atol=1e-6, rtol=1e-4)


@EACH_HOST
def test_attention_that_moves_by_hand(host: str) -> None:
    model, item = tiny("gpt2", host), "w5 w6 bad w7"
    where = sl.positions.index(2)
    at_one = sl.add(direction("blocks.0.hook_resid_post"), coeff=3.0, positions=where)
    found = effect(model, at_one, [item])
    name = "blocks.2.attn.hook_pattern"
    patterns = [seen(model, item, each, [name])[name][0, :, -1] for each in (None, at_one)]
    gap = patterns[1] - patterns[0]
    response = {name: found.responses[name].mean[2].float() for name in found.responses}
    torch.testing.assert_close(response["pattern"], gap.abs().sum(-1) / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(response["to_steered"], gap[:, 2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(response["to_first"], gap[:, 0], atol=1e-5, rtol=1e-4)


@EACH_HOST
def test_a_head_that_is_written_responds_itself(host: str) -> None:
    """Steering at z has no direct part: its head's output is what changes."""
    model = tiny("llama", host)
    vector = direction("blocks.2.attn.hook_z", shape=(4, 8)).heads(1)
    found = effect(model, sl.add(vector), ["w5 w6 bad"], WEIGHTS)
    assert found.written_at == ()
    assert found.direct == 0
    assert found.top(1) == [(2, 1)]
    others = found.heads.clone()
    others[2, 1] = 0
    assert float(others.abs().max()) == 0


@EACH_HOST
def test_another_steering_that_is_on_is_the_base(host: str) -> None:
    model = tiny("llama", host)
    other = sl.add(direction("blocks.0.hook_resid_post", 7))
    with other.on(model):
        found = effect(model, steering(), ITEMS[1:3], WEIGHTS)
    base = torch.stack([logits(model, item, other)[-1] for item in ITEMS[1:3]])
    both = torch.stack([logits(model, item, other + steering())[-1] for item in ITEMS[1:3]])
    assert found.change == pytest.approx(float(((both - base) @ WEIGHTS).mean()), abs=1e-4)


def test_any_name_of_a_hook_point_will_do() -> None:
    """A bridge has several for one point; the parts are the same."""
    model = tiny("gpt2", "bridge")
    names = ("blocks.1.hook_mlp_out", "blocks.1.mlp.hook_out")
    one, other = (effect(model, sl.add(direction(name)), ITEMS[1:3], WEIGHTS) for name in names)
    assert one.written_at == other.written_at == names[:1]
    assert one.direct == pytest.approx(other.direct, abs=1e-6)
    assert float(one.parts["elsewhere"].mean) == pytest.approx(0, abs=1e-4)


@EACH_HOST
def test_what_is_in_no_part_is_told(host: str) -> None:
    model = tiny("gpt2", host)
    inside = sl.add(direction("blocks.2.ln2.hook_normalized"))
    effect(model, inside, ITEMS[1:3], WEIGHTS)  # what an MLP reads is not what it writes
    with pytest.warns(UserWarning, match="is in no part"):
        found = effect(model, sl.add(direction("ln_final.hook_normalized")), ITEMS[1:3], WEIGHTS)
    total = sum(float(found.parts[name].mean.sum()) for name in SUMMED)
    assert total == pytest.approx(found.change, abs=1e-4)


@EACH_HOST
def test_what_half_precision_rounds_is_told_as_that(host: str) -> None:
    model, far = tiny("llama", host, torch.bfloat16), sl.add(direction("blocks.1.hook_resid_post"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* in no part")
        effect(model, far, ITEMS[1:3], WEIGHTS)
    with pytest.warns(UserWarning, match=r"in no part: torch\.bfloat16 rounds that much"):
        effect(model, 0.1 * far, ITEMS[1:3], WEIGHTS)


@EACH_HOST
def test_no_hook_sees_a_norm_being_read(host: str) -> None:
    model, shapes = tiny("gemma2", host), list[Any]()
    seen = ("ln_final.hook_normalized", lambda x, hook: shapes.append(tuple(x.shape)))
    with model.hooks(fwd_hooks=[seen]):
        effect(model, steering(), ["w5 w6 bad"], WEIGHTS)
    assert len(shapes) == 2
    assert {each[1] for each in shapes} == {4}


@EACH_HOST
def test_a_cosine_is_a_mean_where_something_is_written(host: str) -> None:
    model, vector = tiny("gpt2", host), direction("blocks.1.hook_resid_post")
    some = effect(model, sl.add(vector, positions="last_prompt_token"), ITEMS)
    assert float(some.responses["cosine"].mean[1]) == pytest.approx(1, abs=1e-5)
    assert float(some.responses["cosine"].mean[0]) == 0


def test_what_is_told_is_what_was_found() -> None:
    model = tiny("gpt2", hosts()[0])
    found = effect(model, steering(), ITEMS)
    frame = found.frame()
    assert len(frame) == 3 * (1 + 4 + 1)
    parts = frame[frame.component != "stream"].part.sum()
    assert parts == pytest.approx(found.mediated)
    layer, head = found.top(1)[0]
    line = frame[(frame.layer == layer) & (frame.component == f"head {head}")].iloc[0]
    assert line.part == pytest.approx(float(found.heads[layer, head]))
    assert abs(line.part) == pytest.approx(float(found.heads.abs().max()))
    assert f"L{layer}H{head}" in repr(found)
    assert "Effect: change" in found._repr_html_()
    neurons = found.neurons_frame(3)
    assert neurons.part.abs().is_monotonic_decreasing
    assert len(found.top(4, by="pattern")) == 4


@EACH_HOST
def test_answers_of_several_tokens_are_told(host: str) -> None:
    model, items = tiny("gpt2", host), ["w1 w2", "w7 w8"]
    answers = [("good", "bad"), ("w3 w4", "sad")]
    with pytest.warns(UserWarning, match=r"'w3 w4', 'sad'.* are compared: '\W*w3' and '\W*sad'"):
        found = effect(model, steering(), items, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = effect(model, steering(), items, [("good", "bad"), ("w3", "sad")])
    assert found.change == same.change


def test_bad_input_is_told() -> None:
    model = tiny("gpt2", hosts()[0])
    for items, metric, message in (
        ([], None, "An effect is measured on a list"),
        (ITEMS, torch.zeros(3), "Weights over the vocabulary are 48"),
        (ITEMS, [("good", "bad")] * 3, "3 pairs of answers do not fit 4 prompts"),
        (ITEMS, ("good w1", "good w2"), "begin with the same token"),
        (ITEMS, ("good", ""), "have an empty one"),
    ):
        with pytest.raises(BadInputError, match=message):
            effect(model, steering(), items, metric)
    only = {"blocks.0.hook_resid_post": direction("blocks.0.hook_resid_post")}
    with pytest.raises(BadInputError, match=r"no direction at 'blocks.1.hook_resid_post'"):
        effect(model, steering(), ITEMS, direction=only)
    with pytest.raises(UnknownNameError, match="pattern"):
        effect(model, steering(), ITEMS).top(by="patern")
