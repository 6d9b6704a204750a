"""Export: a folder whose fresh load gives the edited logits, or nothing at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import transformers
from cases import EACH_HOST
from edits import MAKERS, MASK, ONE_HOST, REAL, TIED, TOKENS, bits, logits, made, same
from models import (
    D_HEAD,
    N_HEADS,
    build,
    hf,
    hosts,
    tiny,
    tokenizer,
)
from torch import Tensor

import steerlens as sl
from steerlens.editing import Edit, exporting, fold_gates
from steerlens.errors import BadInputError

pytestmark = pytest.mark.host
NAMED = ("gpt2", "llama", "qwen3", "pythia", "gemma2", "olmo2")
HOOKED = pytest.mark.skipif("hooked_transformer" not in hosts(), reason="not in this version")


def checkpoint(architecture: str, seed: int = 0) -> Path:
    return models.folder(architecture, seed)


@torch.no_grad()
def fresh_logits(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Tensor:
    """Of a fresh load by Hugging Face alone, at the real tokens of the prompts."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)
    return model.eval()(TOKENS, attention_mask=MASK).logits[REAL].float()


@EACH_HOST
@pytest.mark.parametrize("architecture", NAMED)
def test_a_fresh_load_gives_the_edited_logits(architecture: str, host: str, tmp_path: Path) -> None:
    maker = "orthogonalise" if architecture in TIED else "exact"
    model, edit = tiny(architecture, host), made(maker, architecture, host)
    source = None if host == "bridge" else checkpoint(architecture)
    before = bits(model)
    exported = edit.export(model, tmp_path / "out", checkpoint=source)
    assert same(bits(model), before)
    with edit.applied(model):
        edited = logits(model)
    scale = max(1.0, float(edited.abs().max()))
    assert float((fresh_logits(exported.folder) - edited).abs().max()) < 1e-5 * scale
    assert exported.difference < 1e-5 * scale
    assert float((logits(model) - edited).abs().max()) > 0.1
    assert exported.untied == (architecture in TIED) == ("untied" in repr(exported))
    assert not transformers.AutoConfig.from_pretrained(exported.folder).tie_word_embeddings
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@EACH_HOST
def test_what_the_edit_leaves_alone_is_the_checkpoints(host: str, tmp_path: Path) -> None:
    """The tie of embeddings, and the tokenizer: not the host's, which learned to prepend BOS."""
    model, edit = tiny("gpt2", host), made("gates", "gpt2", host)
    exported = edit.export(model, tmp_path / "out", checkpoint=checkpoint("gpt2"))
    with edit.applied(model):
        assert torch.allclose(fresh_logits(tmp_path / "out"), logits(model), atol=1e-4)
    written = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert written("good day w1")["input_ids"] == tokenizer()("good day w1")["input_ids"]
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert config.tie_word_embeddings
    assert not exported.untied
    assert config.bos_token_id == 1


@EACH_HOST
def test_half_precision(host: str, tmp_path: Path) -> None:
    architecture = "llama"
    model, edit = build(architecture, host, torch.bfloat16), made("paper", architecture, host)
    edit = 0.2 * edit
    exported = edit.export(model, tmp_path / "out", checkpoint=checkpoint(architecture))
    assert exported.dtype == "bfloat16"
    kept = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {each.dtype for each in kept.parameters()} == {torch.bfloat16}
    with edit.applied(model):
        edited = logits(model)
    found = fresh_logits(tmp_path / "out", torch.bfloat16, attn_implementation="eager")
    own = float((logits(model) - logits(tiny(architecture, host))).abs().max())
    assert float((found - edited).abs().max()) <= (0 if host == "bridge" else 3 * own)
    wide = edit.export(model, tmp_path / "wide", checkpoint=checkpoint(architecture), dtype=FLOAT)
    assert wide.dtype == "float32"
    with edit.applied(tiny(architecture, host)) as exact:
        assert torch.allclose(fresh_logits(tmp_path / "wide"), logits(exact), atol=1e-4)


FLOAT = torch.float32


@ONE_HOST
def test_a_checkpoint_of_another_name_with_the_same_weights(host: str, tmp_path: Path) -> None:
    model, edit = tiny("llama", host), made("exact", "llama", host)
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint("llama"), moved)
    exported = edit.export(model, tmp_path / "out", checkpoint=moved)
    assert exported.difference < 1e-4


# Refused


def refused(
    model: Any, edit: Edit, folder: Path, match: str, source: Path | str | None = None
) -> None:
    """Nothing is written, and the model's weights are as before."""
    before, there = bits(model), sorted(folder.rglob("*"))
    with pytest.raises(BadInputError, match=match):
        edit.export(model, folder / "out", checkpoint=source)
    assert sorted(folder.rglob("*")) == there
    assert same(bits(model), before)


@ONE_HOST
def test_what_is_there_already_stays(host: str, tmp_path: Path) -> None:
    model, edit = tiny("llama", host), made("exact", "llama", host)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note").write_text("mine")
    refused(model, edit, tmp_path, "there already", checkpoint("llama"))
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").write_text("mine")
    refused(model, edit, tmp_path, "there already", checkpoint("llama"))
    assert (tmp_path / "out").read_text() == "mine"
    with pytest.raises(BadInputError, match="There is no folder"):
        edit.export(model, tmp_path / "nowhere" / "out", checkpoint=checkpoint("llama"))


