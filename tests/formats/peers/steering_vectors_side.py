"""What steering-vectors does with our vectors, and vectors that it trains; see test_peers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

COEFF = 1.5


def steered(model: Any, vector: Any, tokens: Any) -> Any:
    with torch.no_grad(), vector.apply(model, multiplier=COEFF):
        return model(tokens).logits.clone()


def main(folder: Path) -> None:
    from steering_vectors import SteeringVector, train_steering_vector

    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    # from its file alone: transformers 5 names a class that 4 does not have
    backend = str(folder / "model" / "tokenizer.json")
    told = ["input_ids", "attention_mask"]  # GPT-2 would embed types of tokens
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=backend, pad_token="<pad>", model_input_names=told
    )
    tokens = load_file(folder / "tokens.safetensors")["tokens"]
    given = load_file(folder / "layers.safetensors")
    ours = SteeringVector({int(i): each for i, each in given.items()}, "decoder_block")
    pairs = [tuple(pair) for pair in json.loads((folder / "pairs.json").read_text())]
    theirs = train_steering_vector(model, tokenizer, pairs, layers=[0, 2])
    out = {f"theirs.{i}": each.contiguous() for i, each in theirs.layer_activations.items()}
    out["logits of ours"] = steered(model, ours, tokens)
    out["logits of theirs"] = steered(model, theirs, tokens)
    save_file(out, folder / "steering_vectors.safetensors", {"layer_type": theirs.layer_type})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
