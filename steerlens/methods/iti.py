"""ITI, inference-time intervention: z + alpha sigma theta at the heads that tell sides apart best.

A logistic probe reads each head's z at the last token of question and answer; heads are ranked by
its held-out accuracy, and K of all layers are kept. theta is the unit vector along the difference
of the sides' means, sigma the standard deviation of all activations along it:

    z_h' = z_h + alpha sigma_h theta_h      at the last token of every step

Source: Li et al., arXiv 2306.03341, and their code (honest_llama). Confirmed: site, probe, mass
mean, sigma over both sides, alpha = 15, K = 48 (of LLaMA-7B's 1024 heads), positions. Ours: the
accuracy is that of five folds and of both sides alike (the paper has one split); heads of equal
accuracy are ranked by the distance of the means in sigmas; and where K is not given it is at most
a quarter of the model's heads (Steerling: 12 of 48).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.attribution.probing import FEWEST, folds, head_accuracy
from steerlens.contrast import Contrast, check_contrast, warn_of_repeats
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.host import Host, dtype_of, hook_names
from steerlens.methods.ends import at_ends
from steerlens.methods.signing import signed
from steerlens.moments import rounding
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.verbs import add

HEADS = 48
"""K of the paper."""
LARGEST_SHARE = 0.25
"""Of a model's heads, where K is not given."""


@dataclass(frozen=True)
class Config:
    """ITI's choices."""

    k: int | None = None
    """How many heads; by default the paper's 48, but a quarter of the model's heads at most."""
    alpha: float = 15.0
    """How many standard deviations a head is moved."""
    positions: Positions = "predicting"
    """Where heads are moved: the last token of every step."""
    max_examples: int = 1024
    """Items a side that probes, means and deviations are fitted on, at most."""
    seed: int = 0
    """Of the probes' folds."""

    def __post_init__(self) -> None:
        """Raise BadInputError on a K below 1 or an alpha that is not finite."""
        if (self.k is not None and self.k < 1) or not isfinite(self.alpha):
            raise BadInputError(
                f"ITI moves 1 head or more by a finite alpha; got k={self.k}, alpha={self.alpha}."
            )


@dataclass(frozen=True, eq=False)
class Heads:
    """What a fit finds of every head, and which ones it takes."""

    accuracy: Float[Tensor, "layer head"]
    """Held-out, of a logistic probe; 0.5 is chance."""
    vectors: Float[Tensor, "layer head d_head"]
    """sigma theta."""
    chosen: Bool[Tensor, "layer head"]


def fit(
    model: Host, data: Contrast, config: Config = Config(), *, progress: bool = True
) -> Steering:
    """Return the steering that moves the best heads along their difference of means.

    One addition a layer, of a vector (n_heads, d_head) that is 0 at other heads; its coefficient
    is alpha. Raises as `probed`. Cost: one forward pass an item, and five small fits a head.

    >>> fit(model, contrast, Config(k=1), progress=False)
    Steering(15 * add('iti') @ blocks...attn.hook_z[predicting])
    """
    heads = probed(model, data, config, progress=progress)
    source = made_by(model, "iti", config, data.digest)
    parts = [
        Direction(
            name,
            heads.vectors[layer] * heads.chosen[layer][:, None],
            name="iti",
            items=data.counted,
            provenance=source,
        )
        for layer, name in enumerate(hook_names(model, "z"))
        if bool(heads.chosen[layer].any())
    ]
    return signed(add(parts, config.alpha, positions=config.positions), source)


def probed(
    model: Host, contrast: Contrast, config: Config = Config(), *, progress: bool = True
) -> Heads:
    """Return every head's held-out accuracy and sigma theta, and which heads are chosen.

    Raises BadInputError on anything but a contrast, fewer than 4 items a side, more heads asked
    for than there are, and sides that no head tells apart.

    >>> heads = probed(model, contrast, Config(k=3), progress=False)
    >>> heads.accuracy.shape, int(heads.chosen.sum())
    (torch.Size([6, 8]), 3)
    """
    check_contrast(contrast, "ITI is fitted on")
    if min(len(contrast.positive), len(contrast.negative)) < FEWEST:
        raise BadInputError(
            f"ITI ranks heads by held-out accuracy, for which {contrast!r} is too small: give "
            f"{FEWEST} items a side or more."
        )
    warn_of_repeats(contrast.positive, contrast.negative)
    names = hook_names(model, "z")
    up, down = (
        at_ends(model, side, names, config.max_examples, progress)
        for side in (contrast.positive, contrast.negative)
    )
    parts = folds(len(up.rows), len(down.rows), paired=contrast.paired, seed=config.seed)
    accuracy, vectors, apart = [], [], []
    for name in tqdm(names, desc="probes", disable=not progress):
        sides = up.examples[name], down.examples[name]
        accuracy.append(head_accuracy(*sides, parts))
        found, distance = moves(*sides, dtype_of(model))
        vectors.append(found)
        apart.append(distance)
    ranks = torch.stack(accuracy), torch.stack(apart)
    if not bool(ranks[1].any()):
        raise BadInputError(
            "Both sides read the same at every head, at the last token of the text. Give texts "
            "that end differently, such as (question, answer) items."
        )
    return Heads(ranks[0], torch.stack(vectors), best(*ranks, config.k))


def moves(
    positive: Float[Tensor, "positive head d_head"],
    negative: Float[Tensor, "negative head d_head"],
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "head d_head"], Float[Tensor, " head"]]:
    """Return sigma theta of each head, and how many sigmas the sides' means lie apart.

    theta is the unit vector along the difference of means, sigma the standard deviation of all
    activations of both sides along it; a head whose means are the same, but for rounding in the
    model's dtype, gets 0.

    >>> moves(torch.tensor([[[3.0, 0.0]]]), torch.tensor([[[1.0, 0.0]]]))
    (tensor([[1., 0.]]), tensor([2.]))
    """
    mean = positive.mean(0)
    gap = mean - negative.mean(0)
    length = gap.norm(dim=-1)
    least = rounding(dtype, min(len(positive), len(negative))) * mean.norm(dim=-1)
    length = torch.where(length > least, length, 0)
    theta = torch.where(length[:, None] > 0, gap / length.clamp_min(1e-30)[:, None], 0)
    along = torch.einsum("nhd,hd->nh", torch.cat([positive, negative]), theta)
    sigma = along.std(0, correction=0)
    apart = torch.where(length > 0, length / sigma.clamp_min(1e-30), 0)
    return sigma[:, None] * theta, apart


def best(
    accuracy: Float[Tensor, "layer head"], apart: Float[Tensor, "layer head"], k: int | None = None
) -> Bool[Tensor, "layer head"]:
    """Return the mask of the `k` heads of highest accuracy; ties by the distance of the means.

    Without `k`, 48 heads, or a quarter of all where that is fewer (1 at least). Raises
    BadInputError where there are fewer than k.

    >>> best(torch.tensor([[0.9, 0.8, 0.9, 0.5]]), torch.tensor([[1.0, 9.0, 2.0, 9.0]]), 1)
    tensor([[False, False,  True, False]])
    """
    total = accuracy.numel()
    if k is None:
        k = min(HEADS, max(1, int(LARGEST_SHARE * total)))
    if k > total:
        raise BadInputError(f"The model has {total} heads; got k={k}. Choose a smaller k.")
    by_distance = apart.flatten().argsort(descending=True, stable=True)
    order = by_distance[accuracy.flatten()[by_distance].argsort(descending=True, stable=True)]
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[order[:k]] = True
    return chosen.reshape(accuracy.shape)
