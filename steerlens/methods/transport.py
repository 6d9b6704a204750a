"""What the methods that carry one distribution to another share: where, and how far it is.

Entries are taken one by one. Between two sets of numbers the best coupling pairs them in order;
sets of different sizes are coupled exactly, by splitting the mass of each number.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.components import Components
from steerlens.errors import BadInputError
from steerlens.host import HookNames, Host, check_written, hook_names

Coupled = tuple[Float[Tensor, "step *unit"], Float[Tensor, "step *unit"], Float[Tensor, " step"]]
"""Paired source and target values, ascending, and the share of the mass of each pair."""


def places(model: Host, sites: HookNames | None) -> list[str]:
    """Return the hook points to steer: those given, or the papers' choice.

    The papers hook the norms after the blocks (Gemma-2): here `attn_out` and `mlp_out`, which
    stand after them. A model without such norms is steered at `resid_post`. Raises
    UnknownNameError or HookError on a hook point that cannot be steered.
    """
    if sites is None:
        parts = Components(model)
        after = [parts.norm_name(0, block) is not None for block in ("attn", "mlp")]
        sites = ("attn_out", "mlp_out") if all(after) else "resid_post"
    found = list(dict.fromkeys(hook_names(model, sites)))
    for name in found:
        check_written(model, name)
    return found


def check_share(coeff: float) -> None:
    """Raise BadInputError on a strength outside of 0 to 1: before the fit, not after it."""
    if not 0 <= coeff <= 1:
        raise BadInputError(
            f"The strength of a transport, coeff, is a share from 0 to 1; got {coeff}."
        )


def coupled(
    source: Float[Tensor, "source *unit"], target: Float[Tensor, "target *unit"]
) -> Coupled:
    """Return the best coupling of two sets, entry by entry; gradients pass through.

    For sets of one size these are the sorted values, each of the same share.

    >>> coupled(torch.tensor([3.0, 1.0]), torch.tensor([5.0, 7.0]))
    (tensor([1., 3.]), tensor([5., 7.]), tensor([0.5000, 0.5000]))
    >>> coupled(torch.tensor([3.0, 1.0]), torch.tensor([5.0]))[1]
    tensor([5., 5.])
    """
    n, m = len(source), len(target)
    starts: Tensor = torch.unique(torch.cat([torch.arange(n) * m, torch.arange(m) * n]))
    shares = torch.diff(starts, append=torch.tensor([n * m])) / (n * m)
    first, second = (starts // m).to(source.device), (starts // n).to(target.device)
    return (
        source.sort(0).values[first],
        target.sort(0).values[second],
        shares.to(source.device, source.dtype),
    )


def wasserstein(
    source: Float[Tensor, "source *unit"], target: Float[Tensor, "target *unit"]
) -> Float[Tensor, ""]:
    """Return W_2 squared between two sets, entry by entry, mean over the entries.

    >>> wasserstein(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]]))
    tensor(4.)
    """
    x, y, shares = coupled(source, target)
    return ((x - y) ** 2).flatten(1).mean(1) @ shares
