"""What was made on one model is not another's, unless that is meant."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from models import build, tiny
from safetensors import safe_open

import steerlens as sl
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.provenance import check_same_model, provenance
from steerlens.signals import Cosine

HOOK = "blocks.1.hook_resid_post"
CONTRAST = sl.Contrast(["good", "happy"] * 4, ["bad", "sad"] * 4)


def direction(model: Any, hook: str = HOOK) -> sl.Direction:
    vector = torch.arange(1.0, models.D_MODEL + 1)
    return sl.Direction(hook, vector, provenance=provenance(model))


@contextmanager
def renamed(model: Any, name: str) -> Iterator[None]:
    before = model.cfg.model_name
    model.cfg.model_name = name
    try:
        yield
    finally:
        model.cfg.model_name = before


@pytest.mark.host
@pytest.mark.parametrize("host", models.hosts())
def test_what_a_found_direction_says(host: str) -> None:
    model = tiny("llama", host)
    found = sl.find_directions(model, CONTRAST, placebos=3, progress=False)["resid_post", 1]
    about = found.provenance
    assert about["host"] == type(model).__name__
    assert about["dtype"] == "float32"
    assert (about["weights"], about["writers"]) == ("as trained", "as trained")
    assert about["data"] == CONTRAST.digest
    assert about["method"] == "mean_difference"
    assert "3 placebos, seed 0" in about["config"]
    assert about["positions"]


@pytest.mark.host
@pytest.mark.parametrize("host", models.hosts())
def test_steering_with_what_another_model_made_warns(host: str) -> None:
    """In memory nothing is refused; both models are named, also where shapes do not fit."""
    model = tiny("llama", host)
    found = replace(direction(model), provenance={"model": "hub/gpt2"})
    both = r"was made on 'gpt2', and this model is 'llama'"
    gated = sl.add(replace(found, provenance={})).when(Cosine(found) > -2)
    wide = replace(found, vector=torch.ones(7))
    with renamed(model, "folder/llama"):
        for steering in (sl.add(found), sl.ablate(found), gated):
            with pytest.warns(UserWarning, match=both) as told, steering.on(model):
                model("good")
            assert [each.filename for each in told] == [__file__]
            with pytest.warns(UserWarning, match=both):
                steering.fwd_hooks(model, "good")
        with pytest.raises(BadInputError, match=both), pytest.warns(UserWarning, match=both):
            with sl.add(wide).on(model):
                model("good")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, made_on in [("gpt2", "hub/gpt2"), ("", "gpt2"), ("custom", "gpt2"), ("a", None)]:
            about = {} if made_on is None else {"model": made_on}
            with renamed(model, name), sl.add(replace(found, provenance=about)).on(model):
                model("good")


@pytest.mark.host
def test_folded_norms_are_another_model(tmp_path: Path) -> None:
    """A bridge in compatibility mode folds norms and centres what writes to the stream."""
    plain, folded = tiny("gpt2", "bridge"), build("gpt2", "bridge")
    folded.enable_compatibility_mode()
    assert provenance(folded)["weights"] == "norms folded"
    assert provenance(folded)["writers"] == "centred"
    name = {"model": "one"}
    for value in (direction(plain), sl.add(direction(plain)), sl.Basis.of(direction(plain))):
        sl.save(value, tmp_path / "kept")
        told = "made on weights as trained, and this model has weights norms folded"
        with renamed(folded, provenance(plain)["model"]):
            with pytest.raises(BadInputError, match=f'{told}.*allow="weights"') as caught:
                sl.load(tmp_path / "kept", folded)
            assert "kept" in str(caught.value)
            assert repr(sl.load(tmp_path / "kept", folded, allow="weights")) == repr(value)
            assert repr(sl.load(tmp_path / "kept", folded, allow=["weights"])) == repr(value)
    here = provenance(folded) | name
    with renamed(folded, "one"), pytest.raises(BadInputError, match="writers are as trained"):
        check_same_model(folded, here | {"writers": "as trained"}, "The edit")


@pytest.mark.host
def test_a_bridge_is_processed_where_its_weights_were() -> None:
    """Compatibility mode also comes without processing, and processing without the mode."""
    named, processed = build("gpt2", "bridge"), build("gpt2", "bridge")
    named.enable_compatibility_mode(no_processing=True)
    processed.process_weights()
    plain = provenance(tiny("gpt2", "bridge"))
    assert provenance(named)["weights"] == plain["weights"] == "as trained"
    assert provenance(processed)["weights"] == "norms folded"


@pytest.mark.host
def test_another_name_is_another_model(tmp_path: Path) -> None:
    model = tiny("llama", "bridge")
    value = replace(direction(model), provenance={**provenance(model), "model": "somewhere/gpt5"})
    sl.save(sl.add(value), tmp_path / "kept")
    with renamed(model, "llama"):
        with pytest.raises(BadInputError, match="made on 'gpt5', and this model is 'llama'"):
            sl.load(tmp_path / "kept", model)
        with pytest.raises(BadInputError, match="made on 'gpt5'"):
            sl.Steering.load(tmp_path / "kept", model, allow=["weights", "hook_names"])
        assert sl.load(tmp_path / "kept", model, allow="model")
        with pytest.raises(UnknownNameError, match="no difference 'name' to allow"):
            sl.load(tmp_path / "kept", model, allow="name")  # type: ignore[arg-type]


@pytest.mark.host
def test_another_hook_point_is_told_with_the_nearest(tmp_path: Path) -> None:
    model = tiny("llama", "bridge")
    far = direction(model, "blocks.20.hook_resid_post")
    directions = sl.directions.Directions({far.hook_name: far})
    gate = sl.signals.Probe(direction(model)).at("blocks.20.hook_resid_post")
    steering = sl.add(direction(model)).when(gate)
    for value in (far, directions, sl.Basis.of(far), sl.add(far), steering):
        sl.save(value, tmp_path / "kept")
        told = r"lives at 'blocks\.20\.hook_resid_post'\. .* layers 0 to 2\. Nearest: 'blocks"
        with pytest.raises(BadInputError, match=f'{told}.*allow="hook_names"'):
            sl.load(tmp_path / "kept", model)
        assert repr(sl.load(tmp_path / "kept", model, allow="hook_names")) == repr(value)
        assert repr(sl.load(tmp_path / "kept")) == repr(value)


@pytest.mark.host
def test_an_edit_taken_to_another_model_says_both(tmp_path: Path) -> None:
    model, other = tiny("llama", "bridge"), build("llama", "bridge")
    with renamed(model, "one"), renamed(other, "two"):
        edit = sl.editing.orthogonalise(model, direction(model))
        edit.save(tmp_path / "kept")
        with pytest.raises(BadInputError, match=r"made on 'one'.*allow=\"model\""):
            sl.load(tmp_path / "kept", other)
        with pytest.raises(BadInputError, match="made on 'one'") as caught:
            edit.apply_(other)
        assert "allow" not in str(caught.value)  # nothing is loaded there
        moved = sl.load(tmp_path / "kept", other, allow="model")
        assert moved.provenance["model"] == "two"
        assert moved.provenance["model before"] == "one"
        moved.apply_(other).undo()


@pytest.mark.host
def test_the_header_says_what_the_file_is(tmp_path: Path) -> None:
    model = tiny("llama", models.hosts()[0])
    sl.save(sl.add(direction(model)) + sl.ablate(direction(model)), tmp_path / "kept")
    with safe_open(tmp_path / "kept", framework="pt") as file:
        about = json.loads(file.metadata()["steerlens"])
        assert about["sha256"].keys() == set(file.keys())
    assert (about["kind"], about["version"], about["library"]) == ("steering", 3, "0.1.0")
    assert about["hook_names"] == [HOOK]
