"""Attribution patching: what a component's difference does to a metric, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.attribution.sides import input_name
from steerlens.cards import count
from steerlens.components import Place
from steerlens.errors import BadInputError
from steerlens.host import FwdHooks, Host
from steerlens.passes import one_pass
from steerlens.positions import Mask
from steerlens.reading import Passages
from steerlens.text import Batch

Metric = Callable[[Float[Tensor, "row d_vocab"]], Float[Tensor, " row"]]
"""(row, d_vocab) float32 logits at each item's last token -> a number a row, through torch."""


def gradients(
    model: Host,
    side: Passages,
    differences: Mapping[Place, Float[Tensor, " unit *d_head"]],
    metric: Metric,
    *,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> dict[Place, Float[Tensor, " unit"]]:
    """Return each component's gradient times its difference, mean over the side's items.

    The derivative of the metric in a share s, where s times the component's difference is added
    to what goes into it at every position picked (attribution patching, Nanda 2023; Syed et al.,
    arXiv 2310.10348): all components in one backward pass a batch. Weights take no part: their
    gradients are neither computed nor touched. Raises BadInputError where the metric gives
    anything but one finite number a row, or one that no gradient reaches. Cost: a forward and a
    backward pass an item.
    """
    bar = tqdm(total=len(side), desc="gradients", disable=not progress)
    with bar, torch.inference_mode(False), torch.enable_grad(), frozen(model):
        sums = {place: torch.zeros(len(each)).double() for place, each in differences.items()}
        # what was read in inference mode cannot be saved for a backward pass; its clone can
        differences = {place: each.clone() for place, each in differences.items()}
        for rows, batch, mask in side.batches(batch_tokens):
            for place, found in _gradients(model, batch, mask, differences, metric).items():
                sums[place] += found.double().cpu()
            bar.update(len(rows))
        return {place: (each / len(side)).float() for place, each in sums.items()}


def _gradients(
    model: Host, batch: Batch, mask: Mask, differences: Mapping[Place, Tensor], metric: Metric
) -> dict[Place, Tensor]:
    """Sums over a batch's rows."""
    device = batch.tokens.device
    shares = {
        place: torch.zeros(len(each), device=device, requires_grad=True)
        for place, each in differences.items()
    }
    hooks: FwdHooks = [
        (input_name(place), _moving(share, differences[place], mask))
        for place, share in shares.items()
    ]
    logits = one_pass(model, batch, hooks)
    last = batch.real.sum(1).to(logits.device) - 1
    values = metric(logits[torch.arange(len(last), device=last.device), last].float())
    _check_metric(values, len(last))
    found = torch.autograd.grad(values.sum(), list(shares.values()))
    return dict(zip(shares, found, strict=True))


def _moving(
    share: Float[Tensor, " unit"], difference: Float[Tensor, " unit *d_head"], mask: Mask
) -> Callable[..., Tensor]:
    """A hook that adds each component's share of its difference, where the mask is True."""

    def move(activation: Tensor, hook: Any) -> Tensor:
        place = activation.device
        shares = share.to(place).reshape(-1, *[1] * (difference.ndim - 1))
        picked = mask.to(place).reshape(*mask.shape, *[1] * difference.ndim)
        change = torch.where(picked, shares * difference.to(place), 0)
        return activation + change.to(activation.dtype)

    return move


def _check_metric(values: object, rows: int) -> None:
    if not isinstance(values, Tensor) or values.shape != (rows,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadInputError(
            f"The metric takes logits (row, d_vocab) and gives one number a row, here of shape "
            f"({rows},); it gave {got}."
        )
    if not values.requires_grad:
        raise BadInputError(
            "No gradient reaches the metric's numbers: they do not follow the logits through "
            "torch (argmax, .item() and .detach() cut it). Take a difference of logits or "
            "log-probabilities."
        )
    if not bool(values.isfinite().all()):
        wrong = count(int((~values.isfinite()).sum()), "row")
        raise BadInputError(
            f"The metric is not finite (NaN or infinity) in {wrong} of {rows}. Does it divide by "
            "0, or take its logarithm?"
        )


@contextmanager
def frozen(model: Host) -> Iterator[None]:
    """Let no weight require a gradient while it lasts, so that none is stored for them."""
    inner = getattr(model, "original_model", None)
    every = [*model.parameters(), *(inner.parameters() if inner is not None else ())]
    trained = [each for each in every if each.requires_grad]
    try:
        for each in trained:
            each.requires_grad_(False)
        yield
    finally:
        for each in trained:
            each.requires_grad_(True)
