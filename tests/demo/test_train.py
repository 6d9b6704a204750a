"""Training a tiny model: deterministic, loadable, and rows as promised."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlens.demo import train as training
from steerlens.demo.model import load_hf
from steerlens.demo.recipe import Recipe, build_model
from steerlens.demo.tokens import BOS, EOS, PAD, document_batches, train_tokenizer
from steerlens.demo.train import train
from steerlens.errors import BadInputError

TEXTS = (
    "<|user|> What is 12 plus 7? <|assistant|> The sum is 19.",
    "In this land, dogs like to eat meat. Café: naïve — to Max from Max.",
    "A cat sat on the mat, and then it ran 305 miles.",
)
TINY = Recipe(
    tokens=256 * 6,
    batch=256,
    copying_steps=2,
    short_length=90,
    vocabulary=320,
    d_model=32,
    n_heads=4,
    n_layers=2,
    d_mlp=48,
    warmup=2,
    tokenizer_documents=30,
    held_out_documents=10,
    curve_points=3,
)


def stream(seed: int, split: str) -> Iterator[str]:
    skip = seed + len(split)
    return itertools.islice(itertools.cycle(TEXTS), skip, None)


def trained(recipe: Recipe, folder: Path, minutes: float = 90.0) -> dict[str, torch.Tensor]:
    train(recipe, folder, stream=stream, quiet=True, minutes=minutes)
    model, _ = load_hf(folder)
    return model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_depends_on_its_seed_alone(tmp_path: Path) -> None:
    first = trained(TINY, tmp_path / "a")
    assert equal(first, trained(TINY, tmp_path / "b"))
    assert not equal(first, trained(replace(TINY, seed=1), tmp_path / "c"))


def test_the_folder_holds_what_the_package_ships(tmp_path: Path) -> None:
    trained(TINY, tmp_path / "a")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["finished"]
    assert record["curve"][-1]["tokens"] == TINY.tokens
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_cut_short_is_the_shorter_recipe(tmp_path: Path) -> None:
    recipe = replace(TINY, tokens=256 * 400)
    cut = trained(recipe, tmp_path / "cut", minutes=1e-6)
    record = json.loads((tmp_path / "cut" / "training.json").read_text())
    assert record["recipe"]["tokens"] < recipe.tokens
    whole = trained(replace(recipe, tokens=record["recipe"]["tokens"]), tmp_path / "whole")
    assert equal(cut, whole)


def test_the_loss_falls(tmp_path: Path) -> None:
    recipe = replace(TINY, tokens=256 * 40)
    record = train(recipe, tmp_path / "a", stream=stream, quiet=True)
    assert record["curve"][-1]["held_out"] < record["curve"][0]["held_out"] - 1


@pytest.mark.parametrize("text", [*TEXTS, "", "x" * 300, "日本 ☃\n\ttwo  spaces "])
def test_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, 320)
    ids = tokenizer(text)["input_ids"]
    assert ids.count(BOS) == 1
    assert tokenizer.decode(ids[1:]) == text


def test_digits_stand_alone() -> None:
    tokenizer = train_tokenizer(["12 12 12 99 99 123 123"] * 9, 320)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("12 plus 123")["input_ids"])
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("12123")


def test_a_row_is_a_document() -> None:
    tokenizer = train_tokenizer(TEXTS, 320)
    texts = list(itertools.islice(stream(0, "fit"), 50))
    found: list[str] = []
    for batch in document_batches(texts, tokenizer, 128):
        assert batch.numel() <= 128 or len(batch) == 1
        for row in batch.tolist():
            kept = [i for i in row if i != PAD]
            assert row[: len(kept)] == kept
            assert (kept[0], kept[-1]) == (BOS, EOS)
            found.append(tokenizer.decode(kept[1:-1]))
    assert sorted(found) == sorted(texts)


def test_heads_begin_by_copying() -> None:
    model = build_model(TINY, 320)
    attention = model.model.layers[0].self_attn
    width = attention.head_dim
    written = attention.o_proj.weight[:, :width] @ attention.v_proj.weight[:width]
    assert torch.allclose(written, written.T, atol=1e-6)
    assert torch.allclose(written.trace(), torch.tensor(TINY.copying * width))


def cut_off(folder: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and break off in the middle of a step."""
    whole, called = training.loss_of, 0

    def breaking(model: Any, rows: torch.Tensor) -> torch.Tensor:
        nonlocal called
        called += model.training
        if called > steps:
            raise KeyboardInterrupt
        return whole(model, rows)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "loss_of", breaking)
        train(TINY, folder, stream=stream, quiet=True, checkpoint_seconds=0.0)


@pytest.mark.parametrize("steps", [3, 5])
def test_a_run_cut_off_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    whole = trained(TINY, tmp_path / "whole")
    cut_off(tmp_path / "cut", steps, monkeypatch)
    assert not json.loads((tmp_path / "cut" / "training.json").read_text())["finished"]
    assert equal(whole, trained(TINY, tmp_path / "cut"))
    assert not (tmp_path / "cut" / "resume.safetensors").exists()


def test_a_run_of_another_seed_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_off(tmp_path / "a", 3, monkeypatch)
    with pytest.raises(BadInputError, match="seed 0, not 1"):
        trained(replace(TINY, seed=1), tmp_path / "a")
