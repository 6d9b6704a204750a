"""Saving: what was saved comes back bit for bit; what a file cannot hold, or must not, is told."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
from cases import EACH, Case, cases, examples
from models import forward, tiny
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import steerlens as sl
from steerlens import packing, positions, signals, transforms
from steerlens.directions import Eraser, Quality
from steerlens.directions.direction import CausalEffect
from steerlens.errors import BadInputError
from steerlens.evaluation import tables
from steerlens.interventions import Group
from steerlens.methods.adaptation import Adaptation, Trial
from steerlens.methods.masks import Mask
from steerlens.packing.classes import hints
from steerlens.packing.packer import Packer
from steerlens.saving import kind_of
from steerlens.storage import signed
from steerlens.text import Encoded

HOOK = "blocks.1.hook_resid_post"
UP = sl.Direction(HOOK, torch.tensor([3.0, 4.0]), name="up")
RIGHT = sl.Direction(HOOK, torch.tensor([1.0, 0.0]), name="right")


def back(value: Any, path: Path) -> Any:
    sl.save(value, path)
    return sl.load(path)


def same(first: Any, second: Any) -> bool:
    """Equal in type and in every part, tensors bit for bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        alike = first.dtype == second.dtype and first.shape == second.shape
        raw = (each.contiguous().reshape(-1).view(torch.uint8) for each in (first, second))
        return alike and torch.equal(*raw)
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    if is_dataclass(first):
        return all(same(getattr(first, k), getattr(second, k)) for k in first.__dataclass_fields__)
    return repr(first) == repr(second)


# The law


@pytest.mark.host
@EACH
def test_a_loaded_steering_is_the_saved_one(architecture: str, host: str, tmp_path: Path) -> None:
    model = tiny(architecture, host)

    def law(case: Case) -> None:
        steering = case.steering
        if any("function" in (leaf.kind, leaf.gate) for leaf in case.leaves):
            with pytest.raises(BadInputError, match="cannot be saved"):
                steering.save(tmp_path / "own")
            assert not (tmp_path / "own").exists()
            return
        loaded = back(steering, tmp_path / "kept")
        assert repr(loaded) == repr(steering)
        assert same(loaded, steering)
        (tmp_path / "again").unlink(missing_ok=True)
        loaded.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "kept").read_bytes()
        assert torch.equal(run(loaded, model, case), run(steering, model, case))

    salt = f"saving {architecture} {host}"
    examples(law, cases(architecture, host), salt=salt, part=0.4)


@torch.no_grad()
def run(steering: sl.Steering, model: Any, case: Case) -> Tensor:
    tokens, mask = case.batch
    with steering.on(model, prompt_lengths=case.prompt_lengths):
        return forward(model, tokens, mask)


def test_the_law_can_tell() -> None:
    """`same` and the drawn steerings see a change of one bit."""
    one = sl.add(UP, 4)
    nudged = UP.vector.clone()
    nudged[0] = torch.nextafter(nudged[0], torch.tensor(9.0))
    assert same(one, sl.add(UP, 4))
    assert not same(one, sl.add(replace(UP, vector=nudged), 4))
    assert not same(one, sl.add(UP, 4.5))


# Every class


