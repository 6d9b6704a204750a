"""The life of an edit: applied and undone bit by bit, certified, given a dose, kept in files."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EACH_HOST, PAIRS
from edits import (
    CONTRAST,
    MAKERS,
    MANY,
    ONE_HOST,
    PROMPTS,
    REAL,
    TIED,
    TOKENS,
    bits,
    gap,
    logits,
    made,
    same,
)
from models import D_MLP, N_HEADS, N_LAYERS, build, tiny

import steerlens as sl
from steerlens import storage
from steerlens.editing import (
    Edit,
    candidates,
    elastic_net,
    fold_gates,
    handles,
    random_components,
    steer2edit,
    top_components,
)
from steerlens.editing.factors import Factors
from steerlens.editing.weights import Slice
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host


# Undo


@pytest.mark.parametrize(
    ("architecture", "host", "dtype"),
    [
        *((architecture, host, torch.bfloat16) for architecture, host in PAIRS),
        *((architecture, host, torch.float32) for architecture, host in PAIRS[::5]),
    ],
)
def test_undo_restores_every_bit(architecture: str, host: str, dtype: torch.dtype) -> None:
    model = build(architecture, host, dtype)
    before = bits(model)
    for maker in ("paper", "orthogonalise", "gates"):
        edit = made(maker, architecture, host)
        handle = edit.apply_(model)
        touched = [
            name for name, each in bits(model).items() if not torch.equal(each, before[name])
        ]
        assert touched
        handle.undo()
        handle.undo()  # does nothing
        assert same(bits(model), before)
    with pytest.raises(ZeroDivisionError), edit.applied(model):
        assert not same(bits(model), before)
        raise ZeroDivisionError
    assert same(bits(model), before)


@ONE_HOST
def test_an_edit_that_is_there_twice_says_so_and_lost_handles_are_found(host: str) -> None:
    model, edit = build("llama", host), made("paper", "llama", host)
    before, attributes = bits(model), sorted(vars(model))
    edit.apply_(model)
    with pytest.warns(UserWarning, match=r"now there 2 times.*handles\(model\)\[0\]") as told:
        edit.apply_(model)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (0.5 * edit).apply_(model)  # another edit
    assert "applied" in repr(handles(model)[0])
    with pytest.raises(BadInputError, match="Undo the later change first"):
        handles(model)[-1].undo()
    for handle in handles(model):
        handle.undo()
    assert handles(model) == ()
    assert same(bits(model), before)
    assert sorted(vars(model)) == attributes


@ONE_HOST
def test_taking_the_change_off_again_would_not(host: str) -> None:
    """Why slices are kept: bfloat16 additions are not inverted by subtractions."""
    model, edit = build("llama", host, torch.bfloat16), made("paper", "llama", host)
    before = bits(model)
    with edit.applied(model), (-edit).applied(model):
        assert not same(bits(model), before)
    assert same(bits(model), before)


@ONE_HOST
def test_hooks_touch_no_weight(host: str) -> None:
    model = build("gpt2", host)
    before = bits(model)
    for maker in ("exact", "orthogonalise", "gates"):
        steering = made(maker, "gpt2", host).as_steering()
        with steering.on(model):
            logits(model)
            assert same(bits(model), before)


@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
@pytest.mark.parametrize("call", [1, 3])
def test_a_write_that_fails_leaves_nothing_half_edited(
    architecture: str, host: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, edit = build(architecture, host), made("orthogonalise", architecture, host)
    before, calls, write = bits(model), [], Slice.write

    def failing(self: Slice, value: torch.Tensor) -> None:
        calls.append(self.name)
        write(self, value)
        if len(calls) == call:
            raise RuntimeError("the machine is out of memory")

    monkeypatch.setattr(Slice, "write", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        edit.apply_(model)
    assert len(calls) == call
    assert same(bits(model), before)
    assert shared(model) == (architecture in TIED and host == "bridge")
    monkeypatch.undo()
    with edit.applied(model):
        assert not same(bits(model), before)


@ONE_HOST
def test_an_undo_that_was_interrupted_ends_when_called_again(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, calls, write = build("gpt2", host), [], Slice.write
    before, edit = bits(model), made("orthogonalise", "gpt2", host)
    handle = edit.apply_(model)

    def interrupted(self: Slice, value: torch.Tensor) -> None:
        calls.append(self.name)
        write(self, value)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Slice, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        handle.undo()
    assert handles(model) == (handle,)
    handle.undo()
    assert same(bits(model), before)
    assert not handles(model)


@EACH_HOST
def test_a_host_that_hands_out_copies_is_an_error(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, edit = build("llama", host), made("paper", "llama", host)
    before, kind = bits(model), type(model.blocks[0].attn)
    copy = writer_of(model).detach().clone()
    monkeypatch.setattr(kind, "W_O", property(lambda self: copy.clone()), raising=False)
    for block in model.blocks:
        block.attn._parameters.pop("W_O", None)
    with pytest.raises(BadInputError, match=r"written to blocks.0.attn.W_O does not stay"):
        edit.apply_(model)
    monkeypatch.undo()
    assert all(torch.equal(each, before[name]) for name, each in bits(model).items())


def writer_of(model: Any) -> torch.Tensor:
    weight: torch.Tensor = model.blocks[0].attn.W_O
    return weight


@ONE_HOST
def test_undo_in_another_order_is_an_error(host: str) -> None:
    model = build("gpt2", host)
    before = bits(model)
    first = made("paper", "gpt2", host).apply_(model)
    second = made("exact", "gpt2", host).apply_(model)
    with pytest.raises(BadInputError, match="has been changed since this edit was applied"):
        first.undo()
    assert "applied" in repr(first)
    second.undo()
    first.undo()
    assert "undone" in repr(first)
    assert same(bits(model), before)
    heads = steer2edit(model, CONTRAST, **{**MANY, "rho_mlp": None}).apply_(model)
    gates = fold_gates(model, {0: torch.zeros(N_HEADS, 1)}).apply_(model)
    gates.undo()
    neurons = steer2edit(model, CONTRAST, **{**MANY, "rho_attn": None}).apply_(model)
    heads.undo()  # they share no weight
    neurons.undo()
    assert same(bits(model), before)


def shared(model: Any) -> bool:
    inside = getattr(model, "original_model", None)
    if inside is None:
        return False
    embedding = inside.get_input_embeddings().weight
    return any(
        each.weight is embedding for each in inside.modules() if type(each) is torch.nn.Linear
    )


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "llama"])
def test_tied_embeddings_are_untied_and_tied_again(architecture: str) -> None:
    model, edit = build(architecture, "bridge"), made("orthogonalise", architecture, "bridge")
    tied, before = architecture in TIED, bits(model)
    unembedding = model.W_U.detach().clone()
    assert shared(model) == tied
    others = (made("paper", architecture, "bridge"), made("gates", architecture, "bridge"))
    for other in others:  # leave embeddings alone, and tied
        with other.applied(model):
            assert shared(model) == tied
    handle = edit.apply_(model)
    assert not shared(model)
    assert torch.equal(model.W_U, unembedding)
    assert (handle.untied is not None) == tied
    handle.undo()
    assert shared(model) == tied
    assert same(bits(model), before)


@EACH_HOST
def test_gradients_and_inference_mode(host: str) -> None:
    """Made, applied and undone in any mode; weights stay leaves that take gradients."""
    architecture = "gpt2"
    model = build(architecture, host)
    before = bits(model)
    with torch.inference_mode():
        edits = [MAKERS[maker](model, architecture) for maker in ("exact", "orthogonalise")]
    for edit in edits:
        for mode in (torch.inference_mode, torch.enable_grad):
            with mode():
                handle = edit.apply_(model)
            parameters = list(model.parameters())
            assert all(each.is_leaf and each.requires_grad for each in parameters)
            model(TOKENS).sum().backward()
            with torch.inference_mode():
                handle.undo()
            assert same(bits(model), before)
        with edit.as_steering(model).on(model):
            model(TOKENS).sum().backward()
        assert writer_grad(model) > 0
        assert edit.certify(model, PROMPTS).holds


def writer_grad(model: Any) -> float:
    return max(float(each.grad.abs().max()) for each in model.parameters() if each.grad is not None)


@EACH_HOST
def test_two_models_in_one_process_share_nothing(host: str) -> None:
    one, two = build("gpt2", host), build("gpt2", host)
    edit, before = made("orthogonalise", "gpt2", host), bits(two)
    plain = logits(two)
    with edit.applied(one):
        assert same(bits(two), before)
        changed = logits(one)
        with edit.as_steering().on(two):
            hooked = logits(two)
        assert torch.equal(logits(two), plain)
    assert gap(hooked, changed) < 1e-3 < gap(changed, plain)


# The certificate


@EACH_HOST
@pytest.mark.parametrize(
    ("architecture", "maker"),
    [
        ("gpt2", "gates"),
        ("llama", "paper"),
        ("llama", "orthogonalise"),
    ],
)
def test_a_certificate_lists_what_is_left(architecture: str, host: str, maker: str) -> None:
    """Edited and left together are every writer, each once, and each reason is true."""
    model, edit = tiny(architecture, host), made(maker, architecture, host)
    left = edit.certify(model, PROMPTS[:1]).left
    edited = [label for each in edit.factors for label in each.labels]
    edited += [f"L{each.layer}H{i}" for each in edit.gates for i in each.units.tolist()]
    edited += [f"L{each.layer} b_O" for each in edit.gates if each.offset.any()]
    edited += [
        f"L{each.place[0]} {'b_O' if each.place[1] == 'attn' else 'b_out'}"
        for each in edit.factors
        if each.bias
    ]
    has_positions = architecture == "gpt2"
    if edit.embeddings is not None:
        edited += ["W_E", "W_pos"][: 1 + has_positions]
    named = [*edited, *left["component"]]
    assert len(named) == len(set(named))
    wanted = {"W_E", *(["W_pos"] if has_positions else [])}
    for layer, block in enumerate(model.blocks):
        wanted |= {f"L{layer}H{i}" for i in range(N_HEADS)}
        wanted |= {f"L{layer}N{i}" for i in range(D_MLP)}
        for part, name in ((block.attn, "b_O"), (block.mlp, "b_out")):
            if getattr(part, name, None) is not None:
                wanted.add(f"L{layer} {name}")
    assert set(named) == wanted
    for row in left.itertuples():
        if "|g|" in row.reason:
            place = row.layer, row.block
            g = abs(
                float(edit.importance[place][int(row.component.split("HN"[place[1] == "mlp"])[1])])
            )
            threshold = {"attn": 0.1 * 0.7, "mlp": 0.2 * 0.7}[row.block]
            assert g <= threshold
            assert row.reason == f"|g| = {g:.2g} is not above the threshold {threshold:.3g}"
        elif row.component in ("W_E", "W_pos"):
            assert row.reason == f"{edit.maker} leaves embeddings alone"
        elif " b_" in row.component:
            assert row.reason == "no constant is added to the block's bias"
        else:
            assert row.reason == "not chosen by fold_gates"


@ONE_HOST
def test_a_type_switched_off_is_named_as_the_reason(host: str) -> None:
    model = tiny("llama", host)
    found = candidates(model, CONTRAST, progress=False)
    for edit in (
        steer2edit(model, CONTRAST, **{**MANY, "rho_mlp": None}),
        elastic_net(found, rho_attn=0.1, rho_mlp=-1, alpha=0.7),
    ):
        left = edit.certify(model, PROMPTS).left
        reasons = left[left["component"].str.contains("N")]["reason"].value_counts()
        assert dict(reasons) == {"this type of component is switched off": N_LAYERS * D_MLP}


@ONE_HOST
def test_a_certificates_numbers(host: str) -> None:
    model, edit = tiny("gemma2", host), made("exact", "gemma2", host)
    before = bits(model)
    certificate = edit.certify(model, PROMPTS, batch_tokens=10)
    base = logits(model)
    with edit.applied(model):
        edited = logits(model)
    with edit.as_steering(model).on(model):
        hooked = logits(model)
    assert certificate.change == pytest.approx(gap(edited, base), rel=1e-3)
    assert certificate.largest == pytest.approx(float(base.abs().max()), rel=1e-4)
    assert certificate.difference < 1e-4
    assert gap(hooked, edited) < 1e-4
    assert same(bits(model), before)
    unit, seen = edit.factors[0].toward, {}
    for side, on in (("base", False), ("edited", True)):
        cache = read_with(model, edit if on else None)
        for row in certificate.remaining.itertuples():
            along = (cache[row.layer, row.at] @ unit)[REAL]
            seen[side, row.layer, row.at] = along
    for row in certificate.remaining.itertuples():
        for side in ("base", "edited"):
            along = seen[side, row.layer, row.at]
            assert getattr(row, side) == pytest.approx(float(along.mean()), abs=1e-4)
            most = getattr(row, f"largest_{side}")
            assert most == pytest.approx(float(along.abs().max()), abs=1e-4)
    assert len(certificate.remaining) == 3 * N_LAYERS
    assert "the same" in repr(certificate)
    assert "switched off" not in certificate._repr_html_()


def read_with(model: Any, edit: Edit | None) -> dict[tuple[int, str], torch.Tensor]:
    names = {
        (layer, at): f"blocks.{layer}.hook_{at}"
        for layer in range(N_LAYERS)
        for at in ("attn_out", "mlp_out", "resid_post")
    }
    found: dict[tuple[int, str], torch.Tensor] = {}

    def reader(key: tuple[int, str]) -> Any:
        return lambda activation, hook: found.update({key: activation.detach()})

    handle = None if edit is None else edit.apply_(model)
    with torch.no_grad(), model.hooks(fwd_hooks=[(name, reader(k)) for k, name in names.items()]):
        model(TOKENS)
    if handle is not None:
        handle.undo()
    return found


@EACH_HOST
def test_a_corrupted_edit_does_not_hold(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks that read a tenth too much of one block are found out."""
    model, edit = tiny("olmo2", host), made("paper", "olmo2", host)
    readout, wrong = Factors.readout, edit.factors[2]

    def more(self: Factors) -> sl.Direction:
        right = readout(self)
        return replace(right, vector=1.1 * right.vector) if self is wrong else right

    monkeypatch.setattr(Factors, "readout", more)
    certificate = edit.certify(model, PROMPTS)
    assert not certificate.holds
    assert "NOT the same" in repr(certificate)


