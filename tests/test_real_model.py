"""A real pretrained model, trained by nobody here: stories260K."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EACH_HOST

import steerlens as sl

pytestmark = pytest.mark.host
SHARED = Path(__file__).parents[2] / "shared"
FOLDER = SHARED / "models" / "stories260K"
PAIRS = SHARED / "data" / "steerkit" / "sentiment.jsonl"
SAD = ("sad", "cry", "cried", "scared", "hurt", "angry", "afraid", "upset", "mad")


@pytest.fixture(autouse=True)
def _there() -> None:
    for path in (FOLDER, PAIRS):
        if not path.exists():
            pytest.skip(f"{path} is not there: the test of reality needs it")


@cache
def load(host: str) -> Any:
    if host == "bridge":
        return sl.host.load(str(FOLDER)) if hasattr(sl.host, "load") else _bridge()
    import transformers
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    source = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    config = source.config
    cfg = HookedTransformerConfig(
        n_layers=config.num_hidden_layers, d_model=config.hidden_size, d_mlp=config.intermediate_size,
        n_heads=config.num_attention_heads, n_key_value_heads=config.num_key_value_heads,
        d_head=config.hidden_size // config.num_attention_heads, d_vocab=config.vocab_size,
        n_ctx=config.max_position_embeddings, eps=config.rms_norm_eps, act_fn="silu",
        normalization_type="RMS", final_rms=True, gated_mlp=True, positional_embedding_type="rotary",
        rotary_dim=config.hidden_size // config.num_attention_heads, init_weights=False, device="cpu",
        original_architecture="LlamaForCausalLM",
    )  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = HookedTransformer(cfg, tokenizer)
    plain = dict(fold_ln=False, center_writing_weights=False, center_unembed=False)
    state = convert_llama_weights(source, cfg)
    model.load_and_process_state_dict(state, fold_value_biases=False, **plain)
    return model.eval()


def _bridge() -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(FOLDER), device="cpu")


@cache
def found(host: str) -> sl.Directions:
    contrast = sl.Contrast.from_jsonl(PAIRS)
    return sl.find_directions(load(host), contrast, name="sentiment", placebos=20, progress=False)


@EACH_HOST
def test_directions_are_found_and_beat_placebo(host: str) -> None:
    best = found(host).best()
    assert best.quality is not None
    assert best.quality.auc > 0.9
    assert best.quality.beyond_placebo
    assert best.quality.rank == 1


@EACH_HOST
def test_steering_moves_the_share_of_sad_stories(host: str) -> None:
    model = load(host)
    shares = {}
    for coeff in (-4.0, 4.0):
        torch.manual_seed(0)
        prompts = model.to_tokens(["Once upon a time"] * 32)
        with sl.add(found(host)["resid_post", 3], coeff, positions="predicting").on(model):
            made = model.generate(prompts, max_new_tokens=80, temperature=0.8, verbose=False)
        texts = [model.tokenizer.decode(row) for row in made]
        shares[coeff] = sum(any(word in text for word in SAD) for text in texts) / len(texts)
    print(host, shares)
    assert shares[-4.0] > shares[4.0] + 0.15


@EACH_HOST
def test_both_hosts_find_the_same(host: str) -> None:
    for name, direction in found(host).items():
        torch.testing.assert_close(
            direction.vector, found("bridge")[name].vector, atol=1e-3, rtol=1e-3
        )
