"""Decoder rows of a sparse autoencoder, whichever library trained it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from steerlens.errors import BadInputError


def decoder_rows(
    sae: Any, features: Sequence[int], hook_name: str | None = None
) -> tuple[Float[Tensor, "k d"], str]:
    """Return features' decoder rows and the hook name that they write to.

    `sae` is any object with `W_dec` (features, d) and, without `hook_name`, a
    `cfg.hook_name` or `cfg.metadata.hook_name`, as SAELens's have. Raises BadInputError on a
    feature or hook name that is not there.
    """
    rows = getattr(sae, "W_dec", None)
    if not isinstance(rows, Tensor) or rows.ndim != 2:
        raise BadInputError(
            f"{type(sae).__name__} has no decoder W_dec of shape (features, d): it is no sparse "
            "autoencoder that can be read here."
        )
    wrong = [feature for feature in features if not 0 <= feature < len(rows)]
    if wrong:
        raise BadInputError(f"The autoencoder has features 0 to {len(rows) - 1}; got {wrong}.")
    return rows.detach()[list(features)], hook_name or _hook_name(sae)


def _hook_name(sae: Any) -> str:
    cfg = getattr(sae, "cfg", None)
    for holder in (cfg, getattr(cfg, "metadata", None)):
        name = getattr(holder, "hook_name", None)
        if isinstance(name, str):
            return name
    raise BadInputError(
        "The autoencoder does not say which hook point it was trained on: give hook_name=..."
    )