# What may be made of candidates


@ONE_HOST
def test_an_edit_of_nothing_is_a_value(host: str, tmp_path: Path) -> None:
    model = build("llama", host)
    before = bits(model)
    for edit in (
        steer2edit(model, CONTRAST, **{**MANY, "rho_attn": 5.0, "rho_mlp": 5.0}),
        Edit(()),
    ):
        assert len(edit.frame()) == 0 == edit.total
        with edit.applied(model):
            assert same(bits(model), before)
        with pytest.raises(BadInputError, match="changes nothing"):
            edit.as_steering()
        edit.save(tmp_path / "nothing.safetensors")
        assert Edit.load(tmp_path / "nothing.safetensors").factors == ()
        assert "nothing" in Edit(())._repr_html_()


@ONE_HOST
def test_the_table_of_an_edit(host: str) -> None:
    edit = made("paper", "llama", host)
    frame = edit.frame()
    assert len(frame) == sum(len(each.units) for each in edit.factors)
    assert frame["strength"].abs().sum() == pytest.approx(edit.total)
    assert frame["strength"].abs().is_monotonic_decreasing
    for row in frame.itertuples():
        g = edit.importance[row.layer, row.block][row.index]
        assert row.importance == pytest.approx(float(g))
        assert row.component == f"L{row.layer}{'H' if row.block == 'attn' else 'N'}{row.index}"
    doubled = (2 * edit).frame()
    torch.testing.assert_close(
        torch.tensor(doubled["strength"]), 2 * torch.tensor(frame["strength"])
    )
    assert (-edit).frame()["strength"][0] == -frame["strength"][0]
    assert repr(edit).startswith("Edit('mean difference', steer2edit, ")
    gates = made("gates", "llama", host)
    assert len(gates.frame()) == sum(len(each.units) for each in gates.gates)


