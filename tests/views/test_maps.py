"""Maps of heads, and the views of effect, mediation and attribution, on values made by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_views import HOSTILE, Tags

from steerlens import views
from steerlens.attribution import Attribution, Scores
from steerlens.effects import Effect, Look, Mediation
from steerlens.errors import BadInputError, SteerLensError, UnknownNameError
from steerlens.moments import Moments
from steerlens.views import View, maps
from steerlens.views.scale import numbers, shown

LAYERS, HEADS, PROMPTS = 3, 4, 5
SAID = "".join(HOSTILE)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def effect(metric: str = "logits", prompts: int = PROMPTS) -> Effect:
    """An effect whose parts add up, written at the end of layer 1."""
    shapes: dict[str, tuple[int, ...]] = {
        "written": (1,),
        "heads": (LAYERS, HEADS),
        "mlps": (LAYERS,),
        "norms_after": (LAYERS, 2),
        "embedded": (),
        "final_norm": (),
        "cap": (),
        "elsewhere": (),
    }
    each = {name: draws(prompts, *shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    whole = sum(values.reshape(prompts, -1).sum(1) for values in each.values())
    after = torch.tensor([0.0, 1.0, 1.0])
    stream, cosine = draws(prompts, LAYERS).abs() * after, draws(prompts, LAYERS).tanh() * after
    found = {"stream": stream, "cosine": cosine, "share": cosine**2}
    found |= {
        name: draws(prompts, LAYERS, HEADS, seed=i)
        for i, name in enumerate(("z", "pattern", "to_steered", "to_first"))
    }
    return Effect(
        metric=metric,
        prompts=prompts,
        aim="what was written",
        written_at=("blocks.1.hook_resid_post",),
        parts={name: Moments.of(values) for name, values in (each | {"whole": whole}).items()},
        responses={name: Moments.of(values) for name, values in found.items()},
    )


def mediation(metric: str = "logits", alone: bool = True) -> Mediation:
    without, error = draws(LAYERS, HEADS + 1).float(), draws(LAYERS, HEADS + 1).abs().float()
    return Mediation(metric, PROMPTS, 1.5, -0.5, without, error, without / 2 if alone else None)


def scores(units: int, seed: int = 0) -> Scores:
    return Scores(*(draws(LAYERS, units, seed=seed + i).float().sigmoid() for i in range(6)))


def attribution(name: str = "kind", neurons: bool = True) -> Attribution:
    return Attribution(
        scores(HEADS), scores(20, 9) if neurons else None, name, "8 pairs", "last(1)"
    )


def look(tokens: list[str] | None = None, heads: int = 3, metric: str = "logits") -> Look:
    tokens = tokens or HOSTILE
    n = len(tokens)
    base, steered = (draws(heads, n, n, seed=i).softmax(-1).tril().float() for i in (0, 1))
    rests = draws(heads, n).float()
    return Look(
        metric=metric,
        tokens=tuple(tokens),
        scored=torch.arange(n - 6, n),
        heads=tuple((i // 2, i % 2) for i in range(heads)),
        base=base,
        steered=steered,
        parts=rests.sum(1),
        rests_on=rests,
    )


def hovers(view: View) -> dict[str, str]:
    """What a map's cells tell, by name."""
    return dict(re.findall(r'title="([^":]*): ([^"]*)"', view.static))


def hostile_views() -> list[View]:
    return [
        views.head_map(draws(2, 2), unit=SAID, title=SAID, subtitle=SAID),
        views.waterfall({SAID: 1.0}, total=SAID, x_label=SAID, title=SAID),
        views.effect_map(effect(SAID), title=SAID),
        views.flow(effect(SAID), title=SAID),
        views.mediation_map(mediation(SAID)),
        views.attribution_map(attribution(SAID)),
        views.looked(look(metric=SAID)),
        views.looked(look(), "pairs", title=SAID),
        views.rests_on(look(metric=SAID)),
    ]


@pytest.mark.parametrize("index", range(9))
def test_hostile_text_is_shown_and_runs_nothing(index: int) -> None:
    view = hostile_views()[index]
    fragment = Tags(view.fragment())
    assert not {"script", "iframe", "link", "object", "bos"} & set(fragment.tags)
    assert not [name for name in fragment.attributes if name.startswith("on")]
    assert "http" not in view.fragment()
    assert "\u202e" not in view.fragment()
    assert "⟨202E⟩right to left" in view.fragment()
    assert "<" not in view.request()


