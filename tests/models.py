"""Tiny random models of every architecture on every host, offline, for laws to run on.

`tiny(architecture, host)` gives a cached model, `build(...)` a fresh one (edit or break that
one), `hf(architecture)` the Hugging Face model with the same weights. Three layers, width 32,
four heads, 48 words, 64 positions; grouped keys and values where the architecture has them, a head
width of its own in Qwen3, sliding windows of 6 in Gemma-2 and Gemma-3 (layers 0 and 2) and Mistral
(all), four experts in Mixtral, two of them a token. Every bias is nonzero and every norm gain
random, so that a fold gone wrong shows.

Cost, one thread: imports 5 to 9 s, a model 0.04 to 0.07 s (HookedTransformer) or 0.1 to 0.2 s
(bridge, which reads a folder), the first one a second more, again from the cache nothing; a
pass 5 to 10 ms.

What reads the pads right (measured, float32, within 1e-5 of each row alone):

- right padding needs nothing, mask or none, on both hosts;
- left-padded tokens need `attention_mask=` on both; HookedTransformer also takes
  `padding_side="left"`, which the bridge ignores for tokens (logits off by 5 to 10), and
  Hugging Face's own GPT-2 needs `position_ids` beside the mask;
- `generate` on left-padded tokens: `padding_side="left"` is right on both hosts,
  `attention_mask=` only on the bridge (HookedTransformer drops it with a warning).
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

# Before transformers is imported: a hub name that slips in fails at once, not after 23 s.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from jaxtyping import Float, Int
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast

ARCHITECTURES = ("gpt2", "llama", "qwen3", "pythia", "gemma2", "mistral", "olmo2")
"""Those that laws are drawn on."""
EVERY = (*ARCHITECTURES, "gemma3", "phi", "mixtral")
GROUPED = ("llama", "qwen3", "gemma2", "gemma3", "mistral", "mixtral")
GEMMAS = ("gemma2", "gemma3")
N_LAYERS, D_MODEL, D_MLP, N_HEADS, N_KV_HEADS = 3, 32, 48, 4, 2
D_VOCAB, N_CTX, WINDOW, QUERY_SCALAR = 48, 64, 6, 12
D_HEAD = {name: 12 if name == "qwen3" else D_MODEL // N_HEADS for name in EVERY}
N_EXPERTS, EXPERTS_A_TOKEN = 4, 2
ROTARY_DIM = {"pythia": 2, "phi": 4}
SCORE_CAP, LOGIT_CAP, ROTARY_BASES = 20.0, 10.0, (1e6, 1e4)
STD, GAIN_STD, GEMMA_SHARE = 0.3, 0.3, 0.25
FIRST_WORD = 4  # past every special token and <unk>, in both vocabularies
REAL_WORDS = ("good", "bad", "happy", "sad", "not", "the")

transformers.logging.disable_progress_bar()


# Tokenizer


def special_ids(pad_is_eos_is_bos: bool = False) -> dict[str, int]:
    """The ids of PAD, BOS and EOS: 0, 1, 2, or 0 for all three (as GPT-2 has it)."""
    pad, bos, eos = (0, 0, 0) if pad_is_eos_is_bos else (0, 1, 2)
    return {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}


@cache
def vocabulary(pad_is_eos_is_bos: bool = False) -> tuple[str, ...]:
    """The `D_VOCAB` words by id: specials, `<unk>`, `REAL_WORDS`, then w0, w1, ..."""
    specials = ("<|endoftext|>",) if pad_is_eos_is_bos else ("<pad>", "<bos>", "<eos>")
    words = (*specials, "<unk>", *REAL_WORDS)
    return words + tuple(f"w{i}" for i in range(D_VOCAB - len(words)))


def tokenizer(pad_is_eos_is_bos: bool = False) -> PreTrainedTokenizerFast:
    """A fresh word-level tokenizer, loaded from a folder, as the hosts need it to be."""
    return PreTrainedTokenizerFast.from_pretrained(_tokenizer_folder(pad_is_eos_is_bos))


@cache
def _tokenizer_folder(pad_is_eos_is_bos: bool) -> Path:
    words = vocabulary(pad_is_eos_is_bos)
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    specials = {
        name.removesuffix("_id"): words[i] for name, i in special_ids(pad_is_eos_is_bos).items()
    }
    folder = Path(_workspace().name) / f"tokenizer-{pad_is_eos_is_bos}"
    words_only = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **specials)
    words_only.save_pretrained(folder)
    return folder


@cache
def _workspace() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="steerlens-tests-")


# Hugging Face


def hf_config(architecture: str, pad_is_eos_is_bos: bool = False) -> Any:
    """The Hugging Face config of the tiny model."""
    ids = special_ids(pad_is_eos_is_bos)
    if architecture == "gpt2":
        return transformers.GPT2Config(
            n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_inner=D_MLP, n_positions=N_CTX,
            vocab_size=D_VOCAB, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **ids,
        )  # fmt: skip
    gemma = {
        "head_dim": D_HEAD["gemma2"], "query_pre_attn_scalar": QUERY_SCALAR,
        "sliding_window": WINDOW,
    }  # fmt: skip
    caps = {"attn_logit_softcapping": SCORE_CAP, "final_logit_softcapping": LOGIT_CAP}
    windows = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    experts = {"num_local_experts": N_EXPERTS, "num_experts_per_tok": EXPERTS_A_TOKEN}
    kind, own = {
        "llama": (transformers.LlamaConfig, {}),
        "qwen3": (transformers.Qwen3Config, {"head_dim": D_HEAD["qwen3"]}),
        "pythia": (transformers.GPTNeoXConfig, {}),
        "gemma2": (transformers.Gemma2Config, gemma | caps),
        "gemma3": (transformers.Gemma3TextConfig, gemma | windows),
        "mistral": (transformers.MistralConfig, {"sliding_window": WINDOW}),
        "olmo2": (transformers.Olmo2Config, {}),
        "phi": (transformers.PhiConfig, {}),
        "mixtral": (transformers.MixtralConfig, experts),
    }[architecture]
    if architecture in GROUPED:
        own = {**own, "num_key_value_heads": N_KV_HEADS}
    return kind(
        hidden_size=D_MODEL, num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS,
        intermediate_size=D_MLP, vocab_size=D_VOCAB, max_position_embeddings=N_CTX, **ids, **own,
    )  # fmt: skip


@cache
def hf(
    architecture: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    pad_is_eos_is_bos: bool = False,
) -> PreTrainedModel:
    """The Hugging Face model with the same weights, cached: do not change it."""
    config = hf_config(architecture, pad_is_eos_is_bos)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    _randomise(model, architecture, seed)
    for parameter in model.parameters():
        # Not `model.to(dtype)`, which would round the rotary frequencies too.
        parameter.data = parameter.data.to(dtype)
    return model.eval()


@torch.no_grad()
def _randomise(model: PreTrainedModel, architecture: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):
            mean = _gain_mean(architecture, is_final=name == "model.norm.weight")
            parameter.copy_(mean + GAIN_STD * noise)
        else:
            is_gemma_embed = architecture in GEMMAS and "embed" in name
            parameter.copy_(STD * (GEMMA_SHARE if is_gemma_embed else 1.0) * noise)


def _gain_mean(architecture: str, *, is_final: bool) -> float:
    # Gemma stores gain - 1. It multiplies its tied embeddings by sqrt(d_model), so that at full
    # STD each token would only predict itself: they are small here, the last gain large instead.
    if architecture not in GEMMAS:
        return 1.0
    return 1 / GEMMA_SHARE - 1 if is_final else 0.0


# Hosts


def hosts() -> tuple[str, ...]:
    """The hosts that the installed TransformerLens has."""
    major = int(metadata.version("transformer-lens").split(".")[0])
    return ("bridge",) if major >= 4 else ("hooked_transformer", "bridge")


def build(
    architecture: str,
    host: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    pad_is_eos_is_bos: bool = False,
) -> Any:
    """A fresh model, sharing no storage with any other: raw weights, tokenizer set, eval mode."""
    make = {"hooked_transformer": _hooked_transformer, "bridge": _bridge}[host]
    model = make(architecture, dtype, seed, pad_is_eos_is_bos)
    # The bridge's adapters for Qwen3 and GPT-NeoX say False, a hand-made config says True.
    model.cfg.default_prepend_bos = True
    return model.eval()


# `build`, once for the same arguments in a process: leave no hook and no edit behind.
tiny = cache(build)


def _bridge(architecture: str, dtype: torch.dtype, seed: int, pad_is_eos_is_bos: bool) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    source = folder(architecture, seed, pad_is_eos_is_bos)
    return TransformerBridge.boot_transformers(str(source), device="cpu", dtype=dtype)


@cache
def folder(architecture: str, seed: int = 0, pad_is_eos_is_bos: bool = False) -> Path:
    """The Hugging Face folder that bridges are booted from."""
    place = Path(_workspace().name) / f"{architecture}-{seed}-{pad_is_eos_is_bos}"
    hf(architecture, seed, torch.float32, pad_is_eos_is_bos).save_pretrained(place)
    tokenizer(pad_is_eos_is_bos).save_pretrained(place)
    return place


def _hooked_transformer(
    architecture: str, dtype: torch.dtype, seed: int, pad_is_eos_is_bos: bool
) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained import weight_conversions

    source = hf(architecture, seed, dtype, pad_is_eos_is_bos)
    cfg = HookedTransformerConfig(**_hooked_transformer_shape(architecture, source, dtype))
    family = {"pythia": "neox", "gemma2": "gemma", "gemma3": "gemma"}.get(
        architecture, architecture
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(cfg, tokenizer(pad_is_eos_is_bos))
        state = getattr(weight_conversions, f"convert_{family}_weights")(source, cfg)
    model.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    for parameter in model.parameters():  # it leaves the routers of experts in float32
        parameter.data = parameter.data.to(dtype)
    return model


def _hooked_transformer_shape(
    architecture: str, source: PreTrainedModel, dtype: torch.dtype
) -> dict[str, Any]:
    """The keyword arguments of the HookedTransformerConfig."""
    shape: dict[str, Any] = {
        "n_layers": N_LAYERS, "d_model": D_MODEL, "n_heads": N_HEADS, "d_mlp": D_MLP,
        "d_head": D_HEAD[architecture], "d_vocab": D_VOCAB, "n_ctx": N_CTX, "dtype": dtype,
        "device": "cpu", "init_weights": False, "original_architecture": type(source).__name__,
    }  # fmt: skip
    if architecture == "gpt2":
        return shape | {"act_fn": "gelu_new", "normalization_type": "LN"}
    shape |= {"positional_embedding_type": "rotary", "rotary_dim": D_HEAD[architecture]}
    if architecture in ROTARY_DIM:
        return shape | {
            "act_fn": {"pythia": "gelu", "phi": "gelu_new"}[architecture],
            "normalization_type": "LN", "parallel_attn_mlp": True,
            "rotary_dim": ROTARY_DIM[architecture],
        }  # fmt: skip
    shape |= {
        "normalization_type": "RMS", "final_rms": True, "gated_mlp": True, "act_fn": "silu",
        "eps": source.config.rms_norm_eps,
        "n_key_value_heads": N_KV_HEADS if architecture in GROUPED else None,
    }  # fmt: skip
    return shape | _own_shape(architecture)


def _own_shape(architecture: str) -> dict[str, Any]:
    local = {"use_local_attn": True, "window_size": WINDOW}
    gemma = {
        **local, "act_fn": "gelu_pytorch_tanh", "attn_scale": QUERY_SCALAR**0.5,
        "attn_types": ["local", "global", "local"], "use_normalization_before_and_after": True,
    }  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "llama": {},
        "qwen3": {"use_qk_norm": True},
        "gemma2": {
            **gemma, "attn_scores_soft_cap": SCORE_CAP, "output_logits_soft_cap": LOGIT_CAP,
        },
        "gemma3": {
            **gemma, "use_qk_norm": True, "rotary_base": ROTARY_BASES[0],
            "rotary_base_local": ROTARY_BASES[1],
        },
        "mixtral": {
            "num_experts": N_EXPERTS, "experts_per_token": EXPERTS_A_TOKEN, "norm_topk_prob": True,
            "rotary_base": ROTARY_BASES[0],
        },
        "mistral": {**local, "attn_types": ["local"] * N_LAYERS},
        "olmo2": {"attn_types": ["global"] * N_LAYERS},
    }  # fmt: skip
    return own[architecture]


# Tokens and passes


def random_rows(
    lengths: Sequence[int], seed: int = 0, bos: int = 1
) -> list[Int[torch.Tensor, " pos"]]:
    """Rows of random words, each after a BOS; no special token and no `<unk>` within."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(FIRST_WORD, D_VOCAB, (n,), generator=generator) for n in lengths]
    for row in rows:
        row[0] = bos
    return rows


