"""An edit in the original Hugging Face checkpoint, as a folder that loads anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerlens.editing.weights import Slice, apply
from steerlens.errors import BadInputError
from steerlens.host import Host, check_model, device_of, is_bridge, no_bar, token_id
from steerlens.provenance import check_same_model, provenance
from steerlens.storage import replacing

if TYPE_CHECKING:
    from steerlens.editing.value import Edit

MARK = "_original_component."
"""What a bridge puts into the names of the weights that it wraps."""
EXACT, ROUNDED = 1e-3, 0.1
"""Largest difference between a fresh load's logits and the edited model's, as a share of their
length: in float32, and where anything is in half precision."""
_OTHERWISE = (
    "weights were folded, centred, trained or edited since. Load the model by "
    "from_pretrained_no_processing, undo other edits, or save your own weights as a checkpoint and "
    "give that."
)


@dataclass(frozen=True)
class Exported:
    """What was written, and how a fresh load of it compares."""

    folder: Path
    difference: float
    """Largest difference of a logit between a fresh load of the folder and the edited model, on
    random tokens."""
    untied: bool
    """Whether embedding and unembedding shared a weight before, and are written apart."""
    dtype: str

    def __repr__(self) -> str:
        """Return where it is, and what to know of it."""
        apart = "; embeddings untied" if self.untied else ""
        return (
            f"Exported({self.folder.name!r}, {self.dtype}{apart}; a fresh load gives the edited "
            f"logits to {self.difference:.1e})"
        )


def export(
    edit: Edit,
    model: Any,
    folder: str | Path,
    *,
    checkpoint: str | Path | None,
    dtype: torch.dtype | None,
) -> Exported:
    """Write the edited checkpoint; see `Edit.export`."""
    check_model(model)
    _refuse_processed(model)
    check_same_model(model, edit.provenance, "The edit")
    target, dtype, source = Path(folder), dtype or model.cfg.dtype, _source(model, checkpoint)
    if target.exists():
        raise BadInputError(f"{target} is there already. Give the name of a new folder.")
    with replacing(target) as place, no_bar():
        fresh = _bridge(source, dtype)
        tokens = _some_tokens(fresh)
        handle = apply(edit.factors, edit.gates, edit.embeddings, fresh, {}, edit.name)
        own = edit.apply_(model)
        try:
            for each, mine in zip(handle.slices, own.slices, strict=True):
                _check_same(each, mine)
            wanted = _logits(model, tokens)
        finally:
            own.undo()
        untied = handle.untied is not None
        _write(fresh, source, place, untied=untied)
        difference = _check_fresh(place, fresh, tokens, wanted, model)
    return Exported(target, difference, untied, str(dtype).removeprefix("torch."))


def _refuse_processed(model: Host) -> None:
    if provenance(model)["weights"] == "as trained":
        return
    how = (
        "Boot it without enable_compatibility_mode()"
        if is_bridge(model)
        else "Load it by HookedTransformer.from_pretrained_no_processing(name)"
    )
    raise BadInputError(
        "This model's norms are folded into its weights, so its edit is none of the checkpoint's. "
        f"{how} and make the edit again."
    )


def _source(model: Any, checkpoint: str | Path | None) -> str:
    """The folder or name that the model was loaded from."""
    source = str(checkpoint or getattr(model.cfg, "model_name", "") or "")
    if not source or source in ("custom", "unknown"):
        raise BadInputError(
            "This model does not tell which checkpoint it was loaded from. Give "
            "checkpoint='folder or name'."
        )
    return source


def _bridge(source: str, dtype: torch.dtype) -> Any:
    """A fresh bridge on the original checkpoint: its weights are views of Hugging Face's own."""
    from transformer_lens.model_bridge import TransformerBridge

    try:
        return TransformerBridge.boot_transformers(source, device="cpu", dtype=dtype)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"The checkpoint {source!r} cannot be loaded ({type(error).__name__}). Give "
            "checkpoint='folder or name' of the one that this model came from."
        ) from error


def _check_same(original: Slice, mine: Slice) -> None:
    """Raise BadInputError unless both stood on the same weights before the edit."""
    ours, theirs = mine.before.float().cpu(), original.before.float().cpu()
    close = ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=1e-2, atol=1e-4)
    if not close and not original.name.endswith("W_E"):  # Gemma's is scaled on one host
        raise BadInputError(f"{mine.name} of this model is not the checkpoint's: {_OTHERWISE}")


def _write(bridge: Any, source: str, place: Path, *, untied: bool) -> None:
    """Write the Hugging Face folder of a bridge's model, by the checkpoint's own configuration."""
    from transformers import AutoConfig, AutoTokenizer

    wrapped = bridge.original_model
    config = AutoConfig.from_pretrained(source)
    config.tie_word_embeddings = bool(config.tie_word_embeddings) and not untied
    config.dtype = next(iter(wrapped.parameters())).dtype
    plain = _hugging_face().from_config(config, dtype=config.dtype)
    found = {name.replace(MARK, ""): each for name, each in wrapped.state_dict().items()}
    own = plain.state_dict()
    missing = own.keys() - found.keys()
    if missing:
        raise BadInputError(
            f"The checkpoint of this architecture cannot be written: {sorted(missing)[0]!r} is "
            "not among the host's weights."
        )
    plain.load_state_dict({name: _shaped(found[name], each) for name, each in own.items()})
    plain.save_pretrained(place)
    if bridge.tokenizer is not None:  # the checkpoint's own: a host's may prepend BOS
        AutoTokenizer.from_pretrained(source).save_pretrained(place)
    if getattr(wrapped, "generation_config", None) is not None:
        wrapped.generation_config.save_pretrained(place)


def _shaped(found: Tensor, like: Tensor) -> Tensor:
    return found.detach().reshape(like.shape).contiguous()


def _some_tokens(bridge: Any) -> Tensor:
    """Random ids to compare on, none of them a pad."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, int(bridge.cfg.d_vocab), (2, 16), generator=generator)
    pad = token_id(bridge, "pad")
    return (
        tokens
        if pad is None
        else torch.where(tokens == pad, (pad + 1) % bridge.cfg.d_vocab, tokens)
    )


@torch.no_grad()
def _logits(model: Any, tokens: Tensor) -> Tensor:
    logits: Tensor = model(tokens.to(device_of(model)))
    return logits.float().cpu()


@torch.no_grad()
def _check_fresh(place: Path, bridge: Any, tokens: Tensor, wanted: Tensor, model: Any) -> float:
    """Return the largest difference between a fresh load's logits and the edited model's.

    Attention is computed as in the bridge, so that in half precision the rounding is the same.
    Raises BadInputError where they differ by more than rounding.
    """
    dtype = next(iter(bridge.parameters())).dtype
    way = getattr(bridge.original_model.config, "_attn_implementation", None)
    loaded = _hugging_face().from_pretrained(place, dtype=dtype, attn_implementation=way).eval()
    gap = loaded(tokens).logits.float() - wanted
    exact = all(each in (torch.float32, torch.float64) for each in (dtype, model.cfg.dtype))
    share = float(gap.norm() / wanted.norm())
    if not share <= (EXACT if exact else ROUNDED):
        raise BadInputError(
            f"What was written gives other logits than this model, edited ({share:.0%} off). Some "
            f"of its weights are not the checkpoint's: {_OTHERWISE}"
        )
    return float(gap.abs().max())


def _hugging_face() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM
