"""LinEAS, linear end-to-end activation steering: the maps of all layers are trained together.

At every hook point T(a) = w a + b, entry by entry, from w = 1 and b = 0. Source texts run with all
maps on; their pooled activations are compared with those of target texts, which run without:

    loss = sum over hook points of the mean over entries of W_2^2(steered source, target)

by sorted differences, through stochastic gradient descent. A token becomes s T(a) + (1 - s) a at
strength s, the steering's coefficient, from 0 to 1. With `l1` or `group`, each step is followed by
the proximal step of a sparse group lasso on w - 1 and b, which leaves most entries, or whole hook
points, as they are. Source: arXiv 2503.10679.

Confirmed (paper and the authors' code): maps and start, joint training, target unsteered, pooling
by the mean, sites, SGD with lr 0.1 and a cosine down to a tenth, 1,000 steps, 32 texts, the
proximal step. Their code sums over the n texts of a batch and takes the mean over the L hook
points; steps are taken as there. Ours: every hook point in units of its root mean square
(`units="raw"` for none), sets of different sizes coupled exactly, BOS neither read nor steered,
early stopping (off).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.contrast import Contrast
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.methods.data import Sets
from steerlens.methods.descent import Descent, Trained, descend
from steerlens.methods.signing import signed
from steerlens.methods.training import Live, gradients, matchings
from steerlens.methods.transport import check_share, places
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.verbs import steer


@dataclass(frozen=True)
class Config(Descent):
    """LinEAS's choices, beside those of any training."""

    l1: float = 0.0
    """Weight of the 1-norm of w - 1 and b: single entries are left alone (the paper's γ λ1)."""
    group: float = 0.0
    """Weight of their 2-norms, a hook point a group: layers are left alone (the paper's γ λG)."""

    def __post_init__(self) -> None:
        """Raise BadInputError on weights below 0, and on a strength that is no share."""
        super().__post_init__()
        check_share(self.coeff)
        if self.l1 < 0 or self.group < 0:
            raise BadInputError(f"l1 and group are 0 or more; got {self.l1} and {self.group}.")


def shrunk(vector: Float[Tensor, "*unit"], l1: float, group: float) -> Float[Tensor, "*unit"]:
    """Return the proximal step of l1 |v|_1 + group sqrt(d) |v|_2.

    >>> shrunk(torch.tensor([3.0, -0.5, 4.0]), l1=1.0, group=0.0)
    tensor([2., -0., 3.])
    """
    soft = vector.sign() * (vector.abs() - l1).clamp_min(0)
    length = soft.norm().clamp_min(torch.finfo(soft.dtype).tiny)
    kept: Tensor = soft * (1 - group * sqrt(soft.numel()) / length).clamp_min(0)
    return kept


def fit(
    model: Host,
    data: Sets | Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the steering that carries source activations onto the target's, trained end to end.

    As `train`, which also tells how the training went.

    >>> fit(model, contrast, Config(sites="blocks.2.hook_resid_post", steps=2), progress=False)
    Steering(1 * affine(... entries) @ blocks.2.hook_resid_post[everywhere])
    """
    return train(model, data, config, progress=progress).steering


def train(
    model: Host,
    data: Sets | Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Trained:
    """Return the steering of `fit` and the course of its training.

    A contrast is taken from its negative to its positive side. Weights are left as they are, with
    no gradients stored for them. Raises BadInputError where training diverges or sets are too
    small to hold texts out of them, UnknownNameError or HookError on a hook point that cannot be
    steered. Cost: one pass a target text, then `steps` passes over `batch` source texts, forward
    and backward.

    >>> trained = train(model, contrast, Config(steps=3), progress=False)
    >>> trained.course.losses["transport"].shape, trained.course.kept
    (torch.Size([3]), 3)
    """
    sets = Sets.read(data, "LinEAS")
    with gradients(model):
        both = matchings(model, sets, places(model, config.sites), config, progress)
        maps = both[0].maps()
        steering = steer(maps, positions=config.positions)
        generator = torch.Generator().manual_seed(config.seed)
        course = descend(
            [each for one in maps for each in (one.weight, one.bias)],
            lambda: {"transport": both[0](steering, generator)},
            config,
            scale=both[0].scale,
            held_out=(lambda: float(both[1](steering))) if len(both) > 1 else None,
            shrink=lambda rate: _shrink(maps, config, rate),
            name="LinEAS",
            progress=progress,
        )
    settled = [each.settled() for each in maps]
    found = steer(settled, coeff=config.coeff, positions=config.positions)
    return Trained(signed(found, made_by(model, "lineas", config, sets.digest)), course)


def _shrink(maps: list[Live], config: Config, rate: float) -> None:
    """The proximal step of every map, in place."""
    if config.l1 == config.group == 0:
        return
    for each in maps:
        for parameter, start in ((each.weight, 1.0), (each.bias, 0.0)):
            moved = shrunk(parameter - start, rate * config.l1, rate * config.group)
            parameter.copy_(moved + start)
