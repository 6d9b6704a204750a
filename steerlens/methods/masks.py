"""Masks over a model's heads, neurons or hidden units: which of them tell two sides apart most.

The units of all layers are ranked together by how much more active they are on the positive side,
at the last token of question and answer (SADI, arXiv 2410.12299).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import count
from steerlens.components import Components
from steerlens.contrast import Contrast, check_contrast
from steerlens.errors import BadInputError
from steerlens.host import Host, hook_names
from steerlens.methods.ends import at_ends
from steerlens.moments import Moments, merge
from steerlens.names import hook_name
from steerlens.text import Item

Site = Literal["head", "neuron", "hidden", "resid_post"]
"""What is masked: a head's z, MLP neurons, entries of the MLP's output, or of the stream."""
Score = Literal["mean", "norm"]
HOOKS: dict[str, str] = {
    "head": "z",
    "neuron": "mlp_post",
    "hidden": "mlp_out",
    "resid_post": "resid_post",
}
"""Where each site is steered."""
_NOUNS = {"head": "head", "neuron": "neuron", "hidden": "hidden unit", "resid_post": "entry"}
_LETTERS = {"head": "H", "neuron": "N", "hidden": "D", "resid_post": "D"}
_CHUNK = 64
"""Items whose neurons are kept at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class Mask:
    """The units that are selected, of all layers, and the scores they were ranked by."""

    site: Site
    chosen: Bool[Tensor, "layer unit"]
    scores: Float[Tensor, "layer unit"]
    unit_shape: tuple[int, ...]
    """The shape of an activation: (n_heads, d_head) at heads, else (d,)."""
    items: str = ""
    """What it was found in: "64 pairs"."""
    name: str = "sadi"
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise BadInputError where what is chosen and the scores are not of the same units."""
        if self.chosen.shape != self.scores.shape:
            shapes = tuple(self.chosen.shape), tuple(self.scores.shape)
            raise BadInputError(f"A mask and its scores are (layer, unit) both; got {shapes}.")

    @property
    def k(self) -> int:
        """How many units are selected."""
        return int(self.chosen.sum())

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that hold a selected unit."""
        return tuple(self.chosen.any(1).nonzero().flatten().tolist())

    @property
    def units(self) -> tuple[tuple[int, int], ...]:
        """(layer, unit) of the selected ones, best first; ties by layer, then unit."""
        width = self.chosen.shape[1]
        order = _order(self.scores)
        picked = order[self.chosen.flatten()[order]].tolist()
        return tuple((place // width, place % width) for place in picked)

    def hook_name(self, layer: int) -> str:
        """Return the hook point that the mask lies over at a layer."""
        return hook_name(HOOKS[self.site], layer)

    def at(self, layer: int) -> Bool[Tensor, "*unit"]:
        """Return the mask of a layer in the shape of an activation: a head is all in or all out."""
        row = self.chosen[layer]
        return row[:, None].expand(self.unit_shape) if self.site == "head" else row

    def top(self, k: int) -> Mask:
        """Return the mask of the best `k` by the same scores. Raises as `ranked` does."""
        return replace(self, chosen=ranked(self.scores, k, _NOUNS[self.site]))

    def __repr__(self) -> str:
        """Return `Mask(2 of 48 heads: L3H5, L2H1; 64 pairs)`."""
        letter, noun = _LETTERS[self.site], _plural(_NOUNS[self.site])
        shown = [f"L{layer}{letter}{unit}" for layer, unit in self.units]
        more = [f"{len(shown) - 6} more"] if len(shown) > 6 else []
        found = f"; {self.items}" if self.items else ""
        listed = ", ".join(shown[:6] + more)
        return f"Mask({self.k} of {self.chosen.numel()} {noun}: {listed}{found})"


def mask_of(
    model: Host, contrast: Contrast, site: Site, score: Score, k: int, progress: bool
) -> Mask:
    """Return the mask of the `k` units that score highest, over all layers together.

    Raises BadInputError as `ranked` and `difference` do. Cost: one forward pass an item.
    """
    found = difference(model, contrast, site, before_product=True, progress=progress)
    scores = unit_scores(found, score)
    chosen = ranked(scores, k, _NOUNS[site])
    return Mask(site, chosen, scores.float(), tuple(found.shape[1:]), contrast.counted)


def random_mask(mask: Mask, seed: int = 0) -> Mask:
    """Return a placebo: as many units of the same site, drawn at random from all layers.

    >>> mask = Mask("head", torch.eye(3, 4).bool(), torch.eye(3, 4), (4, 8))
    >>> random_mask(mask, seed=1).k
    3
    """
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(mask.scores.shape, generator=generator)
    chosen = ranked(scores + 1, mask.k, _NOUNS[mask.site])
    name = f"random {seed}"
    source = {**mask.provenance, "placebo": name}
    return replace(mask, chosen=chosen, scores=scores, items="", name=name, provenance=source)


def unit_scores(
    difference: Float[Tensor, "layer *unit"], score: Score = "mean"
) -> Float[Tensor, "layer unit"]:
    """Return a number a unit: of a head the mean over its entries, or their norm.

    The mean depends on the basis inside a head, which the model leaves free; the norm does not.
    Of a neuron or a single entry the norm is its size, whatever the sign.

    >>> unit_scores(torch.tensor([[[3.0, -4.0]]]), "norm")
    tensor([[5.]])
    """
    if difference.ndim == 2:
        return difference.abs() if score == "norm" else difference
    return difference.norm(dim=-1) if score == "norm" else difference.mean(-1)


def ranked(
    scores: Float[Tensor, "layer unit"], k: int, noun: str = "unit"
) -> Bool[Tensor, "layer unit"]:
    """Return the mask of the `k` largest positive scores; ties by layer, then unit.

    Raises BadInputError where fewer than `k` scores are positive.

    >>> ranked(torch.tensor([[1.0, 3.0], [3.0, -9.0]]), 2)
    tensor([[False,  True],
            [ True, False]])
    """
    positive = int((scores > 0).sum())
    if not 0 < k <= positive:
        raise BadInputError(
            f"A mask selects 1 {noun} or more, of those that score above 0: {positive} of "
            f"{scores.numel()} do; got k={k}. Choose a smaller k, or score='norm'."
        )
    chosen = torch.zeros(scores.numel(), dtype=torch.bool)
    chosen[_order(scores)[:k]] = True
    return chosen.reshape(scores.shape)


def difference(
    model: Host,
    contrast: Contrast,
    site: Site,
    *,
    before_product: bool = False,
    progress: bool = True,
) -> Float[Tensor, "layer *unit"]:
    """Return the mean activation of the positive side minus the negative's, in every layer.

    Read at the last token of each text, answer included. With `before_product`, neurons of a gated
    MLP are read as the activation function gives them, before they are multiplied by what it lets
    through. Raises BadInputError on anything but a contrast, and where an MLP is a mixture of
    experts. Cost: one forward pass an item.

    >>> difference(model, contrast, "head", progress=False).shape
    torch.Size([6, 8, 16])
    """
    check_contrast(contrast, "SADI is fitted on")
    if site == "neuron" and not Components(model).has_neurons:
        raise BadInputError(
            "The MLPs are mixtures of experts, whose neurons have no one place each. Use "
            "site='head' or 'hidden'."
        )
    gated = (
        site == "neuron" and before_product and "blocks.0.mlp.hook_pre_linear" in model.hook_dict
    )
    names = hook_names(model, "mlp_pre" if gated else HOOKS[site])
    layers = range(len(names)) if gated else ()
    functions = [_activation_function(model, layer) for layer in layers]
    up, down = (
        _means(model, side, names, functions, progress)
        for side in (contrast.positive, contrast.negative)
    )
    return up - down


def _means(
    model: Host,
    items: Sequence[Item],
    names: list[str],
    functions: list[Callable[[Tensor], Tensor]],
    progress: bool,
) -> Float[Tensor, "layer *unit"]:
    """The mean over items at each hook point, of a function of what is read where one is given."""
    if not functions:
        read = at_ends(model, items, names, 1, progress)
        return torch.stack([read[name].mean for name in names])
    found: dict[str, Moments] = {}
    starts = range(0, len(items), _CHUNK)
    for start in tqdm(starts, desc="reading neurons", disable=not progress):
        part = at_ends(model, items[start : start + _CHUNK], names, _CHUNK, False)
        for name, function in zip(names, functions, strict=True):
            merge(found, name, Moments.of(function(part.examples[name])))
    return torch.stack([found[name].mean for name in names])


def _activation_function(model: Any, layer: int) -> Callable[[Tensor], Tensor]:
    """A gated MLP's own activation function, on either host."""
    mlp = model.blocks[layer].mlp
    for name in ("act_fn", "activation_fn"):
        found: Callable[[Tensor], Tensor] | None = getattr(mlp, name, None)
        if callable(found):
            return found
    raise BadInputError(
        f"Neurons are ranked by what the activation function of blocks.{layer}.mlp gives, and it "
        "has none by the name of act_fn. Use site='head' or 'hidden'."
    )


def _order(scores: Float[Tensor, "layer unit"]) -> Tensor:
    """Places of all units, highest score first, equal ones in the order of the model."""
    return scores.flatten().argsort(descending=True, stable=True)


def _plural(noun: str) -> str:
    return "entries" if noun == "entry" else count(2, noun).removeprefix("2 ")
