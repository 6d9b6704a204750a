"""A sweep's table drawn along its layers or its coefficients."""

from __future__ import annotations

import re

import pandas
import pytest
import torch

import steerlens as sl
from steerlens import views
from steerlens.demo import load_model, world
from steerlens.errors import BadInputError
from steerlens.evaluation.sweeps import steering_sweep
from steerlens.evaluation.tasks import Neutral
from steerlens.statistics import mean_interval

MEANS = pandas.DataFrame(
    [(layer, coeff, layer + coeff, -coeff) for layer in (1, 2, 3) for coeff in (0.0, 2.0)],
    columns=["layer", "coeff", "score", "kl"],
)


def told(view: views.View) -> list[str]:
    return re.findall(r"<circle[^>]*><title>([^<]*)</title>", view.static)


def test_every_number_stands_on_its_line() -> None:
    over_coeffs = told(views.dose_response(MEANS, names={"score": "share"}))
    assert over_coeffs[:3] == ["layer 1, 0: 1", "layer 1, 2: 3", "layer 2, 0: 2"]
    assert over_coeffs[6:8] == ["layer 1, 0: 0", "layer 1, 2: −2"]
    over_layers = told(views.layer_sweep(MEANS))
    assert over_layers[:4] == [
        "coefficient 0, 1: 1", "coefficient 0, 2: 2", "coefficient 0, 3: 3", "coefficient 2, 1: 3",
    ]  # fmt: skip
    assert len(over_coeffs) == len(over_layers) == 12
    assert "share" in views.dose_response(MEANS, names={"score": "share"}).static
    assert "nats a token" in views.dose_response(MEANS).static


def test_items_give_intervals_over_items() -> None:
    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    rows = [(2, 1.0, "score", item, value) for item, value in enumerate(values.tolist())]
    table = pandas.DataFrame(rows, columns=["layer", "coeff", "measure", "item", "value"])
    mean, (low, high) = mean_interval(values)
    assert told(views.layer_sweep(table)) == [
        f"coefficient 1, 2: {mean:.3g} [{low:.3g}, {high:.3g}]"
    ]


def test_one_item_has_no_interval_and_seeds_are_no_items() -> None:
    columns = ["layer", "coeff", "measure", "item", "value"]
    one = pandas.DataFrame([(2, 1.0, "score", 0, 0.5)], columns=columns)
    assert told(views.layer_sweep(one)) == ["coefficient 1, 2: 0.5"]
    rows = [(2, 1.0, "score", item, item + 0.0) for item in range(4)]
    once = told(views.layer_sweep(pandas.DataFrame(rows, columns=columns)))
    assert told(views.layer_sweep(pandas.DataFrame(rows * 5, columns=columns))) == once


def test_seeds_and_words_are_no_measures() -> None:
    wanted = told(views.dose_response(MEANS))
    seeds = pandas.concat([MEANS.assign(seed=seed, note="a run", best=None) for seed in (0, 1)])
    assert told(views.dose_response(seeds)) == wanted
    with pytest.raises(BadInputError, match="as numbers"):
        views.dose_response(seeds.drop(columns=["score", "kl"]))


@pytest.mark.parametrize("each_item", [False, True])
def test_a_real_sweep_is_drawn(each_item: bool) -> None:
    model = load_model()
    contrast = sl.Contrast.from_pairs(world.contrast("sentiment", "fit", 16))
    found = sl.find_directions(model, contrast, name="sentiment", progress=False)
    task = Neutral("plain", world.prompts("sentiment", "validation", 3))
    table = steering_sweep(
        model,
        lambda layer: sl.add(found["resid_post", layer]),
        task,
        [1, 3],
        [0.0, 4.0],
        neutral=[(text, " It was so.") for text in task.texts],
        each_item=each_item,
        progress=False,
    )
    for draw in (views.dose_response, views.layer_sweep):
        view = draw(table)
        assert len(told(view)) == 8
        assert ("[" in told(view)[0]) == each_item


@pytest.mark.parametrize("columns", [["layer", "score"], ["layer", "coeff"]])
def test_another_table_is_told(columns: list[str]) -> None:
    with pytest.raises(BadInputError, match="steering_sweep: layer, coeff and a measure"):
        views.dose_response(pandas.DataFrame([[1.0] * 2], columns=columns))
