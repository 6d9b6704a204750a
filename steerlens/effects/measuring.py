"""Measuring an effect: base and steered passes, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.components import components
from steerlens.directions import Direction
from steerlens.effects.account import SUMMED, Effect
from steerlens.effects.decomposition import parts
from steerlens.effects.reading import read
from steerlens.effects.readout import MEANING, Metric, readout, scored
from steerlens.effects.responses import Responses, responses
from steerlens.errors import BadInputError, warn
from steerlens.host import Host, device_of
from steerlens.moments import Moments
from steerlens.names import hook_name
from steerlens.rows import at_rows
from steerlens.steering import Steering, check_steering
from steerlens.text import Item, batches, encode_all


def effect(
    model: Host,
    steering: Steering,
    prompts: Iterable[Item],
    metric: Metric = None,
    *,
    direction: Direction | Mapping[str, Direction] | None = None,
    batch_tokens: int = 1024,
    progress: bool = False,
) -> Effect:
    """Return what a steering causes: base against steered, component by component.

    - `prompts`: texts, or (prompt, completion) items. Scored are the tokens that predict a
      completion, and the last one of a prompt alone.
    - `metric`: a pair of answers, for all prompts or one each: the logit of the first token of one
      above that of the other, after the whole item. Weights over the vocabulary: that sum of
      logits. None: the divergence of the two models, KL(base || steered) + KL(steered || base) in
      nats a token, which is such a sum as well (`Readout`). Warns where an answer has more tokens
      than the first.
    - `direction`: what the stream's change is compared with, the same at all layers or by hook
      name; by default what the steering wrote.

    A part is what a component's own change does to the logits on the straight path from it,
    norms held at their mean of base and steered. The parts add up to the whole change; what the
    norms' scales add is a part of its own. Under another steering that is on, base is that one.
    Raises BadInputError without prompts, and on a metric that does not fit. Cost: two passes a
    prompt, with a product of each component and its weights; memory for one batch.

    >>> found = effect(model, steering, ["a good day", "the bad cat"], (" good", " bad"))
    >>> abs(found.direct + found.mediated + found.remainder - found.change) < 1e-4
    True
    """
    check_steering(steering)
    encoded, weights = encode_all(model, prompts, "An effect is measured on"), components(model)
    asked = readout(model, encoded, metric)
    aims = _aims(direction, weights.n_layers)
    sink = _Sink()
    written: dict[str, Tensor] = {}
    device = device_of(model)
    with tqdm(total=len(encoded), desc="effect", disable=not progress) as bar:
        for rows, batch in batches(model, encoded, batch_tokens=batch_tokens, device=device):
            mask = scored(batch, asked.kind)
            base = read(model, batch, mask, neurons=weights.has_neurons)
            here = at_rows(steering, rows, 1, len(encoded))
            steered = read(model, batch, mask, here, neurons=weights.has_neurons)
            row = mask.nonzero()[:, 0]
            prompt = torch.tensor(rows, device=row.device)[row]
            read_out = asked.weights(prompt, base.logits, steered.logits)
            sink.add("parts", mask, parts(weights, base, steered, read_out))
            sink.add("responses", mask, _named(responses(base, steered, row, aims)))
            written = steered.written
            bar.update(len(rows))
    _warn_of_rest(sink, model.cfg.dtype)
    return Effect(
        metric=MEANING[asked.kind],
        prompts=len(encoded),
        aim=_aim(direction),
        written_at=tuple(written),
        parts=sink.of("parts", "whole", *SUMMED, "neurons"),
        responses=sink.of("responses", *(each.name for each in fields(Responses))),
    )


def _warn_of_rest(sink: _Sink, dtype: torch.dtype) -> None:
    """Say where parts do not add up: what the steering writes is not in what they are made of.

    What a model in half precision rounds is in none of them either: of a small change it is much.
    """
    found = sink.of("parts", *SUMMED)
    size = sum(float(each.mean.abs().sum()) for each in found.values())
    rest = float(found["elsewhere"].mean)
    eps = torch.finfo(dtype).eps
    if abs(rest) > max(0.01, 16 * eps) * size:
        rounded = f"{dtype} rounds that much (load the model in float32), or " * (eps > 1e-6)
        warn(
            f"{rest:+.3g} of the change is in no part: {rounded}the steering writes inside a norm "
            "or behind it, or the model has something there that parts do not know. It stands "
            "under 'elsewhere'. Steer the stream, attn_out, mlp_out, z or mlp_post to have parts "
            "of it."
        )


def _aim(direction: Direction | Mapping[str, Direction] | None) -> str:
    if direction is None:
        return "what was written"
    names = (direction,) if isinstance(direction, Direction) else direction.values()
    return ", ".join(dict.fromkeys(each.name for each in names))


def _aims(
    direction: Direction | Mapping[str, Direction] | None, n_layers: int
) -> dict[int, Tensor] | None:
    """A vector of the stream for each layer, None where the steering's own writing is taken."""
    if direction is None:
        return None
    if isinstance(direction, Direction):
        if direction.vector.ndim != 1:
            raise BadInputError(
                f"{direction!r} is not a direction of the stream. Find one at 'resid_post'."
            )
        return dict.fromkeys(range(n_layers), direction.vector)
    names = [hook_name("resid_post", layer) for layer in range(n_layers)]
    missing = [name for name in names if name not in direction]
    if missing:
        raise BadInputError(
            f"There is no direction at {missing[0]!r}. Give one at 'resid_post' of every layer, or "
            "one Direction for all."
        )
    return {layer: direction[name].vector for layer, name in enumerate(names)}


def _named(found: Responses) -> dict[str, Tensor]:
    named = {each.name: getattr(found, each.name) for each in fields(found)}
    return {name: each for name, each in named.items() if each is not None}


class _Sink:
    """Moments over prompts of whatever is measured at tokens."""

    def __init__(self) -> None:
        self.moments: dict[tuple[str, str], Moments] = {}

    def add(self, kind: str, mask: Bool[Tensor, "batch pos"], found: Mapping[str, Tensor]) -> None:
        for name, values in found.items():
            each = by_prompt(values, mask, defined=name in ("cosine", "share"))
            new = Moments.of(each.cpu())
            old = self.moments.get((kind, name))
            self.moments[kind, name] = new if old is None else old.merged(new)

    def of(self, kind: str, *names: str) -> dict[str, Moments]:
        return {name: self.moments[kind, name] for name in names if (kind, name) in self.moments}


def by_prompt(
    values: Float[Tensor, "n *part"], mask: Bool[Tensor, "batch pos"], defined: bool = False
) -> Float[Tensor, "batch *part"]:
    """Return each prompt's mean over its scored tokens.

    With `defined`, over those where it is a number alone, and 0 where it is none at any.
    """
    row = mask.nonzero()[:, 0].to(values.device)
    sums, counts = (values.new_zeros(len(mask), *values.shape[1:]).double() for _ in range(2))
    known = ~values.isnan() if defined else torch.ones_like(values, dtype=torch.bool)
    counts.index_add_(0, row, known.double())
    sums.index_add_(0, row, values.double().where(known, 0.0))
    return sums / counts.clamp_min(1)
