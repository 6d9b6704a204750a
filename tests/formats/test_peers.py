"""Round trips through repeng, steering-vectors and SAELens, in environments of their own.

    STEERLENS_PEERS=FOLDER python -m pytest tests/formats/test_peers.py

builds an environment for each in FOLDER, unless it is there (3 GB together, some minutes): repeng
wants numpy below 2, steering-vectors transformers below 5. SAELens brings TransformerLens, so that
our reader runs beside it, on its own objects.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models
import pytest
import torch
from models import forward, tiny
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import steerlens as sl
from steerlens.formats import from_gguf, from_layers, to_gguf, to_layers
from steerlens.signals import Moment, Readout, Relu, product

FOLDER = os.environ.get("STEERLENS_PEERS")
PINS = {
    "repeng": ["torch==2.13.0", "repeng==0.4.0", "gguf==0.19.0", "safetensors==0.8.0"],
    "sae_lens": ["torch==2.13.0", "sae-lens==6.54.12", "safetensors==0.8.0"],
    "steering_vectors": ["torch==2.13.0", "steering-vectors==0.12.2", "safetensors==0.8.0"],
}
pytestmark = [
    pytest.mark.skipif(not FOLDER, reason="builds three environments: STEERLENS_PEERS=FOLDER"),
    pytest.mark.timeout(1800),
]
COEFF = 1.5
PAIRS = [["the good w3", "the bad w3"], ["w5 happy", "w5 sad"], ["not w9 good", "not w9 bad"]]
TOKENS = torch.randint(10, 40, (2, 7), generator=torch.Generator().manual_seed(1))


def run(peer: str, folder: Path) -> dict[str, Tensor]:
    """What the peer's side writes, in its environment."""
    place = Path(str(FOLDER)).resolve() / f"venv-{peer}"
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for pin in PINS[peer]:  # torch first, or one for GPUs comes along
            subprocess.run([*pip, pin], check=True)
        (place / "ready").touch()
    script = Path(__file__).parent / "peers" / f"{peer}_side.py"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if peer == "sae_lens":
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    subprocess.run([str(python), str(script), str(folder)], check=True, env=environment)
    return load_file(folder / f"{peer}.safetensors")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny("gpt2", "bridge")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.hf("gpt2").save_pretrained(tmp_path / "model")
    models.tokenizer().save_pretrained(tmp_path / "model")
    save_file({"tokens": TOKENS}, tmp_path / "tokens.safetensors")
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    return tmp_path


def directions(*layers: int) -> sl.directions.Directions:
    generator = torch.Generator().manual_seed(2)
    return from_layers({i: torch.randn(models.D_MODEL, generator=generator) for i in layers})


@torch.no_grad()
def steered(model: Any, found: Any) -> Tensor:
    with sl.add(found, COEFF, positions="every_token").on(model):
        return forward(model, TOKENS)


def test_repeng(model: Any, folder: Path) -> None:
    """Its reader takes our file, ours takes its, and both steer a model alike."""
    ours = directions(1, 2)
    to_gguf(ours, folder / "ours.gguf", model_hint="gpt2")
    found = run("repeng", folder)
    for layer, vector in to_layers(ours).items():
        assert torch.equal(found[f"ours.{layer}"], vector)
    with safe_open(folder / "repeng.safetensors", framework="pt") as file:
        assert file.metadata() == {"model_hint": "gpt2"}
    theirs = from_gguf(folder / "theirs.gguf")
    for layer, vector in to_layers(theirs).items():
        assert torch.equal(found[f"theirs.{layer}"], vector)
    assert theirs.layers == (1, 2)
    assert theirs["resid_post", 1].provenance["model_hint"] == "gpt2"
    halves = from_gguf(folder / "halves.gguf")
    for layer, vector in to_layers(halves).items():
        assert torch.equal(found[f"theirs.{layer}"].half().float(), vector)
    for which, each in (("ours", ours), ("theirs", theirs)):
        difference = (steered(model, each) - found[f"logits of {which}"]).abs().max()
        print(f"repeng, {which}: largest difference of logits {difference:.1e}")
        assert difference < 1e-4