def padded(
    rows: Sequence[Int[torch.Tensor, " pos"]], side: str, pad: int = 0
) -> tuple[Int[torch.Tensor, "batch pos"], Int[torch.Tensor, "batch pos"]]:
    """Tokens and their attention mask, padded on the `side` "left" or "right"."""
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(rows):
        here = slice(longest - len(row), None) if side == "left" else slice(None, len(row))
        tokens[i, here], mask[i, here] = row, 1
    return tokens, mask


def forward(
    model: Any,
    tokens: Int[torch.Tensor, "batch pos"],
    attention_mask: Int[torch.Tensor, "batch pos"] | None = None,
) -> Float[torch.Tensor, "batch pos d_vocab"]:
    """Logits of one uncached pass. Left-padded tokens need the mask, right-padded ones do not."""
    return model(tokens, attention_mask=attention_mask)


def cached_forward(
    model: Any,
    tokens: Int[torch.Tensor, "batch pos"],
    sizes: Sequence[int],
    attention_mask: Int[torch.Tensor, "batch pos"] | None = None,
) -> Float[torch.Tensor, "batch pos d_vocab"]:
    """Logits of `tokens` fed in chunks of `sizes` through the host's own key and value cache.

    The hosts want different masks: the bridge every column so far, HookedTransformer the chunk's
    own (its cache appends them; without any it takes pad ids at the chunk's end for padding).
    """
    assert sum(sizes) == tokens.shape[1]
    is_bridge = hasattr(model, "original_model")
    if attention_mask is None and not is_bridge:
        attention_mask = torch.ones_like(tokens)
    past = _empty_cache(model, len(tokens))
    stops = list(accumulate(sizes))
    logits = []
    for start, stop in zip([0, *stops], stops, strict=False):
        columns = slice(0 if is_bridge else start, stop)
        mask = None if attention_mask is None else attention_mask[:, columns]
        logits.append(model(tokens[:, start:stop], attention_mask=mask, **past))
    return torch.cat(logits, dim=1)


def _empty_cache(model: Any, batch_size: int) -> dict[str, Any]:
    """The keyword argument that a pass takes its cache by."""
    if hasattr(model, "original_model"):
        config = model.original_model.config
        return {"past_key_values": DynamicCache(config=config), "use_cache": True}
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    past = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch_size)
    return {"past_kv_cache": past}
