"""Load Steerling, the bundled model, under TransformerLens 3 or 4, offline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from steerlens.errors import BadInputError
from steerlens.host import no_bar

HostName = Literal["auto", "hooked_transformer", "bridge"]
FOLDER = Path(__file__).parent / "steerling"


def load_model(host: HostName = "auto", folder: str | Path | None = None) -> Any:
    """Return Steerling in float32 as a TransformerLens model.

    `auto` is a `HookedTransformer` under TransformerLens 3 and a `TransformerBridge` under 4; the
    logits agree to 1e-4. `folder` may be any other folder of a Llama in the same format, such as
    one that `python -m steerlens.demo.train` wrote. Opens no network; takes about a second after
    TransformerLens is imported. Raises `BadInputError` for an unknown host, for a folder without
    a model, and for `hooked_transformer` under TransformerLens 4.

    >>> model = load_model()
    >>> model.to_tokens("a cat")[0, 0].item() == model.tokenizer.bos_token_id
    True
    """
    place = _checked(folder)
    old = int(version("transformer-lens").partition(".")[0]) < 4
    if host == "auto":
        host = "hooked_transformer" if old else "bridge"
    if host == "bridge":
        return _bridge(place)
    if host != "hooked_transformer":
        raise BadInputError(
            f"There is no host {host!r}. Use 'auto', 'hooked_transformer' or 'bridge'; another "
            "model's folder goes by name: load_model(folder=...)."
        )
    if not old:
        raise BadInputError("TransformerLens 4 has no HookedTransformer. Use host='bridge'.")
    return _hooked_transformer(place)


def load_hf(folder: str | Path | None = None) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Return the same weights in float32 as the plain Hugging Face model, and the tokenizer.

    >>> model, tokenizer = load_hf()
    >>> model.dtype
    torch.float32
    """
    place = _checked(folder)
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
    with no_bar():
        model = LlamaForCausalLM.from_pretrained(place, dtype=torch.float32, local_files_only=True)
    model.train(False)
    return model, tokenizer


def _checked(folder: str | Path | None) -> Path:
    place = FOLDER if folder is None else Path(folder)
    if not (place / "model.safetensors").is_file():
        raise BadInputError(
            f"There is no model.safetensors in {place}. python -m steerlens.demo.train makes one."
        )
    return place


def _bridge(place: Path) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    with no_bar():
        return TransformerBridge.boot_transformers(str(place), device="cpu", dtype=torch.float32)


def _hooked_transformer(place: Path) -> Any:
    from transformer_lens import HookedTransformer
    from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights

    model, tokenizer = load_hf(place)
    config = _hooked_config(model)
    with _no_deprecation():
        hooked = HookedTransformer(config, tokenizer=tokenizer, default_padding_side="right")
    state = convert_llama_weights(model, config)
    hooked.load_and_process_state_dict(
        state,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return hooked.eval()


def _hooked_config(model: LlamaForCausalLM) -> Any:
    from transformer_lens import HookedTransformerConfig

    config: Any = model.config
    return HookedTransformerConfig(
        d_model=config.hidden_size,
        d_head=config.head_dim,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_mlp=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=config.head_dim,
        rotary_base=config.rope_parameters["rope_theta"],
        original_architecture="LlamaForCausalLM",
        model_name="steerling",
        device="cpu",
        dtype=torch.float32,
    )


@contextmanager
def _no_deprecation() -> Iterator[None]:
    """Keep the one warning quiet that TransformerLens 3 raises whenever its class is built."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "HookedTransformer is deprecated", DeprecationWarning)
        yield
