"""attribute: every head and neuron scored along a direction, in one streamed pass a side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.attribution.aims import aims
from steerlens.attribution.gradients import Metric, gradients
from steerlens.attribution.probing import Folds, folds, head_accuracy, neuron_accuracy
from steerlens.attribution.scores import Inputs, Writers, head_scores, neuron_scores
from steerlens.attribution.sides import Read, input_name, places, read
from steerlens.attribution.value import Attribution, Scores
from steerlens.components import Block, Components, Place, components
from steerlens.contrast import Contrast, check_contrast, warn_of_repeats
from steerlens.directions import Direction, Directions
from steerlens.directions.collection import listed
from steerlens.directions.finding import check_read_alike
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.reading import Passages


@dataclass(frozen=True)
class _Sides:
    """What was read of both sides, and how to leave items out."""

    parts: Components
    positive: Read
    negative: Read
    folds: Folds | None
    probes: bool

    def at(self, place: Place) -> tuple[Inputs, Inputs]:
        name = input_name(place)
        return self.positive.at(name), self.negative.at(name)

    def difference(self, place: Place) -> Tensor:
        """What goes in on the positive side, minus that on the negative side."""
        positive, negative = self.at(place)
        return (positive.mean - negative.mean).float()


def attribute(
    model: Host,
    contrast: Contrast,
    direction: Direction | Directions,
    *,
    positions: Positions | None = None,
    metric: Metric | None = None,
    max_examples: int = 512,
    probes: bool = True,
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Attribution:
    """Score every attention head and MLP neuron along a direction, in one pass a side.

    One direction serves every layer; of several, a block takes the one at its own output, else
    the one at its layer's `resid_post`. `positions` are read as in `collect`, pooled over each
    item. The scores, each (layer, head) or (layer, neuron), are told at `Scores`:

    - `contribution` and `mean_contribution`: over a layer's heads they sum to the block's mean
      output along the direction, less its bias. Where a norm follows the block (Gemma-2, OLMo-2)
      each token's output is taken through it with the scale that the whole block gave it there:
      so the sum stays exact, but taking a component away would change the scale for the others.
    - `importance`: Steer2Edit's g (arXiv 2602.09870). Where a norm follows, the direction is
      taken back through gain and centring to the output projection, where an edit would write;
      the paper's own choice there is a direction found before the norm (`scores.head_importance`).
    - `auc`, `gap`, `effect_size`, and with `probes` `accuracy`: what tells the sides apart, from
      at most `max_examples` items a side. `gap`, `effect_size` and `accuracy` of a head do not
      depend on the direction; nothing of a head depends on the basis inside it.
    - `gradient`, with a `metric` from (row, d_vocab) logits at each item's last token to a number
      a row: what adding the component's difference of means (positive minus negative) at the
      positions would do to the metric on the negative side, to first order (attribution
      patching, arXiv 2310.10348). A large difference may well do something else.

    A mixture of experts has heads only. Raises BadInputError on a direction that is none of the
    stream or lacks a layer, sides read at different positions, fewer than 2 examples, a metric
    that gives no number a row. Cost: a forward pass an item; with a metric a forward and backward
    pass a negative item more; with probes 5 logistic fits a head. Memory: at most `max_examples`
    vectors a side of every head and neuron, however many items there are, and a pass of
    `batch_tokens` (as in `collect`).

    >>> attribute(model, contrast, directions["resid_post", 2], progress=False)
    Attribution('direction', 48 heads, 2304 neurons, 4 pairs; importance L...)
    """
    check_contrast(contrast, "Components are scored on")
    _check_asked(metric, max_examples)
    if probes:
        warn_of_repeats(contrast.positive, contrast.negative)
    parts = components(model)
    wanted = places(parts)
    along = aims(parts, direction, wanted)
    items = [Passages(model, side, positions) for side in (contrast.positive, contrast.negative)]
    check_read_alike(*(repr(side.positions) for side in items))
    positive, negative = (
        read(
            parts,
            side,
            wanted,
            max_examples=max_examples,
            batch_tokens=batch_tokens,
            seed=seed,
            progress=progress,
        )
        for side in items
    )
    sizes = [len(each.inputs.rows) for each in (positive, negative)]
    parted = folds(*sizes, paired=contrast.paired, seed=seed)
    sides = _Sides(parts, positive, negative, parted, probes)
    bar = tqdm(along, desc="heads and neurons", disable=not progress)
    found = {place: _scores(sides, place, along[place]) for place in bar}
    if metric is not None:
        differences = {place: sides.difference(place) for place in found}
        moved = gradients(
            model, items[1], differences, metric, batch_tokens=batch_tokens, progress=progress
        )
        found = {place: {**found[place], "gradient": moved[place]} for place in found}
    config = _config(max_examples, probes, metric, seed)
    return Attribution(
        heads=_stacked(found, "attn"),
        neurons=_stacked(found, "mlp") if parts.has_neurons else None,
        name=listed(direction)[0].name,
        items=contrast.counted,
        positions=positive.inputs.positions,
        provenance=made_by(model, "attribute", config, contrast.digest),
    )


def _check_asked(metric: Metric | None, max_examples: int) -> None:
    if metric is not None and not callable(metric):
        raise BadInputError(
            f"The metric of an attribution is a function of logits (row, d_vocab); got {metric!r}. "
            "For two tokens: lambda logits: logits[:, first] - logits[:, second]."
        )
    if max_examples < 2:
        raise BadInputError(f"Sides are told apart by 2 examples or more; got {max_examples}.")


def _config(max_examples: int, probes: bool, metric: Metric | None, seed: int) -> str:
    """What was chosen, in words: of a metric its name."""
    told = ["probes" if probes else "no probes", f"seed {seed}"]
    if metric is not None:
        told.append(f"metric {getattr(metric, '__name__', type(metric).__name__)}")
    return ", ".join([f"at most {max_examples} examples a side", *told])


def _scores(sides: _Sides, place: Place, direction: Tensor) -> dict[str, Tensor]:
    layer, block = place
    positive, negative = sides.at(place)
    writers = Writers.of(sides.parts, layer, block, direction)
    is_heads = block == "attn"
    found = (head_scores if is_heads else neuron_scores)(writers, positive, negative)
    if sides.probes:
        accuracy = head_accuracy if is_heads else neuron_accuracy
        found["accuracy"] = accuracy(positive.examples, negative.examples, sides.folds)
    return found


def _stacked(found: Mapping[Place, dict[str, Tensor]], block: Block) -> Scores:
    layers = [each for place, each in found.items() if place[1] == block]
    return Scores(**{name: torch.stack([each[name] for each in layers]) for name in layers[0]})
