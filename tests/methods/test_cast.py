"""CAST: vectors, score and search by hand, and the rows that meet a condition by plain hooks."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import hosts, padded, tiny
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.methods import cast
from steerlens.methods.conditions import Condition, Point, best_point, components
from steerlens.signals import Moment, ProjectedCosine
from steerlens.signals.projected import projected_cosine

ON = [(name, host) for host in hosts() for name in ("gpt2", "olmo2")]
MODELS = pytest.mark.parametrize(("architecture", "host"), ON)
STREAM = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
QUIET: dict[str, Any] = dict(progress=False)


def rows(n: int, low: int, high: int, seed: int) -> list[list[int]]:
    """Texts of 3 to 8 words from a part of the vocabulary, after BOS."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(3, 9, (n,), generator=generator).tolist()
    return [[1, *torch.randint(low, high, (k,), generator=generator).tolist()] for k in sizes]


CALLING, OTHER = rows(10, 4, 18, 0), rows(10, 30, 48, 1)
CONDITION = sl.Contrast(CALLING, OTHER)
BEHAVIOUR = sl.Contrast(
    [(prompt, " good happy") for prompt in CALLING[:5]],
    [(prompt, " bad sad") for prompt in CALLING[:5]],
)
DATA = cast.Conditional(BEHAVIOUR, CONDITION)
CONFIG = cast.Config(coeff=3, layers=[1, 2])


@cache
def fitted(architecture: str, host: str, config: cast.Config = CONFIG) -> sl.Steering:
    return cast.fit(tiny(architecture, host), DATA, replace(config, layers=(1, 2)), **QUIET)


@cache
def cached(model: Any, tokens: tuple[int, ...]) -> Any:
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([tokens]), names_filter=STREAM)[1]


def words(model: Any, items: Any, layer: int) -> list[Tensor]:
    """Every text's stream at its words, without BOS, in float64."""
    name = f"blocks.{layer}.hook_resid_post"
    return [cached(model, tuple(item))[name][0, 1:].double() for item in items]


def means(model: Any, items: Any, layer: int) -> Tensor:
    return torch.stack([each.mean(0) for each in words(model, items, layer)])


def score(h: Tensor, c: Tensor) -> float:
    """cos(h, tanh(P h)) with P as a matrix."""
    projection = torch.outer(c, c) / (c @ c)
    return float(torch.cosine_similarity(h, torch.tanh(projection @ h), dim=0))


def condition_of(steering: sl.Steering) -> tuple[sl.Direction, float, bool]:
    gate: Any = steering.interventions[0].gate
    return gate.score.signal.signal.direction, gate.bound, gate.above


# The mathematics


