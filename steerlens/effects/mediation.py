"""Mediation: what of a steering's effect goes through a head or an MLP, by holding it at its base.

A part of an `Effect` is what a component's changed output does to the logits straight on. It may
do more, by what later components read of it: holding it at its base value takes all of that away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.cards import card, count
from steerlens.effects.measuring import by_prompt
from steerlens.effects.readout import MEANING, Metric, readout, scored
from steerlens.host import FwdHooks, Host, device_of
from steerlens.moments import Moments
from steerlens.passes import hooked, keeping, one_pass
from steerlens.rows import at_rows
from steerlens.statistics import largest
from steerlens.steering import Steering, check_steering, under
from steerlens.text import Batch, Item, batches, encode_all

if TYPE_CHECKING:
    import pandas

Place = tuple[int, int | None]
"""A layer and a head, or None for its MLP."""
Values = dict[str, Float[Tensor, "batch pos *unit"]]


@dataclass(frozen=True, repr=False, eq=False)
class Mediation:
    """The change of a metric with components held at their base values, mean over prompts."""

    metric: str
    prompts: int
    whole: float
    """The change with nothing held."""
    direct: float
    """The change with every head and MLP held: the stream alone carries what was written."""
    without: Float[Tensor, "layer component"]
    """The change with one held; heads, then the MLP as the last column."""
    error: Float[Tensor, "layer component"]
    """Standard error over prompts of `whole - without`."""
    alone: Float[Tensor, "layer component"] | None
    """The change with all held but one, less `direct`: what goes through it and no other."""

    @property
    def carried(self) -> Float[Tensor, "layer component"]:
        """What is lost when a component is held; parts overlap, and need not add up."""
        return self.whole - self.without

    def top(self, n: int = 5) -> list[Place]:
        """Return the n components that carry most (largest first), as (layer, head or None)."""
        mlp = self.without.shape[1] - 1
        return [(layer, None if i == mlp else i) for layer, i in largest(self.carried, n)]

    def frame(self) -> pandas.DataFrame:
        """Return a table: `layer`, `component`, `carried`, `se`, and `alone` where it was asked."""
        import pandas

        lines = []
        for layer, row in enumerate(self.carried):
            for component, value in enumerate(row.tolist()):
                name = "mlp" if component == len(row) - 1 else f"head {component}"
                line = {"layer": layer, "component": name, "carried": value}
                line["se"] = float(self.error[layer, component])
                if self.alone is not None:
                    line["alone"] = float(self.alone[layer, component])
                lines.append(line)
        return pandas.DataFrame(lines)

    def __repr__(self) -> str:
        """Return the whole change, and who carries most of it."""
        return "Mediation(" + "; ".join(self._told()) + ")"

    def _told(self) -> list[str]:
        most = (f"{_name(place)} {float(self.carried[_at(place)]):+.3g}" for place in self.top(4))
        return [
            f"{self.whole:+.3g} {self.metric} over {count(self.prompts, 'prompt')}",
            f"with every head and MLP held at base {self.direct:+.3g}",
            f"carried by {', '.join(most)}",
        ]

    def _repr_html_(self) -> str:
        whole, direct, most = self._told()
        return card(f"Mediation: {whole}", {"direct": direct, "most": most})


def _name(place: Place) -> str:
    layer, head = place
    return f"L{layer} MLP" if head is None else f"L{layer}H{head}"


def _at(place: Place) -> tuple[int, int]:
    return place[0], -1 if place[1] is None else place[1]


def mediation(
    model: Host,
    steering: Steering,
    prompts: Iterable[Item],
    metric: Metric = None,
    *,
    alone: bool = True,
    batch_tokens: int = 1024,
    progress: bool = False,
) -> Mediation:
    """Return what of a steering's effect goes through each head and MLP.

    - `prompts`, `metric`: as in `effect`. With None the weights of the divergence stay those of
      base against wholly steered.
    - `alone`: also the paths through one component and no other (path patching).

    A held component puts out, at every token, what it does in the base pass. Its own is what
    stands at `z`, or comes out of the MLP's neurons, with what the steering writes there; what is
    written at `attn_out` and `mlp_out` goes to the stream and is still written. Source: path
    patching and causal mediation (arXiv 2304.05969, 2004.12265). Cost: for each batch 3
    passes, and 1 (with `alone` 2) for each of the (heads + 1) * layers components.

    >>> found = mediation(model, steering, ["a good day"], (" good", " bad"), alone=False)
    >>> found.carried.shape
    torch.Size([6, 9])
    """
    check_steering(steering)
    encoded = encode_all(model, prompts, "An effect is measured on")
    asked = readout(model, encoded, metric)
    every = [
        (layer, head)
        for layer in range(model.cfg.n_layers)
        for head in (*range(model.cfg.n_heads), None)
    ]
    runs: list[Callable[[Place], bool]] = [lambda place: False, lambda place: True]
    runs += [lambda place, one=one: place == one for one in every]  # type: ignore[misc]
    if alone:
        runs += [lambda place, one=one: place != one for one in every]  # type: ignore[misc]
    changes: list[Moments] | None = None
    device = device_of(model)
    with tqdm(total=len(encoded), desc="mediation", disable=not progress) as bar:
        for rows, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device):
            mask = scored(batch, asked.kind)
            here = at_rows(steering, rows, 1, len(encoded))
            base, values = _base(model, batch, mask, every)
            steered = _logits(model, batch, mask, here, [])
            prompt = torch.tensor(rows, device=mask.device)[mask.nonzero()[:, 0]]
            weights = asked.weights(prompt, base, steered)
            found = []
            for held in runs:
                hooks = _held(values, [place for place in every if held(place)])
                logits = steered if not hooks else _logits(model, batch, mask, here, hooks)
                found.append(by_prompt(((logits - base) * weights).sum(-1), mask))
            gaps = [*found[:2], *(found[0] - each for each in found[2:])]
            new = [Moments.of(each.cpu()) for each in gaps]
            pairs = zip(changes or new, new, strict=True)
            changes = new if changes is None else [old.merged(more) for old, more in pairs]
            bar.update(len(rows))
    assert changes is not None
    return _mediation(MEANING[asked.kind], changes, len(every), int(model.cfg.n_layers))


def _mediation(metric: str, changes: Sequence[Moments], size: int, layers: int) -> Mediation:
    whole, direct = (float(each.mean) for each in changes[:2])

    def grid(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).float().reshape(layers, -1)

    held, rest = changes[2 : 2 + size], changes[2 + size :]
    return Mediation(
        metric=metric,
        prompts=changes[0].count,
        whole=whole,
        direct=direct,
        without=grid([whole - each.mean for each in held]),
        error=grid([each.standard_error for each in held]),
        alone=grid([whole - each.mean - direct for each in rest]) if rest else None,
    )


def _site(place: Place) -> str:
    layer, head = place
    return f"blocks.{layer}.{'hook_mlp_out' if head is None else 'attn.hook_z'}"


def _base(
    model: Host, batch: Batch, mask: Bool[Tensor, "batch pos"], every: Sequence[Place]
) -> tuple[Float[Tensor, "n d_vocab"], Values]:
    """The base model's logits, and what its heads and MLPs put out at every token."""
    values: Values = {}
    return _logits(model, batch, mask, None, keeping(values, map(_site, every))), values


def _held(values: Values, places: Sequence[Place]) -> FwdHooks:
    """Callbacks that put base values in the place of what components put out."""
    heads: dict[str, list[int | None]] = {}
    for place in places:
        heads.setdefault(_site(place), []).append(place[1])

    def hold(name: str) -> Callable[..., Tensor]:
        def held(activation: Tensor, hook: Any) -> Tensor:
            if heads[name] == [None]:
                return values[name]
            mixed = activation.clone()
            mixed[:, :, heads[name]] = values[name][:, :, heads[name]]
            return mixed

        return held

    return [(name, hold(name)) for name in heads]


def _logits(
    model: Host,
    batch: Batch,
    mask: Bool[Tensor, "batch pos"],
    steering: Steering | None,
    hooks: FwdHooks,
) -> Float[Tensor, "n d_vocab"]:
    """The logits at the scored tokens; hooks at z run after the steering's, others before."""
    before = [(name, hook) for name, hook in hooks if not name.endswith("hook_z")]
    after = [(name, hook) for name, hook in hooks if name.endswith("hook_z")]
    with torch.no_grad(), hooked(model, before), under(steering, model):
        return one_pass(model, batch, after)[mask].float()
