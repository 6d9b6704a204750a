"""What a method makes says in its file which method that was, with what config, on what data."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from behaving import CONTRAST
from features import CHOICES, DESCENT, LOOSE, STREAM, conditional, routes, sets
from models import D_MODEL, tiny

import steerlens as sl
from steerlens import methods
from steerlens.evaluation import MultipleChoice
from steerlens.evaluation.fingerprint import fingerprint
from steerlens.methods import (  # fmt: skip
    act,
    actadd,
    angular,
    caa,
    cast,
    dsas,
    e2e_dsas,
    iti,
    lineas,
    repe,
    riser,
    sadi,
    steer2adapt,
)
from steerlens.methods.distilling import Learning
from steerlens.methods.searching import Search
from steerlens.methods.signing import signed
from steerlens.provenance import provenance

BASIS = sl.Basis({STREAM: torch.eye(2, D_MODEL)}, ["a", "b"])
FITS: dict[str, tuple[Any, Any]] = {
    "act": (sets, act.Config(sites=STREAM)),
    "actadd": (sl.Contrast(["good w1"], ["bad w1"]), actadd.Config(layer=1)),
    "angular": (CONTRAST, angular.Config(angle=1.5)),
    "caa": (CONTRAST, caa.Config(layer=1, coeff=2)),
    "cast": (conditional, cast.Config(layers=[2], condition_layers=[0])),
    "dsas": (sets, dsas.Config(min_accuracy=0)),
    "e2e_dsas": (sets, e2e_dsas.Config(**DESCENT)),
    "iti": (CONTRAST, iti.Config(k=2)),
    "lineas": (sets, lineas.Config(**DESCENT)),
    "refusal": (CONTRAST, LOOSE),
    "repe": (CONTRAST, repe.Config(layers=[1])),
    "riser": (routes, riser.Config(learning=Learning(steps=5))),
    "sadi": (CONTRAST, sadi.Config(k=2, strength=3.0)),
    "steer2adapt": (None, steer2adapt.Config(search=Search("random", budget=4))),
}
"""Of each method, what it is fitted on and a config that is not the usual one."""


def every_method() -> list[str]:
    """The modules of the package that have a config and fit by it."""
    names = [each.name for each in pkgutil.iter_modules(methods.__path__)]
    modules = {name: import_module(f"steerlens.methods.{name}") for name in names}
    ways = ("fit", "adapt")
    return [
        name
        for name, module in modules.items()
        if getattr(getattr(module, "Config", None), "__module__", "") == module.__name__
        and any(hasattr(module, way) for way in ways)
    ]


def fitted(name: str, model: Any, data: Any = None) -> sl.Steering:
    given, config = FITS[name]
    if name == "steer2adapt":
        task = data or MultipleChoice("words", CHOICES)
        return steer2adapt.adapt(model, BASIS, task, config, progress=False).steering
    given = data or (given() if callable(given) else given)
    fit: Callable[..., sl.Steering] = import_module(f"steerlens.methods.{name}").fit
    return fit(model, given, config, progress=False)


@pytest.mark.host
@pytest.mark.parametrize("name", every_method())
def test_every_method_says_what_it_made(name: str, tmp_path: Path) -> None:
    """At every part, in the steering and in its file: the model, the method, its config."""
    assert name in FITS, f"steerlens.methods.{name} is new: add what it is fitted on to FITS"
    model = tiny("llama", "bridge")
    made = fitted(name, model)
    made.save(tmp_path / "made")
    here = provenance(model)
    for steering in (made, 2 * made.when(0.5), sl.load(tmp_path / "made", model)):
        for leaf in steering.interventions:
            about = dict(leaf.provenance)
            assert about["method"] == name
            assert about["config"] == repr(FITS[name][1])
            assert len(about["data"]) == 64
            assert Path(about["model"]).name == Path(here["model"]).name
            assert here.items() - {("model", here["model"])} <= about.items()


OTHERS: dict[str, Callable[[], Any]] = {
    "caa": lambda: sl.Contrast(CONTRAST.positive[1:], CONTRAST.negative[1:]),
    "act": lambda: methods.Sets(sets().source, sets().target, sets().control[1:]),
    "cast": lambda: cast.Conditional(CONTRAST, CONTRAST.shuffled(1)),
    "riser": lambda: riser.Routes(routes().basis, routes().prompts, {"x": [1.0], "y": [-1.0]}),
    "steer2adapt": lambda: MultipleChoice("words", CHOICES[1:]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_data_has_another_hash(name: str) -> None:
    model = tiny("llama", "bridge")
    one, again, other = (
        {leaf.provenance["data"] for leaf in fitted(name, model, data).interventions}
        for data in (None, None, OTHERS[name]())
    )
    assert one == again
    assert one != other


def test_a_base_keeps_what_made_it() -> None:
    """Gates that are fitted for a method's steering do not hide what that was."""
    model = tiny("llama", "bridge")
    base = caa.fit(model, sets().contrast, caa.Config(layer=1), progress=False)
    gated = dsas.gated(model, base, sets(), dsas.Config(min_accuracy=0), progress=False)
    [leaf] = gated.interventions
    assert leaf.provenance["method"] == "dsas"
    assert "'method': 'caa'" in leaf.provenance["base"]
    assert signed(gated, {}).interventions[0].provenance.keys() == {"base"}


