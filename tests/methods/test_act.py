"""AcT against the same maps by hand: fitted on plain tensors, applied by plain hooks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import behaves
from by_hand import PROMPT, SETS, SOURCE, TARGET, logits, pooled, same_state, state
from cases import EACH_HOST
from models import D_MODEL, forward, tiny
from torch import Tensor

import steerlens as sl
from steerlens.errors import BadInputError, HookError, UnknownNameError
from steerlens.evaluation.metrics import quantile
from steerlens.methods import act
from steerlens.methods.data import Sets
from steerlens.methods.transport import coupled, wasserstein

CLOSE = dict(atol=1e-4, rtol=1e-4)
QUIET: dict[str, Any] = dict(progress=False)
LAYERS = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
BLOCKS = [f"blocks.{i}.hook_{part}_out" for i in range(3) for part in ("attn", "mlp")]
EVERY = pytest.mark.parametrize("architecture", ["gpt2", "pythia", "gemma2", "olmo2"])
DICE = torch.Generator().manual_seed(0)


def by_hand(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The code's formulas, for sets of one size."""
    x, y = source.double().sort(0).values, target.double().sort(0).values
    xc, yc = x - x.mean(0), y - y.mean(0)
    weight = (xc * yc).sum(0) / (xc**2).sum(0)
    return weight, y.mean(0) - weight * x.mean(0)


def applied(weight: Tensor, bias: Tensor, low: Tensor, high: Tensor, share: float = 1.0) -> Any:
    def change(a: Tensor) -> Tensor:
        mapped = share * (weight.float() * a + bias.float()) + (1 - share) * a
        return torch.where((a >= low) & (a <= high), mapped, a)

    return change


# The coupling and the maps


def test_sorted_pairs() -> None:
    x, y = torch.randn(7, 3, generator=DICE), torch.randn(7, 3, generator=DICE)
    first, second, shares = coupled(x, y)
    assert torch.equal(first, x.sort(0).values)
    assert torch.equal(second, y.sort(0).values)
    torch.testing.assert_close(shares, torch.full((7,), 1 / 7))


