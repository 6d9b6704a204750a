"""What repeng does with our file, and a file of its own. Runs where repeng is; see test_peers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

COEFF = 1.5


def steered(model: Any, vector: Any, tokens: Any) -> Any:
    from repeng import ControlModel

    layers = sorted(vector.directions)
    controlled = ControlModel(model, layers)
    controlled.set_control(vector, COEFF)
    with torch.no_grad():
        # row by row: repeng reads a batch's size off position_ids, which transformers 5 gives once
        logits = torch.cat([controlled(row[None]).logits for row in tokens])
    controlled.unwrap()
    return logits


def main(folder: Path) -> None:
    import gguf
    from repeng import ControlVector

    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    tokens = load_file(folder / "tokens.safetensors")["tokens"]
    ours = ControlVector.import_gguf(folder / "ours.gguf")
    generator = np.random.default_rng(0)
    width = model.config.hidden_size
    vectors = {i: generator.standard_normal(width).astype(np.float32) for i in (1, 2)}
    theirs = ControlVector(model_type=model.config.model_type, directions=vectors)
    theirs.export_gguf(folder / "theirs.gguf")
    halves = gguf.GGUFWriter(folder / "halves.gguf", "controlvector")
    halves.add_string("controlvector.model_hint", "gpt2")
    halves.add_array("odd", ["a", "bc"])
    halves.add_array("numbers", [1, 2, 3])
    for i, each in vectors.items():
        halves.add_tensor(f"direction.{i}", each.astype(np.float16))
    halves.write_header_to_file()
    halves.write_kv_data_to_file()
    halves.write_tensors_to_file()
    halves.close()
    out = {f"ours.{i}": torch.tensor(each) for i, each in ours.directions.items()}
    out |= {f"theirs.{i}": torch.tensor(each) for i, each in vectors.items()}
    out["logits of ours"] = steered(model, ours, tokens)
    out["logits of theirs"] = steered(model, theirs, tokens)
    save_file(out, folder / "repeng.safetensors", {"model_hint": ours.model_type})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