def test_what_is_fitted_once_for_many_says_with_what_it_was_used() -> None:
    model, config = tiny("llama", "bridge"), dsas.Config(min_accuracy=0)
    base = caa.fit(model, sets().contrast, caa.Config(layer=1), progress=False)
    gates = dsas.gates(model, base, sets(), config, progress=False)
    [leaf] = gates.steering().interventions
    assert (leaf.provenance["method"], leaf.provenance["config"]) == ("dsas", repr(config))
    assert "'method': 'caa'" in leaf.provenance["base"]
    [told] = gates.oracle([1.0]).interventions
    assert told.provenance["gate"] == "oracle"
    plane = angular.plane(model, CONTRAST, progress=False)
    used = angular.Config(angle=0.5, adaptive=False, positions="prompt")
    steering = plane.angular(0.5, adaptive=False, positions="prompt")
    assert {leaf.provenance["config"] for leaf in steering.interventions} == {repr(used)}


def test_a_mask_says_what_it_is_of(tmp_path: Path) -> None:
    """And a random one that it is a placebo; so do the steerings that are made of either."""
    model, config = tiny("llama", "bridge"), sadi.Config(k=2, strength=3.0)
    mask = sadi.identify(model, CONTRAST, config, progress=False)
    sl.save(mask, tmp_path / "mask")
    mask = sl.load(tmp_path / "mask", model)
    assert (mask.provenance["method"], mask.provenance["config"]) == ("sadi", repr(config))
    for other in (sadi.Config(k=2, strength=5.0), sadi.Config("neuron", strength=5.0)):
        for mode, steering in (
            ("scale", sadi.scaling(mask, replace(other, mode="pin"))),
            ("scale", sadi.fixed(model, CONTRAST, mask, other, progress=False)),
            ("pin", sadi.for_prompts(model, CONTRAST.positive, mask, other)),
        ):
            used = repr(sadi.Config(k=2, strength=5.0, mode=mode))
            assert {x.provenance["config"] for x in steering.interventions} == {used}
            assert {x.provenance["identified"] for x in steering.interventions} == {repr(config)}
    placebo = sadi.scaling(sadi.random_mask(mask, 4), config)
    assert {leaf.provenance["placebo"] for leaf in placebo.interventions} == {"random 4"}


def test_a_plane_says_its_config() -> None:
    """The directions that every angle is made of."""
    config = angular.Config(mode="selective")
    found = angular.plane(tiny("llama", "bridge"), CONTRAST, config, progress=False)
    assert {each.provenance["config"] for each in found.at(found.source)} == {repr(config)}


def test_a_function_in_a_config_has_no_address() -> None:
    config = act.Config(sites=lambda name: name == STREAM)
    made = act.fit(tiny("llama", "bridge"), sets(), config, progress=False)
    told = {leaf.provenance["config"] for leaf in made.interventions}
    assert "<lambda>" in str(told)
    assert "0x" not in str(told)


def test_who_made_it_decides_no_number() -> None:
    """Signed or not, two steerings are equal, and a sweep's file is taken for either's."""
    plain = sl.add(sl.Direction(STREAM, torch.ones(D_MODEL)))
    named = signed(plain, {"method": "caa"})
    assert named == plain
    assert repr(named) == repr(plain)
    assert fingerprint(named.expression) == fingerprint(plain.expression)