def test_defaults() -> None:
    config = cast.Config()
    assert (config.coeff, config.pool, config.keep_norm) == (1.0, "mean", False)
    assert (config.positions, config.bounds, config.side) == ("everywhere", None, None)
    assert list(cast.usual_layers(32)) == list(range(15, 24))
    assert cast._searched(32, config) == list(range(16))


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_the_score_is_the_cosine_with_the_squashed_projection(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = size * torch.randn(4, 5, 12, generator=generator, dtype=torch.float64)
    c = 7 * torch.randn(12, generator=generator, dtype=torch.float64)
    found = projected_cosine(x, c)
    wanted = torch.tensor([[score(each, c) for each in row] for row in x])
    torch.testing.assert_close(found, wanted.double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(projected_cosine(x, -c), found)
    assert found.min() >= 0
    assert found.max() <= 1
    signal = ProjectedCosine(sl.Direction("blocks.0.attn.hook_z", c.float().reshape(3, 4)))
    heads = signal(Moment(x.float().reshape(4, 5, 3, 4)))
    torch.testing.assert_close(heads, found.float(), atol=1e-5, rtol=1e-4)
    plain = torch.cosine_similarity(x, c.expand_as(x), dim=-1).abs()
    assert ((plain - found).abs().max() < 1e-3) == (size < 0.1)
    assert projected_cosine(torch.zeros(2, 12), c.float()).tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("bounds", [None, [0.2, 0.9, 0.5]])
def test_the_search_finds_the_best_f1(seed: int, bounds: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    sign = 1 if seed % 2 else -1
    positive = torch.rand(9, generator=generator) + 0.2 * sign
    negative = torch.rand(13, generator=generator)
    labels = [1] * 9 + [0] * 13
    scores = torch.cat([positive, negative])

    def told(bound: float, side: str) -> Tensor:
        return scores > bound if side == "above" else scores < bound

    def f1(bound: float, side: str) -> float:
        hits = told(bound, side)
        return float(2 * hits[:9].sum() / (hits.sum() + 9))

    found = best_point(positive, negative, bounds=bounds)
    assert found.f1 == pytest.approx(f1_score(labels, told(found.bound, found.side)))
    inside = torch.linspace(float(scores.min()) + 1e-6, float(scores.max()) - 1e-6, 300).tolist()
    every = [f1(b, side) for b in (bounds or inside) for side in ("above", "below")]
    assert found.f1 >= max(every) - 1e-6
    if bounds is not None:
        assert found.bound in bounds
        assert found.f1 == pytest.approx(max(every))
    one = best_point(positive, negative, bounds=bounds, sides=["below"])
    assert one.side == "below"
    assert one.f1 <= found.f1


def test_the_first_of_several_bounds_is_taken() -> None:
    high, low = torch.tensor([0.6, 0.7]), torch.tensor([0.1, 0.2])
    assert best_point(high, low, bounds=[0.5, 0.3, 0.4]) == Point(0.3, "above", 1.0)
    low_side = best_point(low, high)
    assert (low_side.side, low_side.f1) == ("below", 1.0)
    assert low_side.bound == pytest.approx(0.4)
    same = torch.tensor([0.5, 0.5])
    assert best_point(same, same).f1 == 0


# On models


@MODELS
@pytest.mark.host
def test_vectors_are_components_of_centred_pairs(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    for layer, found in zip(
        (0, 2), components(model, CONDITION, [0, 2], "prompt", "c", False), strict=True
    ):
        positive, negative = (means(model, side, layer) for side in (CALLING, OTHER))
        middle = (positive + negative) / 2
        train = torch.stack([positive - middle, negative - middle], 1).flatten(0, 1)
        wanted = torch.from_numpy(PCA(1).fit(train.numpy()).components_[0]).float()
        assert found.norm == pytest.approx(1)
        assert abs(found.vector @ wanted) == pytest.approx(1, abs=1e-4)
        assert (positive.mean(0) - negative.mean(0)).float() @ found.vector > 0
    behaviour = fitted(architecture, host).interventions[1].transform.along
    sides = [
        torch.stack(
            [
                cached(model, (*prompt, *ids))["blocks.2.hook_resid_post"][0, -2:].mean(0)
                for prompt in CALLING[:5]
            ]
        )
        for ids in (model.to_tokens(text)[0, 1:].tolist() for text in ("good happy", "bad sad"))
    ]
    pairs = sides[0] - sides[1]
    wanted = torch.linalg.svd(pairs.double()).Vh[0].float()
    assert abs(behaviour.vector @ wanted) == pytest.approx(1, abs=1e-4)
    assert behaviour.norm == pytest.approx(1)


@MODELS
@pytest.mark.host
def test_rows_that_meet_the_condition_are_steered(architecture: str, host: str) -> None:
    model, steering = tiny(architecture, host), fitted(architecture, host)
    c, bound, above = condition_of(steering)
    assert c.hook_name == "blocks.0.hook_resid_post"
    prompts = [*rows(6, 4, 18, 5), *rows(6, 30, 48, 6)]
    scores = [score(h, c.vector.double()) for h in means(model, prompts, 0)]
    met = torch.tensor([(each > bound) == above for each in scores])
    assert 0 < int(met.sum()) < len(prompts)
    vectors = [leaf.transform.along.vector for leaf in steering.interventions]

    def adding(layer: int) -> Any:
        def add(a: Tensor, hook: Any) -> Tensor:
            real = tokens != 0
            real[:, 0] = False
            return a + 3 * (met[:, None] & real)[..., None] * vectors[layer - 1]

        return f"blocks.{layer}.hook_resid_post", add

    tokens, _ = padded([torch.tensor(each) for each in prompts], "right")
    with torch.no_grad():
        plain = model(tokens)
        wanted = model.run_with_hooks(tokens, fwd_hooks=[adding(1), adding(2)])
        with steering.on(model):
            steered = model(tokens)
    real = tokens != 0
    torch.testing.assert_close(steered[real], wanted[real], atol=1e-4, rtol=1e-4)
    assert torch.equal(steered[~met], plain[~met])
    assert (steered - plain)[met][real[met]].abs().max() > 0.01


@MODELS
@pytest.mark.filterwarnings("ignore:.*never opened")
@pytest.mark.host
def test_the_search_over_layers(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    config = cast.Config(condition_layers=[0, 1, 2], pool="last")
    found = cast.find_condition(model, CONDITION, config, **QUIET)
    best: dict[int, float] = {}
    for layer, direction in zip(
        range(3),
        components(model, CONDITION, [0, 1, 2], "last_prompt_token", "c", False),
        strict=True,
    ):
        scores = [
            torch.tensor(
                [score(h[-1], direction.vector.double()) for h in words(model, side, layer)]
            )
            for side in (CALLING, OTHER)
        ]
        best[layer] = best_point(*scores).f1
    assert found.frame().f1.tolist() == pytest.approx(list(best.values()))
    assert found.point.f1 == max(best.values())
    assert found.layer == min(layer for layer in best if best[layer] == found.point.f1)
    assert found.always == pytest.approx(2 / 3)
    for prompt in (CALLING[0], OTHER[0]):
        last = words(model, [prompt], found.layer)[0][-1]
        told = score(last, found.direction.vector.double()) > found.point.bound
        met = float(told == (found.point.side == "above"))
        assert set(gates(model, found, prompt).tolist()) == {met}


def gates(model: Any, found: Condition, prompt: list[int]) -> Tensor:
    """The condition's gate at every word of a prompt."""
    steering = sl.add(sl.Direction("blocks.2.hook_resid_post", torch.ones(32)))
    with steering.when(found.gate).trace(model) as trace, torch.no_grad():
        model(torch.tensor([prompt]))
    return trace.texts[0].gate[0, 0, 1:]


@EACH_HOST
@pytest.mark.filterwarnings("ignore:.*never opened")
@pytest.mark.host
def test_decided_on_the_prompt_and_held_while_generating(host: str) -> None:
    model, steering = tiny("llama", host), 3 * fitted("llama", host)
    quiet = dict(max_new_tokens=3, do_sample=False, stop_at_eos=False, verbose=False)
    by_gate = {opens(model, steering, prompt): prompt for prompt in (*CALLING[:3], *OTHER[:3])}
    assert set(by_gate) == {True, False}
    for met, prompt in by_gate.items():
        tokens = torch.tensor([prompt])
        with steering.trace(model) as trace:
            whole = model.generate(tokens, **quiet)
        gate = trace.texts[0].gate[0, 0, 1:]
        assert set(gate.tolist()) == {float(met)}
        with torch.no_grad(), steering.on(model, prompt_lengths=[len(prompt)]):
            logits = model(whole)[0]
        for place in range(len(prompt), whole.shape[1]):
            top = logits[place - 1].topk(2)
            if top.values[0] - top.values[1] > 1e-3:
                assert top.indices[0] == whole[0, place]


@EACH_HOST
@pytest.mark.host
def test_norms_are_kept_where_asked(host: str) -> None:
    model = tiny("gpt2", host)
    config = cast.Config(layers=[2], coeff=3, keep_norm=True, side="above")
    steering = cast.fit(model, DATA, config, **QUIET).when(1)
    tokens = torch.tensor([next(each for each in CALLING if opens(model, steering, each))])
    name = "blocks.2.hook_resid_post"
    with torch.no_grad():
        plain = model.run_with_cache(tokens)[1][name]
        with steering.on(model):
            kept = model.run_with_cache(tokens)[1][name]
    torch.testing.assert_close(kept.norm(dim=-1), plain.norm(dim=-1), atol=1e-4, rtol=1e-5)
    vector = steering.interventions[0].transform.inner.along.vector
    wanted = plain[0, 1:] + 3 * vector
    wanted = wanted * (plain[0, 1:].norm(dim=-1) / wanted.norm(dim=-1))[:, None]
    torch.testing.assert_close(kept[0, 1:], wanted, atol=1e-4, rtol=1e-4)


def opens(model: Any, steering: sl.Steering, prompt: list[int]) -> bool:
    with steering.trace(model) as trace, torch.no_grad():
        model(torch.tensor([prompt]))
    return bool(trace.texts[0].gate.any())


@EACH_HOST
@pytest.mark.filterwarnings("ignore:.*never opened")
@pytest.mark.host
def test_combined_gated_placed_pickled(host: str) -> None:
    model, steering = tiny("gpt2", host), fitted("gpt2", host)
    tokens = torch.tensor([next(each for each in CALLING if opens(model, steering, each))])
    with torch.no_grad():
        plain = model(tokens)
        with pytest.warns(UserWarning, match="never opened"), steering.when(0).on(model):
            assert torch.equal(model(tokens), plain)
        with (0 * steering).on(model):
            assert torch.equal(model(tokens), plain)
        with steering.on(model):
            steered = model(tokens)
        with pickle.loads(pickle.dumps(steering)).on(model):
            assert torch.equal(model(tokens), steered)
        both = steering.when(0.5) + sl.add(sl.Direction("blocks.1.hook_resid_post", torch.ones(32)))
        with both.where("last_prompt_token").trace(model) as trace:
            model(tokens)
    assert trace.texts[0].picked[:, 0].sum(1).tolist() == [1, 1, 1]
    assert trace.texts[0].gate[:, 0, -1].tolist() == [0.5, 0.5, 1]
    found = cast.find_condition(model, CONDITION, **QUIET)
    other = replace(
        found,
        point=replace(found.point, side={"above": "below", "below": "above"}[found.point.side]),
    )
    direction = sl.Direction("blocks.2.hook_resid_post", torch.ones(32))
    for gate, wanted in ((found.gate | other.gate, 1), (found.gate & other.gate, 0)):
        with sl.add(direction).when(gate).trace(model) as trace, torch.no_grad():
            model(tokens)
        assert set(trace.texts[0].gate[0, 0, 1:].tolist()) == {wanted}


@EACH_HOST
@pytest.mark.host
def test_the_condition_lies_below_what_it_steers(host: str) -> None:
    model = tiny("gpt2", host)
    steering = cast.fit(model, DATA, **QUIET)
    assert [leaf.hook_name for leaf in steering.interventions] == ["blocks.1.hook_resid_post"]
    assert condition_of(steering)[0].layer == 0
    for config in (
        cast.Config(layers=[0]),
        cast.Config(layers=[2], condition_layers=[2]),
        cast.Config(layers=[1, 2], condition_layers=[0, 1]),
    ):
        with pytest.raises(BadInputError, match=r"read at a lower layer than any that it steers"):
            cast.fit(model, DATA, config, **QUIET)
    with pytest.raises(BadInputError, match=r"none of the usual behaviour layers.*Give layers"):
        cast.fit(model, DATA, cast.Config(condition_layers=[2]), **QUIET)


@pytest.mark.host
def test_refusals_and_warnings() -> None:
    model = tiny("gpt2", hosts()[0])
    with pytest.raises(BadInputError, match=r"fitted on a Conditional.*got Contrast"):
        cast.check_data(CONDITION)
    unpaired = sl.Contrast(CALLING, OTHER[:7])
    for data in (cast.Conditional(BEHAVIOUR, unpaired), cast.Conditional(unpaired, CONDITION)):
        with pytest.raises(BadInputError, match=r"CAST centres pairs, and the (condition|behav)"):
            cast.fit(model, data, cast.Config(layers=[2]), **QUIET)
    with pytest.warns(UserWarning, match=r"no better than a gate that is always open"):
        found = cast.find_condition(model, CONDITION, cast.Config(bounds=[2.0]), **QUIET)
    assert (found.point.bound, found.point.side) == (2, "below")
    assert found.point.f1 == pytest.approx(2 / 3)
    assert repr(found).startswith("Condition(score at blocks.0.hook_resid_post below 2, F1 0.67")
    assert repr(DATA) == "Conditional(behaviour of 5 pairs, condition of 10 pairs)"
    for wrong in (dict(layers=[]), dict(bounds=[]), dict(condition_layers=())):
        with pytest.raises(BadInputError, match=r"is empty"):
            cast.Config(**wrong)