def test_steering_vectors(model: Any, folder: Path) -> None:
    """It steers alike by our vectors, we by its; and its mean difference is ours."""
    ours = directions(0, 1)
    layers = {str(layer): each for layer, each in to_layers(ours).items()}
    save_file(layers, folder / "layers.safetensors")
    found = run("steering_vectors", folder)
    activations = {i: found[f"theirs.{i}"] for i in (0, 2)}
    theirs = from_layers(SimpleNamespace(layer_activations=activations, layer_type="decoder_block"))
    for which, each in (("ours", ours), ("theirs", theirs)):
        difference = (steered(model, each) - found[f"logits of {which}"]).abs().max()
        print(f"steering-vectors, {which}: largest difference of logits {difference:.1e}")
        assert difference < 1e-4
    ids = [[models.tokenizer()(text)["input_ids"] for text in pair] for pair in PAIRS]
    contrast = sl.Contrast.from_pairs([(up, down) for up, down in ids])
    same = sl.find_directions(model, contrast, quality=False, progress=False)
    for layer, vector in activations.items():
        torch.testing.assert_close(same["resid_post", layer].vector, vector, atol=1e-5, rtol=0)


PLACES = {"transcoder": "blocks.1.hook_mlp_out", "standard at hook_z": "blocks.1.attn.hook_z"}
PLACES["jumprelu_transcoder"] = PLACES["transcoder"]


def by_readout(found: dict[str, Tensor], name: str, feature: int) -> Tensor | None:
    """A feature's activation by our signals; None of an architecture that they do not say."""
    part = {key.split(": ")[1]: each for key, each in found.items() if key.startswith(f"{name}: ")}
    if name in ("gated", "topk", "jumprelu_transcoder"):
        return None
    w, bias = part["W_enc"][:, feature], float(part["b_enc"][feature])
    if name in ("standard", "jumprelu", "standard at hook_z"):  # b_dec is subtracted first
        bias -= float(part["b_dec"] @ w)
    x = part["x"].flatten(2)
    read = Readout(sl.Direction("blocks.1.hook_resid_post", w), bias)
    signal: Any = Relu(read)
    if name == "jumprelu":
        signal = product(signal, read > float(part["threshold"][feature]))
    return signal(Moment(x))


def test_sae_lens(model: Any, folder: Path) -> None:
    """A feature that rises by c moves what the decoder writes by our c * row, where it writes."""
    found = run("sae_lens", folder)
    version, told = json.loads((folder / "told.json").read_text())
    assert f"sae-lens=={version}" in PINS["sae_lens"]
    assert len(told) == 8
    for name, about in told.items():
        place = PLACES.get(name, "blocks.1.hook_resid_post")
        source = {"matrix": "W_dec", "trained_on": "gpt2"}
        assert about == {**source, "hook_name": place, "basis": place}
        row, rise = found[f"{name}: ours"], found[f"{name}: rise"]
        assert torch.equal(row.flatten(), found[f"{name}: W_dec"][5])
        assert torch.equal(row, found[f"{name}: basis"])
        torch.testing.assert_close(COEFF * row.expand_as(rise), rise, atol=1e-5, rtol=0)
        activations = by_readout(found, name, 5)
        if activations is not None:
            assert 0 < float((activations > 0).float().mean()) < 1
            torch.testing.assert_close(activations, found[f"{name}: acts"], atol=1e-5, rtol=0)
        ours = sl.add(sl.Direction(place, row), COEFF, positions="every_token")
        with torch.no_grad(), ours.on(model):
            steered = forward(model, TOKENS)
        theirs = [(place, lambda x, hook, rise=rise: x + rise[:1, :1])]
        with torch.no_grad(), model.hooks(fwd_hooks=theirs):
            difference = (steered - forward(model, TOKENS)).abs().max()
        print(f"SAELens, {name}: largest difference of logits {difference:.1e}")
        assert difference < 1e-4
        saved = folder / "saved" / name
        weights = load_file(saved / "sae_weights.safetensors")
        config = json.loads((saved / "cfg.json").read_text())
        again = SimpleNamespace(
            W_dec=weights["W_dec"].numpy(),
            cfg=SimpleNamespace(metadata=SimpleNamespace(**config["metadata"])),
        )
        same = sl.Direction.from_sae(again, 5)
        assert same.hook_name == place
        assert torch.equal(same.vector, row.flatten())