@EACH_HOST
def test_a_checkpoint_that_is_none(host: str, tmp_path: Path) -> None:
    model, edit = tiny("llama", host), made("exact", "llama", host)
    refused(model, edit, tmp_path, "cannot be loaded", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused(model, edit, tmp_path, "cannot be loaded", tmp_path / "empty")
    other = "blocks.0.attn.W_O of this model is not the checkpoint's"
    refused(model, edit, tmp_path, other, checkpoint("llama", seed=1))
    refused(model, edit, tmp_path, "was made for", checkpoint("qwen3"))
    if host != "bridge":
        refused(model, edit, tmp_path, "does not tell which checkpoint")


@HOOKED
@pytest.mark.parametrize(
    ("folded", "maker"),
    [
        ("fold_ln", "orthogonalise"),
        ("center_writing_weights", "paper"),
        ("fold_value_biases", "paper"),
        ("center_unembed", "orthogonalise"),
    ],
)
def test_processed_weights_are_none_of_the_checkpoints(
    folded: str, maker: str, tmp_path: Path
) -> None:
    """Also those that the edit leaves alone: the folder would give other logits."""
    model = processed(folded)
    edit = MAKERS[maker](model, "gpt2")
    first = "norms are folded into its weights, .*" if folded == "fold_ln" else ""
    refused(model, edit, tmp_path, f"{first}from_pretrained_no_processing", checkpoint("gpt2"))


def processed(folded: str) -> Any:
    """A HookedTransformer as `from_pretrained` makes one, with one processing step."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    source = hf("gpt2")
    shape = models._hooked_transformer_shape("gpt2", source, torch.float32)
    config = HookedTransformerConfig(**shape)
    model = HookedTransformer(config, tokenizer())
    steps = ("fold_ln", "center_writing_weights", "fold_value_biases", "center_unembed")
    state = weight_conversions.convert_gpt2_weights(source, config)
    model.load_and_process_state_dict(state, **{name: name == folded for name in steps})
    model.cfg.default_prepend_bos = True
    return model.eval()


def test_a_bridge_in_compatibility_mode(tmp_path: Path) -> None:
    architecture = "llama"
    model = build(architecture, "bridge")
    model.enable_compatibility_mode()
    edit = MAKERS["paper"](model, architecture)
    refused(model, edit, tmp_path, r"norms are folded .* without enable_compatibility_mode\(\)")
    refused(model, made("paper", architecture, "bridge"), tmp_path, "norms are folded")


@EACH_HOST
def test_weights_trained_since(host: str, tmp_path: Path) -> None:
    """Of a component that the edit touches, and of one that it does not."""
    edit = made("exact", "llama", host)
    model = build("llama", host)
    with torch.no_grad():
        model.blocks[0].attn.W_O[:] += 0.1
    refused(model, edit, tmp_path, r"blocks.0.attn.W_O of this model is not", checkpoint("llama"))
    model = build("llama", host)
    with torch.no_grad():
        model.blocks[0].mlp.W_gate.mul_(1.2)
    refused(model, edit, tmp_path, r"gives other logits than this model", checkpoint("llama"))


@ONE_HOST
def test_an_edit_still_in_the_weights(host: str, tmp_path: Path) -> None:
    model, edit = build("llama", host), made("exact", "llama", host)
    with edit.applied(model):
        refused(model, edit, tmp_path, "undo other edits", checkpoint("llama"))


@EACH_HOST
def test_a_constant_without_a_bias_to_hold_it(host: str, tmp_path: Path) -> None:
    """A HookedTransformer has one of zeros, the checkpoint has none."""
    model = tiny("llama", host)
    edit = fold_gates(model, None, {1: torch.ones(N_HEADS, D_HEAD["llama"])})
    refused(model, edit, tmp_path, r"blocks.1.attn has no b_O", checkpoint("llama"))


@ONE_HOST
def test_an_edit_of_another_model(host: str, tmp_path: Path) -> None:
    edit = replace(made("exact", "llama", host), provenance={"model": "some/other"})
    model = build("llama", host)
    model.cfg.model_name = "a/llama"
    refused(model, edit, tmp_path, "made on 'other'", checkpoint("llama"))


@ONE_HOST
@pytest.mark.parametrize("spoilt", ["_write", "_check_fresh"])
def test_what_fails_in_the_middle_leaves_nothing(
    host: str, spoilt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, edit = build("llama", host), made("exact", "llama", host)
    whole: Callable[..., Any] = getattr(exporting, spoilt)
    before, reached = bits(model), []

    def failing(*args: Any, **options: Any) -> None:
        whole(*args, **options)
        reached.append([each.name for each in tmp_path.rglob("model.safetensors")])
        raise OSError("no space left on device")

    monkeypatch.setattr(exporting, spoilt, failing)
    with pytest.raises(OSError, match="no space left"):
        edit.export(model, tmp_path / "out", checkpoint=checkpoint("llama"))
    assert reached == [["model.safetensors"]]
    assert list(tmp_path.iterdir()) == []
    assert same(bits(model), before)


@ONE_HOST
def test_a_folder_written_wrong_is_an_error(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fresh load is compared with this model, not taken on trust."""

    def doubled(found: Tensor, like: Tensor) -> Tensor:
        return 1.01 * found.detach().reshape(like.shape)

    monkeypatch.setattr(exporting, "_shaped", doubled)
    model, edit = tiny("llama", host), made("exact", "llama", host)
    refused(model, edit, tmp_path, "gives other logits", checkpoint("llama"))


def test_a_loaded_edit_is_exported(tmp_path: Path) -> None:
    model, edit = tiny("llama", "bridge"), made("exact", "llama", "bridge")
    edit.save(tmp_path / "edit")
    loaded = sl.Edit.load(tmp_path / "edit", model)
    assert loaded.export(model, tmp_path / "out").difference < 1e-4