GATES = [
    *(1, 0.5, [1.0, 0.5]),
    signals.Probe(UP, bias=-0.5),
    ~signals.Probe(RIGHT) & signals.Probe(UP),
    (signals.Cosine(UP) > 0.2) | (signals.Projection(RIGHT) < -1.5),
    signals.Cosine(sl.Basis({HOOK: torch.eye(2)}, labels=["x", "y"])) > 0.1,
    signals.Relu(signals.Readout(UP, 0.25), start=-1.0, slope=0.1),
    signals.Latch(signals.Probe(UP)),
    signals.Hysteresis(signals.Projection(UP), 0.3, -0.3),
    signals.OfPrompt(signals.Probe(UP), "last"),
    signals.Decay(8),
    signals.Steps(0, None),
    signals.Schedule([1.0, 0.5]),
    signals.Probe(UP).at("blocks.0.hook_resid_pre"),
    signals.Reciprocal().at("blocks.0.ln1.hook_scale"),
]
SELECTORS = [
    *positions.NAMED.values(),
    *(positions.first(2), positions.last(3), positions.index(-2), positions.span(1, None)),
    *(positions.prompt & ~positions.first(3), positions.first(1) | positions.index(5)),
    positions.matching(5, "good", re.compile(r"d.y\b", re.IGNORECASE)),
    *(positions.after("good"), positions.between(",", re.compile("[.!]"))),
    positions.role("assistant"),
]
ROWS = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
ROWS[0, 2:] = torch.nan
MAKES = [
    *(transforms.Add(UP), transforms.Ablate(UP), transforms.AddBeforeNorm(UP)),
    transforms.Ablate(sl.Basis({HOOK: torch.tensor([[1.0, 2.0]])}, name="mood")),
    transforms.MeanAblate(UP, torch.tensor([1.0, 2.0], dtype=torch.float64)),
    transforms.Clamp(UP, -0.1, float("inf")),
    transforms.Scale(torch.tensor([1.0, 0.0], dtype=torch.bfloat16), HOOK),
    transforms.Affine(torch.ones(2), torch.zeros(2), low=torch.tensor([-1.0, -9.0])),
    transforms.Rotate(UP, RIGHT),
    transforms.RotateTo(UP, RIGHT, angle=0.7),
    transforms.KeepNorm(transforms.KeepNorm(transforms.Add(UP))),
    transforms.Erase(Eraser.of(torch.eye(2), torch.zeros(1, 2)), HOOK),
    transforms.Replace(ROWS, by_index=True, hook_name=HOOK),
    transforms.Interchange(UP, ROWS[:, 0].half(), False),
]


