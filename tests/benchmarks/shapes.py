"""The fixed models: random ones of about 100M parameters, their tiny doubles, and their texts.

The work does not depend on the weights. Hugging Face's, saved once to a folder, are what the
bridge and the peers load; a HookedTransformer of the same shape draws its own.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import models
import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.results import ROOT

WORKSPACE = ROOT / ".venv-bench"
"""What is made once and kept, out of sight of git: models' folders, peers' environments."""
FIRST = 1
"""The first word's id; 0 is padding, beginning and end."""
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Shape:
    """A model's shape."""

    architecture: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_mlp: int
    d_vocab: int
    n_ctx: int = 1024

    @property
    def name(self) -> str:
        """Return what the tables call it."""
        return {"gpt2": "GPT-2 shape", "llama": "Llama shape"}[self.architecture]


_FULL = {
    "gpt2": Shape("gpt2", 12, 768, 12, 12, 3072, 50257),
    "llama": Shape("llama", 12, 768, 12, 4, 2048, 32000),
}
_TINY = {
    "gpt2": Shape("gpt2", 3, 32, 4, 4, 64, 512),
    "llama": Shape("llama", 3, 32, 4, 2, 48, 512),
}


def shape(architecture: str, tiny: bool) -> Shape:
    """Return the shape of "gpt2" (124M parameters) or "llama" (124M), or its tiny double."""
    return (_TINY if tiny else _FULL)[architecture]


def folder(shape: Shape) -> Path:
    """Return a folder with the Hugging Face model and a word-level tokenizer, made once."""
    found = WORKSPACE / f"{shape.architecture}-{shape.n_layers}x{shape.d_model}"
    if not (found / "tokenizer.json").exists():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config(shape))
        model.save_pretrained(found)
        words = {f"w{i}": i for i in range(shape.d_vocab)}
        backend = Tokenizer(WordLevel(words, unk_token="w0"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        special = dict.fromkeys(("unk_token", "pad_token", "bos_token", "eos_token"), "w0")
        PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(found)
    return found


def config(shape: Shape) -> Any:
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    if shape.architecture == "gpt2":
        return transformers.GPT2Config(
            n_embd=shape.d_model, n_layer=shape.n_layers, n_head=shape.n_heads,
            n_inner=shape.d_mlp, n_positions=shape.n_ctx, vocab_size=shape.d_vocab,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids,
        )  # fmt: skip
    return transformers.LlamaConfig(
        hidden_size=shape.d_model, num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads, num_key_value_heads=shape.n_kv_heads,
        intermediate_size=shape.d_mlp, max_position_embeddings=shape.n_ctx,
        vocab_size=shape.d_vocab, **ids,
    )  # fmt: skip


def hosts() -> tuple[str, ...]:
    """Return the hosts that the installed TransformerLens has, the bridge first."""
    return models.hosts()[::-1]


@cache
def build(shape: Shape, host: str) -> Any:
    """Return the model on "bridge" or "hooked_transformer", made once in a process."""
    if host == "bridge":
        from transformer_lens.model_bridge import TransformerBridge

        bridge = TransformerBridge.boot_transformers(str(folder(shape)), device="cpu").eval()
        _ = [weight.sum() for weight in bridge.parameters()]  # a mapped file: pages come now
        return bridge
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    own: dict[str, Any] = {"act_fn": "gelu_new", "normalization_type": "LN"}
    if shape.architecture == "llama":
        own = {
            "act_fn": "silu", "normalization_type": "RMS", "final_rms": True, "gated_mlp": True,
            "positional_embedding_type": "rotary", "rotary_dim": shape.d_model // shape.n_heads,
            "n_key_value_heads": shape.n_kv_heads,
        }  # fmt: skip
    config = HookedTransformerConfig(
        n_layers=shape.n_layers, d_model=shape.d_model, n_heads=shape.n_heads,
        d_head=shape.d_model // shape.n_heads, d_mlp=shape.d_mlp, d_vocab=shape.d_vocab,
        n_ctx=shape.n_ctx, device="cpu", seed=0, **own,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder(shape))
        return HookedTransformer(config, tokenizer).eval()


def sample(shape: Shape, *size: int, seed: int = 0) -> torch.Tensor:
    """Return random words' ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST, shape.d_vocab, size, generator=generator)