@ONE_HOST
def test_placebos_and_the_rule_without_a_net(host: str) -> None:
    model = tiny("llama", host)
    found = candidates(model, CONTRAST, progress=False)
    edit = elastic_net(found, rho_attn=0.1, rho_mlp=0.2, alpha=0.7)
    top = top_components(found, 5, total=2.0)
    sizes = torch.cat([each.importance for each in found.blocks]).abs().sort(descending=True)[0]
    assert top.frame()["importance"].abs().min() == pytest.approx(float(sizes[4]))
    assert top.frame()["strength"].abs().tolist() == pytest.approx([0.4] * 5)
    assert all(top.frame()["strength"] * top.frame()["importance"] > 0)
    heads = top_components(found, 4, total=1.0, block="attn")
    assert set(heads.frame()["block"]) == {"attn"}
    placebo, other = (random_components(found, edit, seed) for seed in (0, 1))
    for each in (placebo, other):
        assert each.frame()["block"].value_counts().to_dict() == (
            edit.frame()["block"].value_counts().to_dict()
        )
        assert each.total == pytest.approx(edit.total)
        assert all(each.frame()["strength"] * each.frame()["importance"] > 0)
        assert each.certify(model, PROMPTS).holds
    assert set(placebo.frame()["component"]) != set(other.frame()["component"])
    assert random_components(found, edit, 0).frame().equals(placebo.frame())
    only = candidates(model, CONTRAST, blocks=("attn",), progress=False)
    with pytest.raises(BadInputError, match="0 candidates to draw from"):
        random_components(only, edit)
    for n, block in ((0, None), (1000, None), (1, "mlp")):
        with pytest.raises(BadInputError, match="components to choose from"):
            top_components(only, n, 1.0, block)


