"""Other libraries, each in an environment of its own that is built here, once.

The functions below run in there, on the same Hugging Face weights and the same texts, with the
largest batch that helps them: everything of one length at once, else as they come.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PEERS = {"steering-vectors": "steering-vectors==0.12.2", "repeng": "repeng==0.4.0"}
"""They pin transformers<5 and numpy<2, so they cannot be installed beside TransformerLens."""
Pairs = Sequence[tuple[str, str]]


def environment(peer: str) -> Path:
    """Return the Python of a peer's environment, built where it is not there yet (a minute or two).

    Raises CalledProcessError where it cannot be installed.
    """
    from benchmarks.shapes import WORKSPACE

    found = WORKSPACE / peer
    python, ready = found / "bin" / "python", found / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", found], check=True)
        same_torch = f"torch=={version('torch').split('+')[0]}"
        install = [str(python), "-m", "pip", "install", "--quiet", same_torch, PEERS[peer]]
        subprocess.run(install, check=True, stderr=subprocess.PIPE, text=True)
        ready.touch()
    return python


def _model(folder: str) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    # Not AutoTokenizer: transformers 5 saves a class name that transformers 4 does not know.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(Path(folder) / "tokenizer.json"), pad_token="w0", eos_token="w0"
    )
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    _ = [weight.sum() for weight in model.parameters()]  # a mapped file: pages come now
    return model, tokenizer


def steering_vectors(
    folder: str, pairs: Pairs, layers: list[int], batch_size: int
) -> Callable[[], Any]:
    """Set up `train_steering_vector`: the mean difference at the last token."""
    from steering_vectors import train_steering_vector

    model, tokenizer = _model(folder)
    told = [tuple(pair) for pair in pairs]
    return lambda: train_steering_vector(
        model, tokenizer, told, layers=layers, batch_size=batch_size
    )


def repeng(folder: str, pairs: Pairs, layers: list[int], batch_size: int) -> Callable[[], Any]:
    """Set up `ControlVector.train`: PCA of the differences at the last token, its only kind."""
    from repeng import ControlModel, ControlVector, DatasetEntry

    model, tokenizer = _model(folder)
    told = [DatasetEntry(positive=positive, negative=negative) for positive, negative in pairs]
    controlled = ControlModel(model, layers)
    return lambda: ControlVector.train(
        controlled, tokenizer, told, hidden_layers=layers, batch_size=batch_size
    )


RUNS = {"steering-vectors": "steering_vectors", "repeng": "repeng"}
"""The function that sets up each peer."""
