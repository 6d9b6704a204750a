"""CAA, contrastive activation addition: h + m v at one layer, after the prompt.

v is the mean over pairs of a(positive) - a(negative) at one layer's `resid_post`, not normalised,
read at the completion; it is added at every token after the prompt. Source: arXiv 2312.06681.

Confirmed (paper and code): site, mean difference, multiplier, positions strictly after the
instruction. Ours: read over all of a completion (in the paper it is the one letter of an answer),
and the layer where none is given, 45% of the way up (the paper's 13 to 15 of 32).
"""

from __future__ import annotations

from dataclasses import dataclass

from steerlens.contrast import Contrast
from steerlens.directions import find_directions
from steerlens.host import Host
from steerlens.methods.signing import signed
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.verbs import add


@dataclass(frozen=True)
class Config:
    """CAA's choices."""

    layer: int | None = None
    """Where the vector is read and added; by default 45% of the way up."""
    coeff: float = 1.0
    """m: the paper sweeps -3 to 3."""
    read: Positions | None = None
    """Where sides are read; by default the completion, or an item's last token."""
    positions: Positions = "generated"
    """Where the vector is added."""


def fit(
    model: Host,
    data: Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the steering that adds the mean difference of a contrast at one layer.

    Raises as `find_directions`. Cost: one forward pass an item, up to the layer.

    >>> fit(model, contrast, Config(layer=2, coeff=4), progress=False)
    Steering(4 * add('caa') @ blocks.2.hook_resid_post[generated])
    """
    layer = round(0.45 * (model.cfg.n_layers - 1)) if config.layer is None else config.layer
    found = find_directions(
        model,
        data,
        hook_names=f"blocks.{layer}.hook_resid_post",
        positions=config.read,
        name="caa",
        quality=False,
        progress=progress,
    )
    steering = add(found, config.coeff, positions=config.positions)
    return signed(steering, made_by(model, "caa", config, data.digest))
