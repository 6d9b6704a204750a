"""The value: table, ranking, card; what stays small; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import D_MLP, D_MODEL, N_HEADS, N_LAYERS, build, random_rows, tiny
from reading import CONTRAST, QUIET, ROWS, direction, metric

import steerlens as sl
from steerlens.attribution import Attribution, Scores
from steerlens.attribution.sides import places, read
from steerlens.components import components
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.reading import Passages

pytestmark = pytest.mark.host


def scores(importance: torch.Tensor, auc: torch.Tensor) -> Scores:
    zeros = torch.zeros_like(importance)
    return Scores(zeros, zeros, importance, auc, zeros, zeros)


def made() -> Attribution:
    heads = scores(torch.tensor([[0.2, -0.5], [0.5, 0.1]]), torch.tensor([[0.1, 0.6], [0.5, 0.9]]))
    neurons = scores(torch.tensor([[-0.5], [torch.nan]]), torch.tensor([[0.2], [0.9]]))
    return Attribution(heads, neurons, "up", "2 pairs", "last_prompt_token")


def test_top_ranks_by_distance_and_breaks_ties_by_place() -> None:
    ranked = made().top(9)
    assert ranked["component"].tolist() == ["L0H1", "L0N0", "L1H0", "L0H0", "L1H1"]
    by_auc = made().top(3, by="auc")
    assert by_auc["component"].tolist() == ["L0H0", "L1H1", "L1N0"]
    assert made().top(1, by="auc", block="mlp")["component"].tolist() == ["L1N0"]
    assert made().top(4, by="gap", block="attn")["component"].tolist() == [
        "L0H0",
        "L0H1",
        "L1H0",
        "L1H1",
    ]


def test_a_line_and_a_card() -> None:
    assert repr(made()) == (
        "Attribution('up', 4 heads, 2 neurons, 2 pairs; importance L0H1 -0.5, L0N0 -0.5, L1H0 +0.5)"
    )
    assert "L0H0 0.1" in made()._repr_html_()
    assert repr(made().heads).startswith("Scores(2 layers of 2: contribution, ")
    assert "\n" not in repr(made().heads)
    assert "<script>" not in Attribution(made().heads, None, "<script>", "", "")._repr_html_()


def test_names_that_are_none() -> None:
    with pytest.raises(UnknownNameError, match=r"no score 'importence'\. Nearest: 'importance'"):
        made().top(3, by="importence")
    with pytest.raises(UnknownNameError, match="no block 'heads'"):
        made().top(3, block="heads")
    with pytest.raises(BadInputError, match="call attribute with probes=True"):
        made().top(3, by="accuracy")
    with pytest.raises(BadInputError, match="with a metric"):
        made().top(3, by="gradient")
    with pytest.raises(BadInputError, match="one component or more; got n=0"):
        made().top(0)
    with pytest.raises(BadInputError, match="no neurons here"):
        Attribution(made().heads, None, "up", "", "").top(3, block="mlp")


@EACH_HOST
def test_the_table_has_every_component_and_score(host: str) -> None:
    found = sl.attribute(tiny("llama", host), CONTRAST, direction(), metric=metric, progress=False)
    table = found.frame()
    assert len(table) == N_LAYERS * (N_HEADS + D_MLP)
    assert table.columns.tolist() == [
        *("component", "layer", "block", "index", "contribution", "mean_contribution"),
        *("importance", "auc", "gap", "effect_size", "accuracy", "gradient"),
    ]
    line = table[table["component"] == "L1N7"].iloc[0]
    assert (line["layer"], line["block"], line["index"]) == (1, "mlp", 7)
    assert line["gap"] == pytest.approx(float(found.neurons.gap[1, 7]))
    assert not table.isna().any().any()
    assert table["accuracy"].between(0, 1).all()
    assert found.provenance["data"] == CONTRAST.digest


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_memory_does_not_grow_with_the_items(architecture: str, host: str) -> None:
    """What is kept has max_examples vectors, whatever the number of items; nothing is left."""
    parts = components(tiny(architecture, host))
    sizes = []
    for count in (8, 40):
        side = Passages(parts.model, random_rows([4] * count, seed=count), None)
        found = read(
            parts, side, places(parts), max_examples=5, batch_tokens=64, seed=0, progress=False
        )
        for kept in (found.inputs, found.scaled):
            assert all(len(each) == 5 for each in kept.examples.values())
            assert len(kept.rows) == 5
        assert not any("mlp" in name for name in found.scaled.examples)
        tensors = [*found.inputs.examples.values(), *found.scaled.examples.values()]
        sizes.append(sum(each.numel() for each in tensors))
    assert sizes[0] == sizes[1]


@EACH_HOST
def test_a_mixture_of_experts_has_heads_only(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama", host)
    monkeypatch.setattr(model.cfg, "num_experts", 4, raising=False)
    found = sl.attribute(model, CONTRAST, direction(), metric=metric, progress=False)
    assert found.neurons is None
    assert "no neurons (a mixture of experts)" in repr(found)
    assert "mixtures of experts" in found._repr_html_()
    assert len(found.frame()) == N_LAYERS * N_HEADS


@EACH_HOST
def test_refusals(host: str) -> None:
    model, aim = tiny("llama", host), direction()

    def attribute(contrast: Any = CONTRAST, direction: Any = aim, **options: Any) -> None:
        sl.attribute(model, contrast, direction, **(QUIET | options))

    with pytest.raises(BadInputError, match=r"shape \(4, 8\) and is no vector of the stream"):
        attribute(direction=sl.Direction("blocks.1.attn.hook_z", torch.ones(4, 8)))
    with pytest.raises(BadInputError, match="no vector of the stream"):
        attribute(direction=sl.Direction("blocks.1.mlp.hook_post", torch.ones(D_MODEL)))
    with pytest.raises(BadInputError, match="length 0"):
        attribute(direction=sl.Direction("blocks.1.hook_resid_post", torch.zeros(D_MODEL)))
    some = sl.Directions({"blocks.0.hook_resid_post": aim})
    with pytest.raises(BadInputError, match="no direction for 'attn' of layer 1: neither"):
        attribute(direction=some)
    with pytest.raises(BadInputError, match="2 examples or more; got 1"):
        attribute(max_examples=1)
    with pytest.raises(BadInputError, match="because only one has completions"):
        attribute(contrast=sl.Contrast([("good", " w1")], ["bad"]))
    with pytest.raises(BadInputError, match="pick no token"):
        attribute(positions=sl.positions.index(7))


@EACH_HOST
def test_a_single_pair_has_no_spread(host: str) -> None:
    pair = sl.Contrast(ROWS[:1], ROWS[1:2])
    found = sl.attribute(tiny("llama", host), pair, direction(), progress=False)
    assert found.heads.effect_size.isnan().all()
    assert found.neurons.effect_size.isnan().all()
    assert found.heads.accuracy.isnan().all()
    assert len(found.top(5, by="accuracy")) == 0
    assert len(found.top(5)) == 5
    assert "not a number anywhere" in found._repr_html_()


def test_an_attribution_says_how_it_was_made(tmp_path: Path) -> None:
    """The method and its choices, in its file too; a metric by its name."""
    model = tiny("llama", "bridge")
    found = sl.attribute(
        model, CONTRAST, direction(), metric=metric, probes=False, seed=3, progress=False
    )
    sl.save(found, tmp_path / "found")
    told = sl.load(tmp_path / "found", model).provenance
    assert told["method"] == "attribute"
    assert told["config"] == "at most 512 examples a side, no probes, seed 3, metric metric"
    plain = sl.attribute(model, CONTRAST, direction(), max_examples=9, progress=False)
    assert plain.provenance["config"] == "at most 9 examples a side, probes, seed 0"
