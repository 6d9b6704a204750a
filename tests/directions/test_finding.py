"""find_directions: what it reads, what it returns, what it refuses."""

from __future__ import annotations

import models
import pytest
import torch
from cases import EACH_HOST
from models import hosts, random_rows, tiny

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.methods import dsas, iti
from steerlens.methods.data import Sets

pytestmark = pytest.mark.host
ROWS = random_rows([5] * 12, seed=5)
CONTRAST = sl.Contrast(ROWS[:6], ROWS[6:])
QUIET = dict(progress=False, placebos=5)


@EACH_HOST
def test_mean_difference_is_the_gap_of_the_means(host: str) -> None:
    model = tiny("llama", host)
    found = sl.find_directions(model, CONTRAST, hook_names=["resid_post", "z"], name="x", **QUIET)
    means = [
        sl.collect(model, side, ["resid_post", "z"], progress=False)
        for side in (ROWS[:6], ROWS[6:])
    ]
    for name, direction in found.items():
        gap = (means[0][name].mean - means[1][name].mean).float()
        torch.testing.assert_close(direction.vector, gap)
        assert direction.quality is not None
        assert direction.items == "6 pairs"
        assert direction.provenance["data"] == CONTRAST.digest
    assert found.best().quality.auc == max(d.quality.auc for d in found.values())
    assert "AUC" in repr(found["resid_post", 1])


@EACH_HOST
def test_a_coefficient_of_1_moves_one_mean_onto_the_other(host: str) -> None:
    model = tiny("llama", host)
    direction = sl.find_directions(model, CONTRAST, **QUIET)["resid_post", 1]
    with sl.add(direction, positions="last_prompt_token").on(model):
        moved = sl.collect(model, ROWS[6:], direction.hook_name, progress=False)
    wanted = sl.collect(model, ROWS[:6], direction.hook_name, progress=False)
    torch.testing.assert_close(
        moved[direction.hook_name].mean, wanted[direction.hook_name].mean, atol=1e-4, rtol=1e-4
    )


@EACH_HOST
def test_a_function_is_a_method(host: str) -> None:
    model = tiny("llama", host)

    def last(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return -(positive[-1] - negative[-1])

    direction = sl.find_directions(model, CONTRAST, last, **QUIET)["resid_post", 0]
    assert direction.provenance["method"] == "last"
    scores = [(side @ direction.vector).mean() for side in _read(model, direction.hook_name)]
    assert scores[0] > scores[1]


def _read(model: object, name: str) -> list[torch.Tensor]:
    return [sl.collect(model, s, name, progress=False).examples[name] for s in (ROWS[:6], ROWS[6:])]


@pytest.mark.parametrize("held_out", ["quality", "probes", "iti", "dsas"])
def test_what_is_held_out_of_repeated_items_is_told(held_out: str) -> None:
    """Meaningless sides, each item five times, are told apart at an AUC of 0.9 (12 draws)."""
    model = tiny("llama", hosts()[0])
    twice = sl.Contrast(ROWS[:6] * 2, ROWS[6:] * 2)
    direction = sl.Direction("blocks.1.hook_resid_post", torch.randn(models.D_MODEL))
    sets = Sets(ROWS[:4] * 2, ROWS[4:8], ROWS[8:] * 2)
    run = {
        "quality": lambda: sl.find_directions(model, twice, **QUIET),
        "probes": lambda: sl.attribute(model, twice, direction, progress=False),
        "iti": lambda: iti.probed(model, twice, progress=False),
        "dsas": lambda: dsas.gates(model, sl.add(direction), sets, progress=False),
    }[held_out]
    with pytest.warns(UserWarning, match="items repeat another of their side"):
        run()


@EACH_HOST
def test_refusals(host: str) -> None:
    model = tiny("llama", host)
    with pytest.raises(UnknownNameError, match=r"no method 'mean_diference'.*'mean_difference'"):
        sl.find_directions(model, CONTRAST, "mean_diference", **QUIET)
    with pytest.raises(UnknownNameError, match="'resid_post'"):
        sl.find_directions(model, CONTRAST, hook_names="resid_pst", **QUIET)
    same = sl.Contrast(ROWS[:4], ROWS[:4])
    with pytest.raises(BadInputError, match=r"Both sides read the same at 'blocks.0"):
        sl.find_directions(model, same, **QUIET)
    asked = [f"w{i} the w{2 * i} bad w{i + 9}" for i in range(12)]
    prompts = sl.Contrast([(each, " good") for each in asked], [(each, " bad") for each in asked])
    with pytest.raises(BadInputError, match="Both sides read the same"):  # but for 1e-16
        sl.find_directions(model, prompts, positions="last_prompt_token", batch_tokens=64, **QUIET)
    mixed = sl.Contrast([("good", " w1")], ["bad"])
    with pytest.raises(BadInputError, match=r"only one has completions. Give positions"):
        sl.find_directions(model, mixed, **QUIET)
    unpaired = sl.Contrast(ROWS[:5], ROWS[6:])
    with pytest.raises(BadInputError, match="needs pairs; give a paired Contrast"):
        sl.find_directions(model, unpaired, "pca", **QUIET)


@EACH_HOST
def test_trap_21_a_single_pair(host: str) -> None:
    model = tiny("llama", host)
    found = sl.find_directions(model, sl.Contrast(ROWS[:1], ROWS[1:2]), **QUIET)
    assert found["resid_post", 0].quality is None
    with pytest.raises(BadInputError, match="quality"):
        found.best()
