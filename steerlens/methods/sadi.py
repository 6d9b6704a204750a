"""SADI: the units that tell two sides apart are scaled up, by the input's own activations.

D is the mean difference of the two sides at the last token of question and answer; the mask M
marks the K units of all layers where D is largest. At the last prompt token

    mode "scale":   A' = A + delta (A * M),   strength = 1 + delta
    mode "pin":     A' = A0 with the entries of M times strength, A0 of a clean pass

Source: Wang, Yang and Peng, arXiv 2410.12299 (ICLR 2025), and their code. Confirmed: difference,
global ranking by signed value, sites, positions, both forms, grids. The equation is `scale`; the
released code runs `pin`, which also holds every entry that is not selected, in every layer, at
what it was, so that nothing cascades through the site at that token. Ours: `score="norm"`,
`positions="predicting"`, small strengths, choice on validation items (the paper reports the best
of the grid on the test set, so it has no defaults: k and strength here lie in all its grids), and
what the vector of `fixed` is. Two sites differ from the code: where a norm follows the MLP
(Gemma-2), "hidden" is read after it; and of a gated MLP's neurons `pin` holds the product, the
code only what the activation function gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isfinite
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.contrast import Contrast
from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.evaluation.tasks import Task, check_task, one_of
from steerlens.host import Host, hook_names
from steerlens.methods.choosing import Chosen, alike, mean_by_row
from steerlens.methods.ends import at_ends, prompts_of
from steerlens.methods.masks import HOOKS, Mask, Score, Site, difference, mask_of
from steerlens.methods.masks import random_mask as random_mask
from steerlens.methods.signing import signed
from steerlens.positions import Positions
from steerlens.provenance import made_by, worded
from steerlens.steering import Steering
from steerlens.text import Item
from steerlens.transforms import Replace, Scale
from steerlens.verbs import add, steer

Mode = Literal["scale", "pin"]
_HIDDEN = (1, *range(2, 21, 2))
KS: dict[str, tuple[int, ...]] = {
    "head": (1, 2, 4, 6, 8, 10),
    "neuron": (3, 5, 10, 30, 50, 100, 200, 300, 400, 500),
    "hidden": _HIDDEN,
    "resid_post": _HIDDEN,
}
"""The paper's numbers of units, by site."""
_STRENGTHS = tuple(map(float, range(5, 81, 5)))
STRENGTHS: dict[str, tuple[float, ...]] = {
    "head": _STRENGTHS,
    "neuron": (10.0, 20.0, 30.0, 50.0, 70.0, 90.0),
    "hidden": _STRENGTHS,
    "resid_post": _STRENGTHS,
}
"""The paper's strengths, by site."""
SMALL = (1.5, 2.0, 3.0, 4.0, 5.0)
"""Strengths for small models, where the paper's write more than the stream holds."""


@dataclass(frozen=True)
class Config:
    """SADI's choices."""

    site: Site = "head"
    """What is masked: "head", "neuron", "hidden" (the MLP's output, as in the code), or
    "resid_post" (hidden states, as the paper words it)."""
    k: int = 10
    """How many units are selected, over all layers."""
    strength: float = 10.0
    """1 + delta: what selected entries are multiplied by."""
    score: Score = "mean"
    """How a unit is ranked: a head by the mean of its difference, others by its signed value; or
    (ours) by its norm, which of a single value is its size."""
    mode: Mode = "scale"
    """"scale", the paper's equation, or "pin", its code, for known prompts."""
    positions: Positions = "last_prompt_token"
    """Where entries are scaled; "predicting" (ours) goes on at every generated token."""

    def __post_init__(self) -> None:
        """Raise UnknownNameError on another site, score or mode, BadInputError on a bad value."""
        for field, known in (("site", Site), ("score", Score), ("mode", Mode)):
            one_of(field, getattr(self, field), get_args(known))
        if self.k < 1 or not isfinite(self.strength):
            raise BadInputError(
                f"SADI selects 1 unit or more and multiplies by a finite strength; got k={self.k} "
                f"and strength={self.strength}."
            )
        if self.mode == "pin" and self.positions != "last_prompt_token":
            raise BadInputError(
                "mode='pin' overwrites the last prompt token with what a clean pass gave there; it "
                f"cannot be at {self.positions!r}. Leave positions out, or use mode='scale'."
            )


