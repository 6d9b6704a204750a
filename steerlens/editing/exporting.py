"""An edit in the original Hugging Face checkpoint, as a folder that loads anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerlens.editing.weights import Slice
from steerlens.errors import BadInputError
from steerlens.host import Host, is_bridge, provenance
from steerlens.storage import replacing

if TYPE_CHECKING:
    from steerlens.editing.value import Edit

MARK = "_original_component."
"""What a bridge puts into the names of the weights that it wraps."""


@dataclass(frozen=True)
class Exported:
    """What was written, and how a fresh load of it compares."""

    folder: Path
    difference: float
    """Largest difference of a logit between a fresh load of the folder and the edited weights."""
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
    _refuse_processed(model)
    dtype = dtype or model.cfg.dtype
    source = _source(model, checkpoint)
    fresh = _bridge(source, dtype)
    handle = edit.apply_(fresh)
    own = edit.apply_(model)
    try:
        for each, mine in zip(handle.slices, own.slices, strict=True):
            _check_same(each, mine)
    finally:
        own.undo()
    with replacing(Path(folder)) as place:
        _write(fresh, source, place, untied=handle.untied is not None)
        difference = _compare(fresh, place, dtype)
    named = str(dtype).removeprefix("torch.")
    return Exported(Path(folder), difference, handle.untied is not None, named)


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
        raise BadInputError(
            f"{mine.name} of this model is not the checkpoint's: its weights were centred or "
            "trained since. Load it by from_pretrained_no_processing, or save your own weights "
            "as a checkpoint and give that."
        )


def _write(bridge: Any, source: str, place: Path, *, untied: bool) -> None:
    """Write the Hugging Face folder of a bridge's model, by the checkpoint's own configuration."""
    from transformers import AutoConfig

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
    if bridge.tokenizer is not None:
        bridge.tokenizer.save_pretrained(place)
    if getattr(wrapped, "generation_config", None) is not None:
        wrapped.generation_config.save_pretrained(place)


def _shaped(found: Tensor, like: Tensor) -> Tensor:
    return found.detach().reshape(like.shape).contiguous()


@torch.no_grad()
def _compare(bridge: Any, place: Path, dtype: torch.dtype) -> float:
    """Largest difference of logits between a fresh load and the edited bridge, on random tokens."""
    fresh = _hugging_face().from_pretrained(place, dtype=dtype).eval()
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, int(bridge.cfg.d_vocab), (2, 16), generator=generator)
    return float((fresh(tokens).logits.float() - bridge(tokens).float()).abs().max())


def _hugging_face() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM
