"""RepE, representation engineering: reading vectors by PCA, and three operators that control.

v is the first principal component, at length 1, of the pairs' differences at each block's output,
turned so that the positive side scores higher. At every token of a range of blocks

    linear        h' = h + c v
    piecewise     h' = h + c sign(hᵀv) v
    projection    h' = h - c (hᵀv) v

and, with `keep_norm`, h' is brought back to the length of h. Source: arXiv 2310.01405.

Confirmed (code): the last token as the one that is read, PCA on differences of pairs, lengths 1,
sign by the labels, linear and piecewise operators at the outputs of blocks, all tokens, norms not
restored by default, blocks 11 to 29 of 40 for emotions. The code's piecewise operator folds c into
v, so that it knows |c| alone; here, as in the paper, c below 0 pulls towards the middle. The code
leaves projection out; it is the paper's equation. Ours: differences are not centred (`pca` says
why), a share c of the projection, and c = 1 where the paper has a number for each model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from steerlens.contrast import Contrast, check_contrast
from steerlens.directions import Direction, find_directions
from steerlens.errors import BadInputError, UnknownNameError, nearest
from steerlens.host import Host
from steerlens.methods.signing import signed
from steerlens.names import hook_name
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.text import whole
from steerlens.transforms import Ablate, Add, KeepNorm, Piecewise, Transform
from steerlens.verbs import steer

Operator = Literal["linear", "piecewise", "projection"]
_MAKERS: dict[str, Callable[[Direction], Transform]] = {
    "linear": Add,
    "piecewise": Piecewise,
    "projection": Ablate,
}


@dataclass(frozen=True)
class Config:
    """RepE's choices."""

    operator: Operator = "linear"
    """How the vector acts."""
    coeff: float = 1.0
    """c: how long what is added is, in units of the stream, or the share that is removed."""
    layers: Sequence[int] | None = None
    """The blocks whose outputs are written; by default the paper's 11 to 29 of 40, to scale."""
    keep_norm: bool = False
    """Whether each token gets its length back."""
    read: Positions | None = None
    """Where sides are read; by default the last token of each text, completion and all."""
    positions: Positions = "every_token"
    """Where it acts."""


def blocks(n_layers: int) -> tuple[int, ...]:
    """Return the blocks that are written by default: 11 to 29 of 40, for a model of n layers.

    >>> blocks(40)[0], blocks(40)[-1], blocks(6)
    (11, 29, (2, 3, 4))
    """
    first, last = round(11 / 40 * n_layers), round(29 / 40 * n_layers)
    return tuple(range(min(first, n_layers - 1), min(last, n_layers - 1) + 1))


def fit(
    model: Host,
    data: Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the steering by reading vectors of a paired contrast, at a range of blocks.

    Raises BadInputError on unpaired sides and on layers that are none, UnknownNameError on another
    operator, and as `find_directions`. Cost: one pass an item up to the highest block, and an SVD
    of (pair, d_model) a block.

    >>> fit(model, contrast, Config(layers=[2], coeff=4), progress=False)
    Steering(4 * add('repe') @ blocks.2.hook_resid_post[every_token])
    """
    if config.operator not in get_args(Operator):
        raise UnknownNameError(
            f"RepE has no operator {config.operator!r}. "
            f"{nearest(config.operator, _MAKERS).capitalize()}."
        )
    check_contrast(data, "RepE is fitted on")
    layers = blocks(model.cfg.n_layers) if config.layers is None else tuple(config.layers)
    if not layers:
        raise BadInputError("RepE acts on one block or more; the list of layers is empty.")
    if not data.paired:
        raise BadInputError("RepE reads differences of pairs; give a paired Contrast.")
    found = find_directions(
        model,
        data if config.read is not None else _ended(model, data),
        "pca",
        hook_names=[hook_name("resid_post", layer) for layer in layers],
        positions="last_prompt_token" if config.read is None else config.read,
        name="repe",
        quality=False,
        progress=progress,
    )
    made = [_MAKERS[config.operator](each.unit()) for each in found.values()]
    if config.keep_norm:
        made = [cast(Transform, KeepNorm(each)) for each in made]
    steering = steer(made, coeff=config.coeff, positions=config.positions)
    return signed(steering, made_by(model, "repe", config, data.digest))


def _ended(model: Host, data: Contrast) -> Contrast:
    """The contrast with every text as all prompt, so that its last token is the prompt's."""
    sides = (whole(model, side) for side in (data.positive, data.negative))
    return Contrast(*sides, paired=data.paired)
