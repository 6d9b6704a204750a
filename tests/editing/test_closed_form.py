"""The closed form against its own problem, its null against chance, and g and k by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import EACH_HOST, examples
from edits import CONTRAST, MANY, ONE_HOST, READ, direction, inputs, made, read, sides, writer
from hypothesis import strategies as st
from models import N_LAYERS, tiny

import steerlens as sl
from steerlens.editing import Null, candidates, elastic_net, objective, steer2edit, strengths
from steerlens.editing.closed_form import weight
from steerlens.errors import BadInputError
from steerlens.text import encode

IMPORTANCE = st.floats(-1, 1, allow_nan=False)
RHO, ALPHA = st.floats(0.02, 2), st.floats(0.02, 0.98)


def test_strengths_solve_their_problem() -> None:
    """No point of a fine grid around λ, wide enough to hold any optimum, does better."""

    def law(g: float, rho: float, alpha: float) -> None:
        importance = torch.tensor([g], dtype=torch.float64)
        found = strengths(importance, rho, alpha)
        reach = 1.5 / (rho * (1 - alpha))
        grid = torch.linspace(-reach, reach, 40_001, dtype=torch.float64)
        best = objective(grid, importance, rho, alpha)
        assert float(objective(found, importance, rho, alpha)) >= float(best.max()) - 1e-12
        step = float(grid[1] - grid[0])
        assert abs(float(grid[best.argmax()] - found)) <= step

    examples(law, IMPORTANCE, RHO, ALPHA, salt="strengths", part=20)


def test_only_above_the_threshold() -> None:
    """λ is 0 up to ρα, and has g's sign and the slope 1 / (ρ(1 - α)) beyond."""

    def law(g: float, rho: float, alpha: float) -> None:
        if abs(abs(g) - rho * alpha) < 1e-6:
            return
        found = float(strengths(torch.tensor([g], dtype=torch.float64), rho, alpha))
        assert (found != 0) == (abs(g) > rho * alpha)
        if found:
            beyond = (abs(g) - rho * alpha) / (rho * (1 - alpha))
            assert found == pytest.approx(math.copysign(beyond, g), rel=1e-9)

    examples(law, IMPORTANCE, RHO, ALPHA, salt="threshold", part=20)


@pytest.mark.parametrize("d_model", [3, 32, 300])
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_a_null_is_the_quantile_of_random_directions(d_model: int, quantile: float) -> None:
    generator = torch.Generator().manual_seed(d_model)
    n = 100_000 if d_model < 100 else 20_000
    drawn = torch.randn(n, d_model, generator=generator)
    cosines = (drawn[:, 0] / drawn.norm(dim=1)).abs()
    threshold = Null(quantile).threshold(d_model)
    passed = float((cosines > threshold).float().mean())
    assert passed == pytest.approx(1 - quantile, abs=4 * (quantile * (1 - quantile) / n) ** 0.5)


@pytest.mark.parametrize("alpha", [0.2, 0.95])
def test_a_null_makes_the_threshold(alpha: float) -> None:
    rho = weight(Null(0.9), alpha, 32)
    assert rho is not None
    assert rho * alpha == pytest.approx(Null(0.9).threshold(32))
    at = Null(0.9).threshold(32)
    found = strengths(torch.tensor([at - 1e-3, at + 1e-3]), rho, alpha)
    assert found[0] == 0 < found[1]


@pytest.mark.parametrize("off", [None, -1, -1.0, 0])
def test_the_sentinel_switches_off(off: Any) -> None:
    assert weight(off, 0.5, 32) is None


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_alpha_lies_between_0_and_1(alpha: float) -> None:
    with pytest.raises(BadInputError, match="alpha lies between 0 and 1"):
        weight(0.5, alpha, 32)


@pytest.mark.parametrize("quantile", [0.0, 1.0, math.nan, -1.0])
def test_a_quantile_lies_between_0_and_1(quantile: float) -> None:
    with pytest.raises(BadInputError, match="quantile"):
        Null(quantile)


@pytest.mark.host
@ONE_HOST
def test_a_type_switched_off_is_left_alone(host: str) -> None:
    model = tiny("llama", host)
    heads = steer2edit(model, CONTRAST, **{**MANY, "rho_mlp": None})
    neurons = steer2edit(model, CONTRAST, **{**MANY, "rho_attn": -1})
    assert {each.place[1] for each in heads.factors} == {"attn"}
    assert {each.place[1] for each in neurons.factors} == {"mlp"}
    with pytest.raises(BadInputError, match="both switched off"):
        steer2edit(model, CONTRAST, **{**MANY, "rho_attn": -1, "rho_mlp": None})
    both = made("paper", "llama", host)
    assert both.total == pytest.approx(heads.total + neurons.total, rel=1e-5)


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "olmo2"])
def test_importance_and_factors_by_hand(architecture: str, host: str) -> None:
    """Without a direction: v is the mean difference of W x, g = cos(v, W μ), k ∝ W v."""
    model = tiny(architecture, host)
    found = candidates(model, CONTRAST, progress=False)
    assert [each.place for each in found.blocks] == [
        (layer, block) for layer in range(N_LAYERS) for block in ("attn", "mlp")
    ]
    positive, negative = sides(architecture, host)
    for each in found.blocks:
        place, weights = each.place, writer(model, each.place)
        difference, mean = positive[place] - negative[place], inputs(architecture, host)[place]
        heads = weights if place[1] == "attn" else weights[:, None]
        written = torch.einsum("ui,uid->d", difference.reshape(heads.shape[:2]), heads)
        v = written / written.norm()
        torch.testing.assert_close(each.writes, v, atol=1e-5, rtol=1e-4)
        outputs = torch.einsum("ui,uid->ud", mean.reshape(heads.shape[:2]), heads)
        g = outputs @ v / outputs.norm(dim=-1)
        torch.testing.assert_close(each.importance, g, atol=1e-4, rtol=1e-3)
        k = heads @ v
        torch.testing.assert_close(each.reads, k / k.norm(dim=-1, keepdim=True), atol=1e-4, rtol=0)
        torch.testing.assert_close(each.outputs, outputs.norm(dim=-1), atol=1e-5, rtol=1e-3)
        largest = torch.linalg.svdvals(heads)[:, 0]
        torch.testing.assert_close(each.norms, largest, atol=1e-5, rtol=1e-4)


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_the_edited_weights_by_the_papers_equations(architecture: str, host: str) -> None:
    """ΔW = λ u kᵀ on every W_O and w_out, component by component, from the sides' means alone."""
    model, (rho, alpha) = tiny(architecture, host), (0.3, 0.6)
    edit = steer2edit(model, CONTRAST, rho_attn=rho, rho_mlp=rho, alpha=alpha, progress=False)
    wanted, edited = {}, 0
    positive, negative = sides(architecture, host)
    for place in positive:
        weights = writer(model, place).double()
        matrices = (weights if place[1] == "attn" else weights[:, None]).mT  # unit, d_model, d_in
        up, down = (
            each[place].double().reshape(matrices.shape[0], -1) for each in (positive, negative)
        )
        written = [sum(w @ x for w, x in zip(matrices, side, strict=True)) for side in (up, down)]
        u = (written[0] - written[1]) / (written[0] - written[1]).norm()
        for w, mu in zip(matrices, (up + down) / 2, strict=True):
            g = float(w @ mu @ u / (w @ mu).norm())
            k = w.T @ u / (w.T @ u).norm()
            size = math.copysign(max(abs(g) - rho * alpha, 0) / (rho * (1 - alpha)), g)
            w += size * torch.outer(u, k)
            edited += size != 0
        wanted[place] = matrices.mT.reshape(weights.shape).float()
    assert 0 < edited == len(edit.frame()) < sum(len(each) for each in wanted.values())
    with edit.applied(model):
        for place, weights in wanted.items():
            torch.testing.assert_close(writer(model, place), weights, atol=1e-5, rtol=1e-4)


@pytest.mark.host
@EACH_HOST
def test_means_are_over_what_predicts_the_completion(host: str) -> None:
    """From the last prompt token to the second-last token, the mean of an item first."""
    model = tiny("llama", host)
    texts = [
        [("good w1", " w2 w3 w4"), ("happy", " w5")],
        [("bad w1 w6", " w7"), ("sad", " w8 w9 w1 w2")],
    ]
    found = candidates(model, sl.Contrast(*texts), progress=False)
    means = [predicting(model, side) for side in texts]
    weights = writer(model, (1, "attn"))
    written = torch.einsum("hi,hid->d", means[0] - means[1], weights)
    [mine] = [each for each in found.blocks if each.place == (1, "attn")]
    torch.testing.assert_close(mine.writes, written / written.norm(), atol=1e-5, rtol=1e-4)
    paired = candidates(model, sl.Contrast(*texts), paired_prompt=True, progress=False)
    crossed = [(a[0], b[1]) for a, b in zip(*texts, strict=True)]
    written = torch.einsum("hi,hid->d", means[0] - predicting(model, crossed), weights)
    [mine] = [each for each in paired.blocks if each.place == (1, "attn")]
    torch.testing.assert_close(mine.writes, written / written.norm(), atol=1e-5, rtol=1e-4)


def predicting(model: Any, items: Any) -> torch.Tensor:
    encoded = [encode(model, item) for item in items]
    found = read(model, [torch.tensor(each.tokens) for each in encoded], [READ[1, "attn"]])
    rows = zip(found[READ[1, "attn"]], encoded, strict=True)
    means = [z[each.prompt_length - 1 : len(each.tokens) - 1].mean(0) for z, each in rows]
    return torch.stack(means).mean(0)


@pytest.mark.host
@ONE_HOST
def test_relative_means_as_strong_as_the_component_is(host: str) -> None:
    found = candidates(tiny("llama", host), CONTRAST, progress=False)
    rule: dict[str, Any] = dict(rho_attn=0.1, rho_mlp=0.2, alpha=0.7)
    plain, scaled = elastic_net(found, **rule), elastic_net(found, relative=True, **rule)
    norms = {each.place: each.norms for each in found.blocks}
    for one, other in zip(plain.factors, scaled.factors, strict=True):
        torch.testing.assert_close(one.strengths * norms[one.place][one.units], other.strengths)


@pytest.mark.host
@ONE_HOST
def test_one_direction_serves_every_block_and_several_their_own(host: str) -> None:
    model = tiny("llama", host)
    one = candidates(model, CONTRAST, direction(), progress=False)
    unit = direction().unit().vector
    assert all(torch.allclose(each.writes, unit) for each in one.blocks)
    several = sl.find_directions(model, CONTRAST, placebos=0, progress=False)
    own = candidates(model, CONTRAST, several, progress=False)
    for each in own.blocks:
        wanted = several["resid_post", each.place[0]].unit().vector
        torch.testing.assert_close(each.writes, wanted)