@pytest.mark.parametrize("part", [*GATES, *SELECTORS, *MAKES], ids=repr)
def test_every_class(part: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = dict(transform=transforms.Scale(torch.ones(2)), hook_name=HOOK)
    if isinstance(part, transforms.Transform):
        options = dict(transform=part, hook_name=HOOK)
    elif isinstance(part, positions.Combining):
        options["positions"] = part
    else:
        options["gate"] = part
    steering = sl.steer(**options)
    assert same(back(steering, tmp_path / "kept"), steering)


def test_every_class_is_known_by_one_name() -> None:
    for room in (positions, signals, transforms):
        for name, each in vars(room).items():
            base = (transforms.Linear, signals.Combining, positions.Combining)
            if isinstance(each, type) and is_dataclass(each) and issubclass(each, base):
                called = f"{room.__name__.split('.')[1]}.{name}"
                assert packing.known().get(called) is (None if each in packing.OPAQUE else each)
    for each in packing.known().values():
        assert {field.name for field in fields(each)} <= set(hints(each))


def test_the_examples_are_of_every_class() -> None:
    """All but those of methods, which have tests of their own."""
    packer = Packer(packing.known())
    seen = json.dumps(
        [packer.tree(x, "") for x in [*map(signals.signal, GATES), *SELECTORS, *MAKES]]
    )
    for name in OLD:
        assert f'"{name}"' in seen


OLD = [
    f"{room}.{name}"
    for room, names in {
        "transforms": "Ablate Add AddBeforeNorm Affine Clamp Erase Interchange KeepNorm MeanAblate "
        "Replace Rotate RotateTo Scale",
        "signals": "At Constant Cosine Decay Hysteresis Inverse Latch OfPrompt Probe Product "
        "Projection Readout Reciprocal Relu Rows Schedule Steps Threshold",
        "positions": "AllOf AnyOf Between Complement Everywhere First FromPromptEnd Matching "
        "Phrase Role Span",
    }.items()
    for name in names.split()
]


# Values on their own


def quality(causal: bool) -> Quality:
    effect = CausalEffect(0.5, (0.4, 0.6), 0.9, (-0.1, 0.1), 1, 20, 8, "nats") if causal else None
    return Quality(0.9, (0.8, 1.0), 2.0, 0.7, (0.3, 0.7), (0.2, 0.8), 1, 50, effect)


@pytest.mark.parametrize(
    "value",
    [
        UP,
        sl.Direction(HOOK, torch.ones(4, 8), "z", quality(True), 2.5, "8 pairs", {"data": "ab"}),
        sl.directions.Directions({HOOK: replace(UP, quality=quality(False)), "hook_embed": RIGHT}),
        sl.Basis({HOOK: torch.eye(2), "hook_embed": torch.ones(2, 3)}, ["x", "y"], "pair"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_on_their_own(value: Any, tmp_path: Path) -> None:
    found = back(value, tmp_path / "kept.safetensors")
    assert same(found, value)
    assert repr(found) == repr(value)


CHAT = [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": "Fine."}]
CONTRASTS = [
    sl.Contrast(["good", "fine"], ["bad", "poor"]),
    sl.Contrast([("a", " good day")], [("a", " bad day"), ("a", " poor day")]),
    sl.Contrast([CHAT], [CHAT[:1]]),
    sl.Contrast([[5, 6, 7], torch.tensor([5, 8])], [Encoded((5, 9), 1), (1, 2, 3)], paired=False),
]


@pytest.mark.parametrize("contrast", CONTRASTS, ids=repr)
def test_contrasts_of_every_item(contrast: sl.Contrast, tmp_path: Path) -> None:
    found = back(contrast, tmp_path / "kept")
    assert same(found, contrast)
    assert found.digest == contrast.digest


@pytest.mark.parametrize("gate", GATES[3:], ids=repr)
def test_gates_alone(gate: Any, tmp_path: Path) -> None:
    found = back(gate, tmp_path / "kept")
    assert same(found, gate)
    assert same(sl.add(UP).when(found), sl.add(UP).when(gate))


@pytest.mark.host
@pytest.mark.parametrize("experts", [False, True])
def test_attributions(experts: bool, tmp_path: Path) -> None:
    model = tiny("llama", models.hosts()[0])
    contrast = sl.Contrast(["good", "happy"], ["bad", "sad"])
    found = sl.attribute(model, contrast, making_direction(), probes=not experts, progress=False)
    made_on = {
        **found.provenance,
        "model": Path(found.provenance["model"]).name,
    }  # as files tell it
    found = replace(found, provenance=made_on)
    nan = replace(found.heads, auc=torch.full_like(found.heads.auc, torch.nan))
    value = replace(found, heads=nan, neurons=None) if experts else found
    loaded = sl.load(saved(value, tmp_path / "kept"), model)
    assert same(loaded, value)
    assert loaded.provenance["data"] == contrast.digest


def saved(value: object, path: Path) -> Path:
    sl.save(value, path)
    return path


def test_masks_and_adaptations(tmp_path: Path) -> None:
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    mask = Mask("head", scores > 0, scores, (4, 8), "64 pairs")
    basis = sl.Basis({HOOK: torch.eye(2)}, ["x", "y"])
    trials = Trial((0.0, 0.0), 0.0, 0.0, 0.0, 0.0), Trial((1.0, -0.5), 0.7, 0.8, 0.1, 0.0)
    adaptation = Adaptation(basis, trials, 1, "tpe", "budget", 4, 8, positions.predicting)
    for value in (mask, adaptation, replace(adaptation, positions="last_prompt_token")):
        found = back(value, tmp_path / "kept")
        assert same(found, value)
        assert repr(found) == repr(value)


def test_tables_of_sweeps(tmp_path: Path) -> None:
    import pandas

    def run(layer: int, site: str) -> dict[str, Any]:
        return {"score": layer / 3, "kl": float("nan"), "note": f"{site} ü" if layer else None}

    grid = {"layer": [0, 1, 2], "site": ["z", "resid_post"]}
    table = sl.evaluation.sweep(run, grid, name="a study", progress=False)
    for value in (table, table.head(0), pandas.DataFrame({"right": [True, False]})):
        found = back(value, tmp_path / "kept")
        pandas.testing.assert_frame_equal(found, value)
        assert found.attrs == value.attrs
    assert table.attrs == {"study": "a study"}
    with pytest.raises(BadInputError, match="an index of its own"):
        sl.save(table.set_index("layer"), tmp_path / "kept")
    with pytest.raises(BadInputError, match="Columns are named by texts"):
        sl.save(pandas.DataFrame({1: [2]}), tmp_path / "kept")
    with pytest.raises(BadInputError, match="is a set"):
        sl.save(pandas.DataFrame({"odd": [{1}]}), tmp_path / "kept")


def test_a_table_keeps_its_dtypes_and_what_it_says_of_itself(tmp_path: Path) -> None:
    import pandas

    numbers = ["uint8", "int8", "int16", "int32", "uint16", "float16", "float32", "bool"]
    missing = ["Int64", "UInt8", "Float64", "boolean", "string"]
    ordered = pandas.CategoricalDtype(["low", "high", "never"], ordered=True)
    columns = {name: pandas.Series([1, 0, 1], dtype=name) for name in numbers}
    columns |= {name: pandas.Series([1, None, 0]).astype(name) for name in missing}
    columns["ordered"] = pandas.Series(["high", None, "low"], dtype=ordered)
    columns["categories"] = pandas.Series([2, 1, 2], dtype="category")
    columns["object"] = pandas.Series([1, "a", None], dtype="object")
    table = pandas.DataFrame(columns)
    table.attrs = {"seed": 3, "ok": True, "layers": [1, 2], "by": {"kl": 0.5}, "none": None}
    for value in (table, table.head(0)):
        found = back(value, tmp_path / "kept")
        pandas.testing.assert_frame_equal(found, value)
        assert found.attrs == value.attrs
    table["object"] = pandas.Series([pandas.NA, "a", 1], dtype="object")
    assert back(table, tmp_path / "kept")["object"].tolist() == [None, "a", 1]
    table.attrs = {"model": "/home/me/gpt2", "read": ["/home/me/notes.txt"]}
    assert back(table, tmp_path / "kept").attrs == {"model": "gpt2", "read": ["notes.txt"]}


def test_a_table_without_dtypes_is_read(tmp_path: Path) -> None:
    """The first files told texts alone."""
    import pandas

    table = pandas.DataFrame({"layer": [1, 2], "site": ["z", "q"], "note": ["a", None]})
    table["note"] = table["note"].astype(object)
    plain = tables.packed(table)
    del plain["dtypes"]
    packing.write(tmp_path / "kept", "table", plain)
    pandas.testing.assert_frame_equal(sl.load(tmp_path / "kept"), table)


def test_classes_of_one_kind_stand_in_its_files_alone(tmp_path: Path) -> None:
    """A trial is no part of a steering, though adaptations hold them."""
    trial = {"methods.Trial": {"weights": {"tuple": []}, "value": 0.0, "gain": 0.0}}
    path = tampered(tmp_path / "kept", put("gate", trial))
    with pytest.raises(BadInputError, match=r"it names 'methods\.Trial'"):
        sl.load(path)


def test_a_steering_by_its_own_methods(tmp_path: Path) -> None:
    steering = (sl.add(UP, [1.0, 2.0]) + sl.ablate(RIGHT)) >> sl.add(UP).when(0.5)
    steering.save(str(tmp_path / "kept"))
    assert same(sl.Steering.load(str(tmp_path / "kept")), steering)
    assert same(sl.load(tmp_path / "kept"), steering)


def test_equal_tensors_are_kept_once(tmp_path: Path) -> None:
    places = [f"blocks.{layer}.hook_resid_pre" for layer in range(9)]
    sl.save(sl.ablate([UP.at(place) for place in places]), tmp_path / "kept")
    with safe_open(tmp_path / "kept", framework="pt") as file:
        assert len(list(file.keys())) == 1  # the vector, not the unit vector made of it
    assert len(sl.load(tmp_path / "kept").interventions) == 9  # type: ignore[union-attr]


@pytest.mark.host
def test_a_file_does_not_depend_on_what_ran(tmp_path: Path) -> None:
    """Tensors that a run moves, or that a transform makes of others, are none of the value's."""
    model = tiny("llama", models.hosts()[0], torch.float64)
    up, right = (sl.Direction(HOOK, each) for each in torch.eye(models.D_MODEL)[:2])
    made = [transforms.Ablate(up), transforms.Rotate(up, right), transforms.Clamp(up, high=1.0)]
    steering = sl.steer([*made, *map(transforms.KeepNorm, made)], coeff=0.5)
    before = saved(steering, tmp_path / "before").read_bytes()
    with torch.no_grad(), steering.on(model):
        forward(model, models.random_rows([4])[0][None])
    assert saved(steering, tmp_path / "after").read_bytes() == before


def test_numbers_of_numpy_and_signed_zeros(tmp_path: Path) -> None:
    import numpy as np

    zero = transforms.Scale(torch.tensor([0.0, -0.0]), HOOK)
    steering = sl.steer(zero) + sl.add(UP).when(signals.Schedule(list(np.array([0.25, 1.0]))))
    loaded = back(steering, tmp_path / "kept")
    assert repr(loaded) == repr(steering)
    factor = loaded.interventions[0].transform.factor
    assert torch.equal(torch.signbit(factor), torch.tensor([False, True]))


# What cannot be saved


@dataclass(frozen=True)
class Mine(signals.Combining):
    def __call__(self, moment: signals.Moment) -> Tensor:
        return torch.ones(1, 1)


class Sneaky(signals.Decay):
    pass


def own(window: Any) -> Any:
    return window.real


@pytest.mark.parametrize(
    ("steering", "told"),
    [
        (sl.add(UP).when(torch.tanh), r"tanh, at gate, is a function of your own.*signals"),
        (sl.add(UP, torch.tanh) + sl.add(UP), r"tanh, at parts\[0\]\.coeff, is a function"),
        (sl.add(UP).when(~signals.Latch(torch.tanh)), r"at gate\.signal\.gate, is a func"),
        (sl.steer(transforms.Function(torch.tanh), HOOK), r"function\(tanh\), at transform, is a"),
        (sl.add(UP, positions=own), r"own, at positions, is a function of your own.*positions"),
        (sl.add(UP, positions=~positions.Custom(own)), r"at positions\.part, is a function"),
        (sl.add(UP).when(Mine()), r"Mine\(\), at gate, is a Mine, which is no value of SteerLens"),
        (sl.add(UP).when(Sneaky(2)), r"is a Sneaky, which is no value"),
    ],
    ids=str,
)
def test_functions_are_named(steering: sl.Steering, told: str, tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("before")
    with pytest.raises(BadInputError, match=told):
        steering.save(path)
    assert path.read_text() == "before"


def test_other_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="can be saved; got dict"):
        kind_of({"good": "bad"})
    with pytest.raises(BadInputError, match="no folder"):
        sl.save(UP, tmp_path / "none" / "kept")


# What is not believed


STEERING = sl.add(UP, 4, positions=positions.first(2)) + sl.ablate(RIGHT)


def tampered(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> Path:
    STEERING.save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["steerlens"])
    del about["sha256 of the rest"]
    change(about, tensors)
    save_file(tensors, path, signed(about, tensors))
    return path


def first(about: dict[str, Any]) -> dict[str, Any]:
    """The fields of the first intervention, as they stand in the file."""
    leaf = about["value"]["interventions.Group"]["parts"]["tuple"][0]
    found: dict[str, Any] = leaf["interventions.Intervention"]
    return found


def put(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda about, tensors: first(about).update({name: value})


def as_direction(about: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = first(about)["transform"]["transforms.Add"]["along"]
    return found["directions.Direction"]


GATE = {"signals.Constant": {"value": 1.0}}
WRONG: dict[str, tuple[Any, str]] = {
    "unknown class": (put("gate", {"signals.Evil": {}}), "it names 'signals.Evil'"),
    "any class": (put("gate", {"os.system": {"command": "true"}}), "it names 'os.system'"),
    "a function": (put("gate", {"signals.Function": {"function": "print"}}), "signals.Function"),
    "own positions": (put("positions", {"positions.Custom": {"function": None}}), "Custom"),
    "missing field": (lambda a, t: first(a).pop("coeff"), "Intervention lacks 'coeff'"),
    "missing default": (lambda a, t: first(a).pop("reads"), "Intervention lacks 'reads'"),
    "more fields": (put("later", 1), "fields that this SteerLens does not know"),
    "a number as name": (put("hook_name", 5), "int cannot be interventions.Intervention.hook_name"),
    "a gate as positions": (put("positions", GATE), "Constant cannot be .*positions"),
    "positions as gate": (
        put("gate", {"positions.First": {"n": 2}}),
        "First cannot be interventions.Intervention.gate",
    ),
    "text as number": (put("gate", {"signals.Constant": {"value": "1"}}), "str cannot be"),
    "truth as number": (put("gate", {"signals.Constant": {"value": True}}), "bool cannot be"),
    "bare list": (put("reads", ["x"]), "no whole steering"),
    "two kinds at once": (put("gate", {**GATE, "signals.Decay": {}}), "no whole steering"),
    "tensor missing": (lambda a, t: t.pop("0"), "its tensor '0' is missing"),
    "tensor unknown": (lambda a, t: as_direction(a).update(vector={"tensor": "9"}), "whole"),
    "tensor of integers": (lambda a, t: t.update({"0": torch.ones(2).long()}), "Tensor cannot be"),
    "tensor not finite": (lambda a, t: t.update({"0": torch.full((2,), torch.nan)}), "finite"),
    "bounds": (
        put("gate", {"signals.Hysteresis": {"score": GATE, "opens": 0.0, "shuts": 1.0}}),
        "no whole steering: It opens above",
    ),
    "pattern": (
        put("positions", {"positions.Matching": {"tokens": {"tuple": [{"pattern": ["(", 0]}]}}}),
        "no whole steering",
    ),
    "no value": (lambda a, t: a.pop("value"), "its header tells no value"),
    "a list as value": (lambda a, t: a.update(value=[1]), "a list stands where a value should"),
    "number too large": (
        put("coeff", {"signals.Constant": {"value": {"float": 10**400}}}),
        "whole",
    ),
    "NaN gate": (put("gate", {"signals.Constant": {"value": {"float": "nan"}}}), "not a number"),
    "bare NaN": (put("gate", {"signals.Constant": {"value": float("nan")}}), "not a number"),
    "a tensor that nothing names": (
        lambda a, t: t.update({"7": torch.ones(2)}),
        "names its tensor",
    ),
    "a key twice": (
        put("gate", {"mapping": [["x", 1], ["x", 2]]}),
        "a mapping in it has a key twice",
    ),
    "no parts": (
        lambda a, t: a["value"]["interventions.Group"]["parts"].update(tuple=[]),
        "one part or more",
    ),
    "what is made of the rest": (
        lambda a, t: first(a)["transform"]["transforms.Add"].update(vector={"tensor": "0"}),
        "fields that this SteerLens does not know",
    ),
    "tensors named without end": (
        lambda a, t: (
            t.update({"7": torch.zeros(2**20)}),
            put("gate", {"tuple": [{"tensor": "7"}] * 300})(a, t),
        ),
        "fill the memory",
    ),
    "a direction": (lambda a, t: a.update(value=None), "it holds NoneType"),
    "later layout": (lambda a, t: a.update(version=99), "later SteerLens"),
    "other kind": (lambda a, t: a.update(kind="chart"), "'chart', and 'steering' is wanted"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_told(wrong: str, tmp_path: Path) -> None:
    change, told = WRONG[wrong]
    path = tampered(tmp_path / "kept.safetensors", change)
    for load in (sl.load, sl.Steering.load):
        with pytest.raises(BadInputError, match=told) as caught:
            load(path)
        assert str(path) in str(caught.value)


def test_what_is_untouched_is_loaded(tmp_path: Path) -> None:
    assert same(sl.load(tampered(tmp_path / "kept", lambda about, tensors: None)), STEERING)


@pytest.mark.parametrize("layout", [1, 2])
def test_layouts_1_and_2_held_what_is_made_of_the_rest(layout: int, tmp_path: Path) -> None:
    """A file as it was written then; of layout 1, without its hashes. It is made anew, not read."""
    path = Path(__file__).parent / "old" / "layout-2.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(file.metadata()["steerlens"])
    assert about["version"] == 2
    first(about)["transform"]["transforms.Add"]["vector"] = {"tensor": "another"}
    tensors["another"] = torch.tensor([5.0, 5.0])
    del about["sha256 of the rest"], about["sha256"]
    bare = {"steerlens": json.dumps(about | {"version": 1})}
    save_file(tensors, tmp_path / "old", bare if layout == 1 else signed(about, tensors))
    for each in (path, tmp_path / "old"):
        assert same(sl.load(each), OF_LAYOUT_2)


mood = sl.Basis({HOOK: torch.tensor([[1.0, 2.0]])}, name="mood")
OF_LAYOUT_2 = sl.steer(
    [
        *(transforms.Add(UP), transforms.AddBeforeNorm(UP), transforms.Piecewise(UP)),
        transforms.KeepNorm(transforms.KeepNorm(transforms.Add(RIGHT))),
        *(transforms.Ablate(UP), transforms.Ablate(mood)),
        transforms.MeanAblate(UP, torch.tensor([1.0, 2.0])),
        transforms.Clamp(UP, -0.5, 2.0),
        transforms.Interchange(RIGHT, torch.tensor([[1.0, 2.0]])),
        *(transforms.Rotate(UP, RIGHT), transforms.RotateTo(RIGHT, UP, angle=0.5)),
    ],
    coeff=0.5,
)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no file"):
        sl.load(tmp_path / "nowhere")
    whole = tmp_path / "kept"
    STEERING.save(whole)
    for size in (0, 5, 60, len(whole.read_bytes()) - 3):
        cut = tmp_path / "cut"
        cut.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(BadInputError, match="cut is no whole safetensors file"):
            sl.load(cut)
    save_file({"a": torch.ones(2)}, tmp_path / "bare")
    with pytest.raises(BadInputError, match="not written by SteerLens"):
        sl.load(tmp_path / "bare")
    deep = json.dumps({"kind": "steering", "version": 1, "value": 0})
    deep = deep.replace(": 0}", f": {'[' * 100_000}{']' * 100_000}" + "}")
    save_file({"a": torch.ones(2)}, tmp_path / "deep", {"steerlens": deep})
    with pytest.raises(BadInputError, match=r"deep is no whole .*: it is nested too deeply"):
        sl.load(tmp_path / "deep")
    torch.save(UP.vector, tmp_path / "pickled")
    with pytest.raises(BadInputError, match="no whole safetensors file"):
        sl.load(tmp_path / "pickled")


def test_a_direction_is_no_steering(tmp_path: Path) -> None:
    sl.save(UP, tmp_path / "kept")
    with pytest.raises(BadInputError, match="'direction', and 'steering' is wanted"):
        sl.Steering.load(tmp_path / "kept")


# Where it was made


def test_no_path_of_a_machine_is_told(tmp_path: Path) -> None:
    folder = "/home/someone/my models/llama"
    one = replace(UP, provenance={"model": folder, "host": "x", "source": f"{folder}.gguf"})
    two = replace(UP, name="two", provenance={"model": r"C:\Users\someone\mistral"})
    both = one + two
    basis = sl.Basis.of([both, one + both, two], name="mixed")
    for value in (one, both, basis, sl.add(one) + sl.ablate(basis) + sl.add(both + both)):
        sl.save(value, tmp_path / "kept")
        raw = (tmp_path / "kept").read_bytes()
        assert b"someone" not in raw
        assert b"llama" in raw
        assert repr(sl.load(tmp_path / "kept")) == repr(value)
    sl.save(sl.add(one) + sl.add(two), tmp_path / "kept")
    with safe_open(tmp_path / "kept", framework="pt") as file:
        assert json.loads(file.metadata()["steerlens"])["models"] == ["llama", "mistral"]
    assert sl.load(tmp_path / "kept").interventions[0].transform.along.provenance == {  # type: ignore[union-attr]
        "model": "llama",
        "host": "x",
        "source": "llama.gguf",
    }


@pytest.mark.host
def test_another_model_is_told(tmp_path: Path) -> None:
    model = tiny("gpt2", models.hosts()[-1])
    name = "elsewhere/gpt2-3-layers"
    vector = replace(making_direction(), provenance={"model": name})
    basis = sl.Basis({HOOK: vector.vector[None]}, provenance={"model": name})
    for value in (vector, sl.add(vector), sl.ablate(basis)):
        sl.save(value, tmp_path / "kept")
        named = model.cfg.model_name
        try:
            model.cfg.model_name = "/other/place/gpt2-3-layers"
            assert repr(sl.load(tmp_path / "kept", model)) == repr(value)
            model.cfg.model_name = "llama"
            with pytest.raises(BadInputError, match=r"kept was made on 'gpt2-3-layers'"):
                sl.load(tmp_path / "kept", model)
        finally:
            model.cfg.model_name = named


def making_direction() -> sl.Direction:
    return sl.Direction(HOOK, torch.ones(models.D_MODEL))


@pytest.mark.host
def test_an_edit_is_loaded_too(tmp_path: Path) -> None:
    model = tiny("llama", models.hosts()[0])
    edit = sl.editing.orthogonalise(model, making_direction())
    found = back(edit, tmp_path / "kept")
    assert isinstance(found, sl.Edit)
    assert repr(found) == repr(edit)


def test_groups_keep_their_shape(tmp_path: Path) -> None:
    leaf = sl.add(UP).interventions[0]
    nested = sl.Steering(Group((leaf, Group((leaf, leaf), in_turn=True))))
    assert same(back(nested, tmp_path / "kept"), nested)


def test_what_is_nested_too_deeply_is_told(tmp_path: Path) -> None:
    steering = sl.add(UP)
    for _ in range(400):
        steering = (steering >> sl.add(RIGHT)) + sl.add(UP)
    with pytest.raises(BadInputError, match="nested too deeply to be written"):
        steering.save(tmp_path / "deep")


def test_flags_of_a_pattern_do_not_debug(tmp_path: Path, capsys: Any) -> None:
    import re

    tokens = {"tuple": [{"pattern": ["a", int(re.DEBUG | re.I)]}]}
    path = tampered(tmp_path / "kept", put("positions", {"positions.Matching": {"tokens": tokens}}))
    with contextlib.suppress(BadInputError):
        sl.load(path)
    assert not capsys.readouterr().out