def identify(
    model: Host, contrast: Contrast, config: Config = Config(), *, progress: bool = True
) -> Mask:
    """Return the mask of the `config.k` units of highest score, all layers ranked together.

    Neurons of a gated MLP are ranked by what its activation function gives, before the product.
    Raises BadInputError where fewer than k score above 0. Cost: one forward pass an item.

    >>> identify(model, contrast, Config(k=2), progress=False)
    Mask(2 of 48 heads: L...; 4 pairs)
    """
    found = mask_of(model, contrast, config.site, config.score, config.k, progress)
    return replace(found, provenance=made_by(model, "sadi", config, contrast.digest))


def fit(
    model: Host, data: Contrast, config: Config = Config(), *, progress: bool = True
) -> Steering:
    """Return the steering that scales the units found, by the paper's equation.

    Its coefficient is delta. Raises as `identify`, and BadInputError for mode "pin", which is made
    for known prompts. Cost: one forward pass an item.

    >>> fit(model, contrast, Config(k=1, strength=3), progress=False)
    Steering(2 * scale(16 of 128 entries) @ blocks...attn.hook_z[last_prompt_token])
    """
    if config.mode == "pin":
        raise BadInputError(
            "mode='pin' stores a clean pass over the prompts that are steered. Call "
            "sadi.for_prompts(model, prompts, sadi.identify(model, contrast, config), config)."
        )
    return scaling(identify(model, data, config, progress=progress), config)


def scaling(mask: Mask, config: Config = Config()) -> Steering:
    """Return the steering that multiplies the entries of a mask by `config.strength`.

    Also for a placebo: `scaling(random_mask(mask, seed), config)`. The mask's site and size count,
    whatever `config` says of them, and no `mode`: what is pinned is made by `for_prompts`.

    >>> mask = identify(model, contrast, Config(k=1), progress=False)
    >>> scaling(random_mask(mask), Config(strength=1.5))
    Steering(0.5 * scale(16 of 128 entries) @ blocks...attn.hook_z[last_prompt_token])
    """
    parts = [Scale(mask.at(layer).float(), mask.hook_name(layer)) for layer in mask.layers]
    found = steer(parts, coeff=config.strength - 1, positions=config.positions)
    return signed(found, _made(mask, config, "scale"))


def for_prompts(
    model: Host, prompts: Iterable[Item], mask: Mask, config: Config = Config()
) -> Steering:
    """Return the steering of the released code, for these prompts as the rows of a batch.

    One clean pass; then, in every layer, the whole site is overwritten at the last prompt token
    with its clean values, those of the mask times `config.strength`. Items may have completions,
    which are left out. Raises BadInputError without prompts. Cost: one forward pass a prompt, and
    in memory a vector a layer and prompt.

    >>> mask = identify(model, contrast, Config(k=1), progress=False)
    >>> for_prompts(model, ["a good day", "the cat"], mask).layers(5)
    Steering(1 * replace(2 stored rows) @ blocks.5.attn.hook_z[last_prompt_token])
    """
    made = _made(mask, config, "pin")  # refuses positions that cannot be pinned
    return signed(_pinned(_clean(model, prompts, mask.site), mask, config.strength), made)