@ONE_HOST
def test_a_dose_of_an_edit(host: str) -> None:
    """The coefficient scales what the hooks add; the edit times it is that in the weights."""
    model = tiny("llama", host)
    edit = 0.1 * made("exact", "llama", host)
    found = sl.calibrate(edit.as_steering(), model, ["good w1", "the sad w5"], kl=0.2)
    assert found.dose.kl == pytest.approx(0.2, rel=0.02)
    with (found.coeff * edit).applied(model):
        weights = logits(model)
    with found.steering.on(model):
        assert gap(logits(model), weights) < 1e-4 * max(1.0, float(weights.abs().max()))


# Files


@ONE_HOST
@pytest.mark.parametrize("maker", ["steepest", "orthogonalise", "gates"])
def test_saved_and_loaded_it_is_the_same(host: str, maker: str, tmp_path: Path) -> None:
    model, edit = tiny("gemma2", host), made(maker, "gemma2", host)
    path = tmp_path / "edit.safetensors"
    edit.save(path)
    assert [each.name for each in tmp_path.iterdir()] == ["edit.safetensors"]
    loaded = Edit.load(path, model)
    assert repr(loaded) == repr(edit)
    for one, other in zip(edit.factors, loaded.factors, strict=True):
        assert (one.place, one.of, one.bias, one.norm) == (
            *(other.place, other.of, other.bias, other.norm),
        )
        for name in ("units", "strengths", "reads", "writes", "toward"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    for mine, its in zip(edit.gates, loaded.gates, strict=True):
        assert mine.layer == its.layer
        assert torch.equal(mine.gain, its.gain)
        assert torch.equal(mine.offset, its.offset)
    if edit.embeddings is not None:
        assert loaded.embeddings is not None
        assert torch.equal(edit.embeddings.direction, loaded.embeddings.direction)
        assert edit.embeddings.share == loaded.embeddings.share
    assert edit.importance.keys() == loaded.importance.keys()
    for place, g in edit.importance.items():
        assert torch.equal(g, loaded.importance[place])
    assert dict(edit.reasons) == dict(loaded.reasons)
    assert edit.frame().equals(loaded.frame())
    with edit.applied(model):
        weights = logits(model)
    with loaded.applied(model):
        assert torch.equal(logits(model), weights)


def test_an_edit_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    edit, path = made("paper", "llama", "bridge"), tmp_path / "edit.safetensors"
    edit.save(path)
    assert "</span> llama-0-False<" in edit._repr_html_()  # its name, and not the folder's path
    assert str(tmp_path.parent) not in json.dumps(dict(Edit.load(path).provenance))
    other = tiny("mistral", "bridge")
    for refused in (lambda: Edit.load(path, other), lambda: edit.apply_(other)):
        with pytest.raises(BadInputError, match=r"made on 'llama-0-False', .* 'mistral-0-False'"):
            refused()
    folded = build("llama", "bridge")
    folded.enable_compatibility_mode()
    with pytest.raises(BadInputError, match=r"weights as trained, .* norms folded"):
        edit.apply_(folded)


def test_a_file_that_is_no_whole_edit_is_refused(tmp_path: Path) -> None:
    edit, path = made("paper", "llama", "bridge"), tmp_path / "edit.safetensors"
    edit.save(path)
    whole = path.read_bytes()
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadInputError, match="no whole safetensors file"):
            Edit.load(path)
    path.write_text("an edit")
    with pytest.raises(BadInputError, match="no whole safetensors file"):
        Edit.load(path)
    storage.write(path, "basis", {"a": torch.ones(2)}, {})
    with pytest.raises(BadInputError, match="holds 'basis'"):
        Edit.load(path)
    path.write_bytes(whole)
    tensors, about = storage.read(path, "edit")
    spoilt: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, about),
        ({**tensors, "factors.0.strengths": torch.ones(1)}, about),
        ({**tensors, "factors.0.units": tensors["factors.0.units"] + 1000}, about),
        (tensors, {**about, "factors": 3}),
        (tensors, {**about, "gates": [1]}),
        (tensors, {key: each for key, each in about.items() if key != "name"}),
        (tensors, {**about, "reasons": [[1, "norm", "why"]]}),
    ]
    for parts, described in spoilt:
        described = {key: each for key, each in described.items() if key not in ("kind", "version")}
        storage.write(path, "edit", parts, described)
        with pytest.raises(BadInputError):
            Edit.load(path)


@ONE_HOST
def test_gates_that_share_a_tensor_are_saved(host: str, tmp_path: Path) -> None:
    both = torch.rand(N_HEADS, 8)
    edit = Edit((), gates=(sl.editing.Gates(0, both, both), sl.editing.Gates(1, both, both)))
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert all(torch.equal(each.offset, both) for each in loaded.gates)