@pytest.mark.parametrize(("n", "m"), [(6, 4), (3, 7), (1, 5), (5, 1)])
def test_sets_of_different_sizes_are_coupled_as_their_copies(n: int, m: int) -> None:
    """Every number m times against every number n times: sets of one size, the same masses."""
    x, y = torch.randn(n, 3, generator=DICE), torch.randn(m, 3, generator=DICE)
    many_x, many_y = x.repeat_interleave(m, 0), y.repeat_interleave(n, 0)
    torch.testing.assert_close(wasserstein(x, y), wasserstein(many_x, many_y))
    by_sorting = ((many_x.sort(0).values - many_y.sort(0).values) ** 2).mean()
    torch.testing.assert_close(wasserstein(x, y), by_sorting)
    if n > 1:
        for ours, theirs in zip(act.linear(x, y), by_hand(many_x, many_y), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_w2_is_zero_of_a_set_and_its_shuffle() -> None:
    x = torch.randn(9, 4, generator=DICE)
    assert float(wasserstein(x, x[torch.randperm(9, generator=DICE)])) == 0


def test_normal_sets_give_the_ratio_of_spreads_and_the_shift() -> None:
    x = 3 * torch.randn(4000, 2, generator=DICE) + 1
    y = 0.5 * torch.randn(5000, 2, generator=DICE) - 2
    for fitter in (act.linear, act.gaussian):
        weight, bias = fitter(x, y)
        torch.testing.assert_close(weight, torch.full((2,), 1 / 6).double(), atol=0.01, rtol=0)
        torch.testing.assert_close(
            bias + weight, torch.full((2,), -2.0).double(), atol=0.05, rtol=0
        )
    weight, bias = act.mean(x, y)
    assert torch.equal(weight, torch.ones(2).double())
    torch.testing.assert_close(bias, (y.double().mean(0) - x.double().mean(0)))


def test_an_entry_that_does_not_spread_is_only_shifted() -> None:
    x, y = torch.full((5, 1), 0.3), torch.tensor([[1.0], [2.0], [3.0]])
    for fitter in (act.linear, act.gaussian):
        weight, bias = fitter(x, y)
        assert float(weight) == 1
        assert float(bias) == pytest.approx(1.7)


def test_quantiles() -> None:
    x = torch.randn(8, 3, generator=DICE)
    for share in (0.0, 0.1, 0.5, 0.93, 1.0):
        torch.testing.assert_close(quantile(x, share), torch.quantile(x, share, dim=0))
    assert torch.equal(quantile(x[:1], 0.4), x[0])


# The method


def test_the_defaults_are_the_papers() -> None:
    config = act.Config()
    assert (config.map, config.coeff, config.incremental) == ("linear", 1.0, True)
    assert (config.read, config.positions) == ("everywhere", "everywhere")
    bounds = {each: act.Config(map=each).bounds for each in ("linear", "mean", "gaussian")}
    assert bounds == {"linear": (0.0, 1.0), "mean": None, "gaussian": None}
    assert act.Config(support="all").bounds is None
    assert act.Config(map="gaussian", support=(0.1, 0.9)).bounds == (0.1, 0.9)


@pytest.mark.host
@EACH_HOST
@EVERY
def test_linear_act_by_hand(architecture: str, host: str) -> None:
    """All at once: maps, supports and logits, at half strength too."""
    model = tiny(architecture, host)
    steering = act.fit(model, SETS, act.Config(incremental=False, coeff=0.5), **QUIET)
    names = BLOCKS if architecture in ("gemma2", "olmo2") else LAYERS
    assert [each.hook_name for each in steering.interventions] == names
    with torch.no_grad():
        source, target = (pooled(model, rows, names) for rows in (SOURCE, TARGET))
    changes = {}
    for each in steering.interventions:
        x = source[each.hook_name]
        weight, bias = by_hand(x, target[each.hook_name])
        found: Any = each.transform
        torch.testing.assert_close(found.weight, weight.float(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.bias, bias.float(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.low, x.amin(0), **CLOSE)
        torch.testing.assert_close(found.high, x.amax(0), **CLOSE)
        # the found map, so that no entry changes sides of its support by a rounding
        changes[each.hook_name] = applied(found.weight, found.bias, found.low, found.high, 0.5)
    with steering.on(model), torch.no_grad():
        steered = forward(model, PROMPT)
    torch.testing.assert_close(steered, logits(model, changes), **CLOSE)
    assert not torch.allclose(steered, logits(model, {}), atol=1e-2)


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize(("architecture", "map_"), [("gpt2", "linear"), ("gemma2", "mean")])
def test_incremental_is_one_after_another(architecture: str, host: str, map_: Any) -> None:
    """Each map is fitted on both sets under the maps before it, as by hand, in the pass's order."""
    model = tiny(architecture, host)
    names = LAYERS if architecture == "gpt2" else [BLOCKS[3], BLOCKS[1], BLOCKS[2]]
    in_pass = sorted(names)
    config = act.Config(map=map_, sites=names, incremental=False)
    alone = act.fit(model, SETS, config, **QUIET)
    in_turn = act.fit(model, SETS, replace(config, incremental=True), **QUIET)
    assert [each.hook_name for each in in_turn.interventions] == in_pass
    changes: dict[str, Any] = {}
    for place, (one, other) in enumerate(
        zip(alone.interventions, in_turn.interventions, strict=True)
    ):
        first: Any = one.transform
        found: Any = other.transform
        name = other.hook_name
        with torch.no_grad():
            sides = [pooled(model, rows, [name], changes)[name] for rows in (SOURCE, TARGET)]
        weight, bias = by_hand(*sides) if map_ == "linear" else act.mean(*sides)
        torch.testing.assert_close(found.weight, weight.float(), atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.bias, bias.float(), atol=2e-3, rtol=2e-3)
        assert torch.allclose(first.bias, found.bias, atol=1e-3) == (place == 0)
        low, high = (
            (torch.tensor(-torch.inf), torch.tensor(torch.inf))
            if map_ == "mean"
            else (found.low, found.high)
        )
        changes[name] = applied(found.weight, found.bias, low, high)


@pytest.mark.host
@EACH_HOST
def test_blocks_with_norms_after_them_are_steered_behind_the_norm(host: str) -> None:
    """What is steered by default is what the stream takes up."""
    for architecture in ("gemma2", "olmo2"):
        model = tiny(architecture, host)
        with torch.no_grad():
            _, cache = model.run_with_cache(PROMPT)
        whole = cache["blocks.1.hook_resid_pre"] + sum(cache[name] for name in BLOCKS[2:4])
        torch.testing.assert_close(whole, cache["blocks.1.hook_resid_post"], **CLOSE)


@pytest.mark.host
@EACH_HOST
def test_the_norm_before_the_mlp(host: str) -> None:
    """The papers' site on Llama and Qwen. A gain behind it changes no map."""
    model = tiny("llama", host)
    config = act.Config(sites="ln2.hook_normalized", incremental=False)
    steering = act.fit(model, SETS, config, **QUIET)
    assert [each.hook_name for each in steering.interventions] == [
        f"blocks.{layer}.ln2.hook_normalized" for layer in range(3)
    ]
    gain = torch.tensor([-2.0, 0.5, 3.0])
    x, y = torch.randn(6, 3, generator=DICE), torch.randn(6, 3, generator=DICE)
    weight, bias = act.linear(x, y)
    behind, shift = act.linear(gain * x, gain * y)
    torch.testing.assert_close(weight, behind)
    torch.testing.assert_close(gain.double() * bias, shift)


@pytest.mark.host
@EACH_HOST
def test_it_is_a_steering_like_any_other(host: str, tmp_path: Path) -> None:
    model = tiny("llama", host)
    before = state(model)
    steering = act.fit(model, SETS, act.Config(sites=LAYERS[:2]), **QUIET)
    behaves(steering, model, tmp_path / "act.safetensors")
    assert same_state(before, state(model))
    with pytest.raises(BadInputError, match="share from 0 to 1"):
        1.5 * steering


@pytest.mark.host
@EACH_HOST
def test_a_contrast_leads_from_its_negative_to_its_positive_side(host: str) -> None:
    model = tiny("llama", host)
    config = act.Config(sites=LAYERS[1], map="mean")
    contrast = act.fit(model, sl.Contrast(TARGET, SOURCE), config, **QUIET)
    sets = act.fit(model, Sets(SOURCE, TARGET), config, **QUIET)
    one, other = (each.interventions[0].transform for each in (contrast, sets))
    assert torch.equal(one.bias, other.bias)  # type: ignore[attr-defined]


@pytest.mark.host
@EACH_HOST
def test_heads(host: str) -> None:
    """At `z` a map has an entry for every entry of every head."""
    model = tiny("llama", host)
    steering = act.fit(model, SETS, act.Config(sites="z"), **QUIET)
    found: Any = steering.interventions[0].transform
    assert found.weight.shape == (4, D_MODEL // 4)
    with steering.on(model), torch.no_grad():
        forward(model, PROMPT)


@pytest.mark.host
@EACH_HOST
def test_errors(host: str) -> None:
    model = tiny("llama", host)
    for wrong in ((0.5, 0.5), (-0.1, 0.5), (0.2, 1.1)):
        with pytest.raises(BadInputError, match="the lower first"):
            act.Config(support=wrong)
    for share in (-0.1, 1.5, float("nan")):
        with pytest.raises(BadInputError, match="share from 0 to 1"):
            act.Config(coeff=share)
    for field, said in (("map", "linear, mean, gaussian"), ("support", "'paper' or 'all'")):
        config = act.Config()
        object.__setattr__(config, field, "cubic")  # past the tests' own check of types
        with pytest.raises(BadInputError, match=said):
            config.__post_init__()
    one = Sets(SETS.source[:1], SETS.target)
    with pytest.raises(BadInputError, match="one source text"):
        act.fit(model, one, **QUIET)
    for config in (act.Config(support="all"), act.Config(map="mean")):
        act.fit(model, one, config, **QUIET)
    with pytest.raises(UnknownNameError):
        act.fit(model, SETS, act.Config(sites="resid_pst"), **QUIET)
    with pytest.raises(HookError, match="every query and key"):
        act.fit(model, SETS, act.Config(sites="pattern"), **QUIET)
    if host == "bridge":
        with pytest.raises(HookError, match="only read"):
            act.fit(model, SETS, act.Config(sites="resid_mid"), **QUIET)