def fixed(
    model: Host,
    contrast: Contrast,
    mask: Mask,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the paper's ablation: a fixed vector on the entries of the mask, not the input's own.

    Adds delta (D * M), D the mean difference of the contrast at the steered site: the same for
    every input. Which vector the paper fixes is not said in what we could read. Raises as
    `identify`. Cost: one forward pass an item.

    >>> mask = identify(model, contrast, Config(k=1), progress=False)
    >>> fixed(model, contrast, mask, Config(strength=3), progress=False)
    Steering(2 * add('sadi fixed') @ blocks...attn.hook_z[last_prompt_token])
    """
    found = difference(model, contrast, mask.site, progress=progress).float()
    parts = [
        Direction(mask.hook_name(layer), found[layer] * mask.at(layer), name=f"{mask.name} fixed")
        for layer in mask.layers
    ]
    steering = add(parts, config.strength - 1, positions=config.positions)
    return signed(steering, _made(mask, config, "scale") | {"form": "fixed vector"})


def _made(mask: Mask, config: Config, mode: Mode) -> dict[str, str]:
    """The provenance of what is made of a mask: its own site and size are what was used."""
    used = replace(config, site=mask.site, k=mask.k, mode=mode)
    found = {"identified": mask.provenance["config"]} if "config" in mask.provenance else {}
    return {**mask.provenance, **found, "config": worded(used)}


def grid(
    config: Config = Config(),
    ks: Iterable[int] | None = None,
    strengths: Iterable[float] | None = None,
) -> tuple[Config, ...]:
    """Return configurations over K and strength, the rest as in `config`.

    By default the paper's grid of that site, with small strengths besides.

    >>> len(grid()), len(grid(Config(site="neuron"), ks=(10, 50)))
    (120, 22)
    """
    ks = KS[config.site] if ks is None else ks
    strengths = sorted({*SMALL, *STRENGTHS[config.site]}) if strengths is None else strengths
    return tuple(replace(config, k=k, strength=s) for k, s in product(ks, strengths))


def choose(
    model: Host,
    data: Contrast,
    task: Task,
    configs: Sequence[Config],
    *,
    progress: bool = True,
) -> Chosen:
    """Return the configuration of the highest mean score on a task's items.

    Give validation items, and report on others: the best of a grid is a maximum over chance too.
    Units are ranked once a site and score. Ties go to the weaker change, then to fewer units.
    Raises BadInputError without configurations, and as `identify`. Cost: the task's passes once a
    configuration; in mode "scale" all strengths share a pass, in mode "pin" items go one by one.

    >>> from steerlens.evaluation import Choice, MultipleChoice
    >>> task = MultipleChoice("words", [Choice("a good", [" day", " cat"], [0])])
    >>> choose(model, contrast, task, grid(ks=[1], strengths=[2, 5]), progress=False).items
    1
    """
    check_task(task, "task")
    if not configs:
        raise BadInputError("There is nothing to choose from: give sadi.grid() or some of it.")
    masks: dict[tuple[str, str], Mask] = {}
    clean: dict[str, list[Tensor]] = {}
    for each in configs:
        key = each.site, each.score
        if key not in masks:
            most = max(other.k for other in configs if (other.site, other.score) == key)
            masks[key] = identify(model, data, replace(each, k=most), progress=progress)
        if each.mode == "pin" and each.site not in clean:
            clean[each.site] = _clean(model, task.prompts, each.site)
    found = [0.0] * len(configs)
    groups = alike(configs, strength=2.0)
    for shared, group in tqdm(groups, desc="configurations", disable=not progress):
        strengths = [configs[place].strength for place in group]
        mask = masks[shared.site, shared.score].top(shared.k)
        if shared.mode == "scale":
            deltas = [each - 1 for each in strengths]
            means = task.scores(model, scaling(mask, shared), deltas).mean.tolist()
        else:
            rows = clean[shared.site]
            means = [mean_by_row(model, task, _pinned(rows, mask, each)) for each in strengths]
        for place, mean in zip(group, means, strict=True):
            found[place] = mean
    tried = tuple(zip(configs, found, strict=True))
    best, score = max(tried, key=_merit)
    return Chosen(best, score, float(task.scores(model).mean[0]), tried, len(task))


def _merit(tried: tuple[Config, float]) -> tuple[float, float, int]:
    """What is compared: the score (one that is not a number is lowest), the weaker, the fewer."""
    config, score = tried
    return score if score == score else -float("inf"), -abs(config.strength - 1), -config.k


def _clean(model: Host, prompts: Iterable[Item], site: Site) -> list[Float[Tensor, "row *unit"]]:
    """What stands at a site at each prompt's last token, layer by layer, in one clean pass."""
    asked = prompts_of(model, prompts)
    names = hook_names(model, HOOKS[site])
    found = at_ends(model, asked, names, len(asked), False)
    return [found.examples[name] for name in names]


def _pinned(clean: Sequence[Float[Tensor, "row *unit"]], mask: Mask, strength: float) -> Steering:
    """The site overwritten in every layer with clean values, those of the mask times strength."""
    parts = [
        Replace(torch.where(mask.at(layer), strength * rows, rows), hook_name=mask.hook_name(layer))
        for layer, rows in enumerate(clean)
    ]
    return steer(parts, positions="last_prompt_token")
