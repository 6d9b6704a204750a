"""Decoder rows of a sparse autoencoder, whichever library trained it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError


def decoder_rows(
    sae: Any, features: Sequence[int], hook_name: str | None = None
) -> tuple[Float[Tensor, "k *unit"], str, dict[str, str]]:
    """Return features' decoder rows, the hook name that they write to, and their provenance.

    - `sae`: any object with `W_dec` (features, d), a tensor or an array, and, without `hook_name`,
      the hook name in `cfg` or `cfg.metadata`, as SAELens's have: `hook_name_out`, where a
      transcoder writes to another hook point than it reads, or else `hook_name`.

    Rows over all heads at once, as of SAELens's for `hook_z`, come as (n_heads, d_head). Raises
    BadInputError on a feature or hook name that is not there.
    """
    rows = getattr(sae, "W_dec", None)
    if hasattr(rows, "__array__") and not isinstance(rows, Tensor):
        rows = torch.as_tensor(rows)
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        raise BadInputError(
            f"{type(sae).__name__} has no decoder W_dec of shape (features, d): it is no sparse "
            "autoencoder that can be read here."
        )
    wrong = [feature for feature in features if not 0 <= feature < len(rows)]
    if wrong:
        raise BadInputError(f"The autoencoder has features 0 to {len(rows) - 1}; got {wrong}.")
    told = {"matrix": "W_dec", "trained_on": _said(sae, "model_name")}
    told |= {"normalize_activations": _said(sae, "normalize_activations").removeprefix("none")}
    chosen = _by_head(sae, rows.detach()[list(features)])
    return chosen, hook_name or _hook_name(sae), {key: each for key, each in told.items() if each}


def _by_head(sae: Any, rows: Float[Tensor, "k d"]) -> Float[Tensor, "k *unit"]:
    """Rows in the shape of what stands at their hook point: (n_heads, d_head) at `hook_z`."""
    if _said(sae, "reshape_activations") != "hook_z":
        return rows
    d_head = getattr(sae, "d_head", None)
    if not isinstance(d_head, int):
        raise BadInputError(
            "The autoencoder is of hook_z, with all heads in one line, and until it has run it "
            "does not know how wide a head is. Set sae.d_head = model.cfg.d_head."
        )
    return rows.reshape(len(rows), -1, d_head)


def _hook_name(sae: Any) -> str:
    for field in ("hook_name_out", "hook_name"):
        if name := _said(sae, field):
            return name
    raise BadInputError(
        "The autoencoder does not say which hook point it was trained on: give hook_name=..."
    )


def _said(sae: Any, field: str) -> str:
    """What the config, or its metadata, says; "" where it says nothing."""
    cfg = getattr(sae, "cfg", None)
    for holder in (cfg, getattr(cfg, "metadata", None)):
        said = getattr(holder, field, None)
        if isinstance(said, str):
            return said
    return ""