def test_a_map_tells_each_number_where_it_belongs() -> None:
    values, errors = draws(LAYERS, HEADS + 1) / 50, draws(LAYERS, HEADS + 1, seed=1).abs()
    view = views.head_map(values, mlp_last=True, errors=errors, unit="nats", first_layer=7)
    told = hovers(view)
    assert len(told) == values.numel()
    for layer in range(LAYERS):
        for column in range(HEADS + 1):
            name = f"L{7 + layer} MLP" if column == HEADS else f"L{7 + layer}H{column}"
            value, error = float(values[layer, column]), float(errors[layer, column])
            sign = "+" if value > 0 else ""
            assert told[name] == f"{sign}{shown(value)} ± {error:.2g}"
    assert view.element is None
    assert view.subtitle == "3 layers, 4 heads and an MLP each"


def test_cells_stand_in_the_legends_power_of_ten() -> None:
    view = views.head_map([[0.0422, -0.0115], [0.0, 0.0001]], unit="nats")
    cells = re.findall(r"<td [^>]*>([^<]*)", view.static)
    assert cells == ["+42", "−12", "0", "0"]
    assert "42.2 × 10⁻³ nats" in view.legend
    colours = re.findall(r"<td ([^t]*style=background-color:(#\w{6})|)[^>]*>", view.static)
    assert [colour for _, colour in colours] == ["#0072b2", "#d55e00", "", "#0072b2"]


@pytest.mark.parametrize(
    ("top", "power"), [(0.42, 0), (0.09, -3), (420.0, 0), (4e4, 3), (2e-7, -9)]
)
def test_cells_show_two_digits_of_the_largest(top: float, power: int) -> None:
    cells = maps.Cells.of(numbers([top, top / 2]))
    assert cells.power == power
    read = float(cells.written(top)) * 10.0**power
    assert read == pytest.approx(top, rel=0.05)
    assert not cells.written(top).startswith("+")  # nothing here is below zero


def test_missing_values_are_hatched_and_counted() -> None:
    view = views.head_map([[1.0, float("nan")], [float("-inf"), 0.0]])
    assert view.static.count("class=sl-nan") == 2
    assert "2 values not finite" in view.legend
    assert hovers(view)["L0H1"] == "NaN"
    everywhere = views.head_map(np.full((2, 2), np.nan))
    assert "4 values not finite" in everywhere.legend


def test_maps_of_any_size_stay_small() -> None:
    def weigh(layers: int, columns: int) -> View:
        values = np.random.default_rng(0).normal(size=(layers, columns))
        return views.head_map(values, mlp_last=True, errors=abs(values))

    small, middle, large = weigh(12, 13), weigh(32, 33), weigh(80, 65)
    assert len(small.static) < 20_000
    assert len(middle.static) < 100_000
    assert len(large.static) < 250_000
    assert len(re.findall(r"<td [^>]*>[+−\d]", small.static)) == 12 * 13
    assert not re.findall(r"<td [^>]*>[+−\d]", middle.static)
    assert (len(hovers(middle)), len(hovers(large))) == (32 * 33, 0)
    assert "No heads" in views.head_map(np.zeros((0, 0))).static


def test_an_effect_is_drawn_with_what_adds_up_to_it() -> None:
    found = effect()
    view = views.effect_map(found)
    told = hovers(view)
    assert told["L2H1"].split(" ±")[0].lstrip("+") == shown(float(found.heads[2, 1]))
    assert told["L1 MLP"].split(" ±")[0].lstrip("+") == shown(float(found.mlps[1]))
    bars = dict(re.findall(r"<title>([^:]*): ([^<]*)</title>", view.static))
    assert bars["change"].lstrip("+") == shown(found.change)
    assert bars["direct, through the stream"].lstrip("+") == shown(found.direct)
    assert bars["heads"].lstrip("+") == shown(float(found.heads.sum()))
    assert "±" not in views.effect_map(effect(prompts=1)).fragment()
    response = views.effect_map(found, "z")
    z = float(found.responses["z"].mean[0, 0])
    assert hovers(response)["L0H0"].split(" ±")[0].lstrip("+") == shown(z)
    assert "svg" not in response.static


def test_the_bars_of_a_waterfall_begin_where_the_last_one_ends() -> None:
    view = views.waterfall({"a": 2.0, "b": -3.0, "c": 0.5}, total="sum")
    bars = [
        tuple(map(float, each))
        for each in re.findall(r'<rect x="([^"]*)" y="[^"]*" width="([^"]*)"', view.static)
    ]
    (a, wide), (b, over), (c, last), (total, whole) = bars
    assert a + wide == pytest.approx(b + over, abs=0.11)  # b goes back from the end of a
    assert b == pytest.approx(c, abs=0.11)
    assert (total, whole) == pytest.approx((c + last, whole), abs=0.11)
    assert total + whole == pytest.approx(a, abs=0.11)  # from the sum up to zero
    assert "sum: −0.5" in view.static


def test_the_flow_ends_at_what_heads_and_mlps_add_up_to() -> None:
    found = effect()
    view = views.flow(found)
    assert f"heads, 2: {shown(float(found.heads.sum()))}" in view.static
    assert f"MLPs, 2: {shown(float(found.mlps.sum()))}" in view.static
    assert "cosine, 0:" not in view.static  # nothing was written yet
    assert "cosine, 1:" in view.static
    assert view.static.count("<polygon") == 2
    alone = views.flow(effect(prompts=1))
    assert "<polygon" not in alone.static
    assert "one prompt" in alone.subtitle
    responses = {**found.responses, "cosine": Moments.of(torch.zeros(PROMPTS, LAYERS))}
    assert "cosine" not in views.flow(replace(found, responses=responses)).static


def test_mediation_is_drawn_as_carried_or_alone() -> None:
    found = mediation()
    assert found.alone is not None
    for by, values in (("carried", found.carried), ("alone", found.alone)):
        told = hovers(views.mediation_map(found, by))
        assert told["L2 MLP"].split(" ±")[0].lstrip("+") == shown(float(values[2, -1]))
        assert ("±" in told["L2 MLP"]) == (by == "carried")


def test_attribution_is_drawn_with_its_top_neurons() -> None:
    found = attribution()
    view = views.attribution_map(found, by="auc")
    assert hovers(view)["L1H2"].lstrip("+") == shown(float(found.heads.auc[1, 2]) - 0.5)
    best = found.top(8, by="auc", block="mlp")
    assert all(f"<th>{name}" in view.static for name in best["component"])
    assert f"<td>{'+' if best['auc'][0] > 0.5 else ''}{shown(best['auc'][0] - 0.5)}" in view.static
    assert "neuron" not in views.attribution_map(attribution(neurons=False)).static


def test_a_look_is_drawn_head_by_head() -> None:
    found = look([f" word{i}" for i in range(100)], heads=4)
    change, pairs, rests = views.looked(found), views.looked(found, "pairs"), views.rests_on(found)
    assert all(len(view.static) < 100_000 for view in (change, pairs, rests))
    assert change.element == pairs.element == "AttentionHeads"
    assert change.props is not None
    gap = (found.steered - found.base).numpy()
    assert np.allclose(change.props["attention"], gap, atol=1e-3)
    names = re.findall(r"<b>([^<]*)</b>", pairs.static)
    assert names[:3] == ["L0H0 base", "L0H0 steered", "L0H1 base"]
    assert shown(float(found.parts[1])) in change.static
    assert rests.props is not None
    assert np.allclose(rests.props["values"], found.rests_on.T.numpy(), atol=1e-3)
    assert rests.subtitle.endswith("“ word97” (97) and 2 more")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: views.head_map([1.0, 2.0]), BadInputError),
        (lambda: views.head_map([["a"]]), BadInputError),
        (lambda: views.head_map([[1.0]], errors=[[1.0, 2.0]]), BadInputError),
        (lambda: views.waterfall({}), BadInputError),
        (lambda: views.waterfall({"a": float("nan")}), BadInputError),
        (lambda: views.effect_map(effect(), "q"), UnknownNameError),
        (lambda: views.mediation_map(mediation(), "q"), UnknownNameError),
        (lambda: views.mediation_map(mediation(alone=False), "alone"), BadInputError),
        (lambda: views.attribution_map(attribution(), "q"), UnknownNameError),
        (lambda: views.attribution_map(attribution(), "gradient"), BadInputError),
        (lambda: views.looked(look(), "q"), UnknownNameError),
    ],
)
def test_bad_input_is_told(call: Callable[[], Any], error: type[SteerLensError]) -> None:
    with pytest.raises(error):
        call()
