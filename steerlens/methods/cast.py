"""CAST, conditional activation steering: a behaviour is added where the prompt meets a condition.

Behaviour vectors v_l and condition vectors c_l are the first principal component of pairs centred
on their middles, one a layer, at length 1, the positive side scoring higher. The prompt is one
vector h, the mean over its tokens (or its last one) at one layer, and its score is

    s = cos(h, tanh(P h)),  P = c cᵀ / cᵀc.

Where s lies on the right side of a bound θ, h += α v_l at the behaviour layers, at all tokens and
steps. Layer, θ and side are searched for by F1 on the condition's own items, over the first half
of the layers. Source: arXiv 2409.05907.

Confirmed (paper and code): vectors and where they are read (completions for behaviours, whole
prompts for conditions), score, one check a prompt, the search, norms kept as an option. "Above"
and "below" are said of the score; the code's "larger" and "smaller" are said of θ.

Ours:

- The condition acts in the pass that reads it, from the behaviour layers up, on the prompt's own
  tokens too. (So does the released code, unless told not to; the paper says that all later passes
  are steered.) It stands at a lower layer than any behaviour, so that it is known in time and
  sees nothing that it decides on.
- Pads and BOS count in no mean, and every row of a batch has its own condition.
- A vector is used where it was read, at `resid_post`. The code reads it at a block's output, and
  checks and adds it at the same block's input.
- θ is sought between the scores themselves; the paper has a grid, whose range depends on the
  model. Behaviour layers, chosen by hand there, are by default those of the code's example (15
  to 23 of 32) as shares of the depth.
- With `keep_norm` every token keeps its length; in the code, only where one has grown.

Rules over several conditions are gates: `behaviour.when(harm.gate | ~legal.gate)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steerlens.cards import count
from steerlens.contrast import Contrast, digest
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.methods.conditions import READ, SIDES, Condition, Pool, Side, components, search
from steerlens.methods.signing import signed
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.transforms import Add, KeepNorm
from steerlens.verbs import steer


@dataclass(frozen=True, repr=False)
class Conditional:
    """What to do, and in answer to what.

    - `behaviour`: pairs with and without it, such as (prompt, completion) items.
    - `condition`: prompts that call for it, in pairs with prompts that do not.

    >>> Conditional(behaviour=contrast, condition=contrast)
    Conditional(behaviour of 4 pairs, condition of 4 pairs)
    """

    behaviour: Contrast
    condition: Contrast

    @property
    def digest(self) -> str:
        """The sha256 of both contrasts, for provenance."""
        return digest(self.behaviour.digest, self.condition.digest)

    def __repr__(self) -> str:
        """Return the sizes."""
        behaviour, condition = (
            count(len(each), "pair") for each in (self.behaviour, self.condition)
        )
        return f"Conditional(behaviour of {behaviour}, condition of {condition})"


@dataclass(frozen=True)
class Config:
    """CAST's choices."""

    layers: Sequence[int] | None = None
    """Behaviour layers; by default 48% to 74% of the way up, those above the condition's."""
    coeff: float = 1.0
    """α, times vectors of length 1."""
    condition_layers: Sequence[int] | None = None
    """Where a condition is looked for; by default the first half, below `layers`."""
    bounds: Sequence[float] | None = None
    """The θ to try; by default the middle between every two neighbouring scores."""
    side: Side | None = None
    """On which side of θ the condition is met; by default both are tried."""
    pool: Pool = "mean"
    """How a prompt becomes one vector: the mean over its tokens, or its last one."""
    keep_norm: bool = False
    """Whether steered activations keep their length."""
    read: Positions | None = None
    """Where behaviours are read; by default the completion, or an item's last token."""
    positions: Positions = "everywhere"
    """Where the behaviour is added."""

    def __post_init__(self) -> None:
        """Raise BadInputError on a side or pool that there is not, and on empty lists."""
        if self.side not in (None, *SIDES) or self.pool not in READ:
            raise BadInputError(
                f"A condition's side is 'above' or 'below' and its pool 'mean' or 'last'; got "
                f"{self.side!r} and {self.pool!r}."
            )
        for name in ("layers", "condition_layers", "bounds"):
            given = getattr(self, name)
            if given is not None and not len(given):
                raise BadInputError(f"{name} is empty: give one or more, or None.")


def fit(
    model: Host,
    data: Conditional,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the steering that adds a behaviour in the rows whose prompt meets a condition.

    Raises BadInputError where no layer is left for the condition below the behaviour's, on
    unpaired sides, and as `find_directions`. Cost: a forward pass an item of the behaviour and
    two an item of the condition, up to the highest layer of each.

    >>> steering = fit(model, Conditional(contrast, contrast), Config(layers=[3]), progress=False)
    >>> steering.interventions[0].gate
    (of_prompt(projected_cosine('condition'), 'mean').at('blocks...hook_resid_post') ...)
    """
    check_data(data)
    condition = find_condition(model, data.condition, config, progress=progress)
    layers = _above(condition.layer, model, config)
    vectors = components(model, data.behaviour, layers, config.read, "behaviour", progress)
    changes: list[Any] = [Add(each) for each in vectors]
    if config.keep_norm:
        changes = [KeepNorm(each) for each in changes]
    steering = steer(
        changes,
        coeff=config.coeff,
        positions=config.positions,
        gate=condition.gate,
    )
    return signed(steering, made_by(model, "cast", config, data.digest))


def find_condition(
    model: Host, contrast: Contrast, config: Config = Config(), *, progress: bool = True
) -> Condition:
    """Return the condition that `fit` gates by: its gate, F1 and what every layer came to.

    Raises and costs as `steerlens.methods.conditions.search`, over the config's layers.

    >>> condition = find_condition(model, contrast, progress=False)
    >>> sl.add(directions["resid_post", 4]).when(condition.gate)
    Steering(1 * (of_prompt(...).at(...) ...) * add('direction') @ blocks.4...)
    """
    return search(
        model,
        contrast,
        _searched(model.cfg.n_layers, config),
        pool=config.pool,
        bounds=config.bounds,
        sides=SIDES if config.side is None else (config.side,),
        progress=progress,
    )


def check_data(data: object) -> None:
    """Raise BadInputError on anything but a Conditional."""
    if not isinstance(data, Conditional):
        raise BadInputError(
            f"CAST is fitted on a Conditional(behaviour, condition); got {type(data).__name__}."
        )


def usual_layers(n_layers: int) -> range:
    """Return the behaviour layers of the released example, 15 to 23 of 32, as shares of the depth.

    >>> usual_layers(32), usual_layers(6)
    (range(15, 24), range(2, 5))
    """
    top = n_layers - 1
    return range(round(15 / 31 * top), round(23 / 31 * top) + 1)


def _searched(n_layers: int, config: Config) -> list[int]:
    """The layers to look for a condition at. Raises BadInputError unless all lie below `layers`."""
    first = min(config.layers) if config.layers else n_layers
    given = config.condition_layers
    half = range(max(1, n_layers // 2))
    layers = [layer for layer in half if layer < first] if given is None else list(given)
    if not layers or max(layers) >= first:
        raise BadInputError(
            "A condition is read at a lower layer than any that it steers. The behaviour's begin "
            f"at {first}, and it would be looked for at {layers or 'none below it'}."
        )
    return layers


def _above(condition: int, model: Host, config: Config) -> Sequence[int]:
    """The behaviour layers. Raises BadInputError where none lies above the condition's."""
    usual = [layer for layer in usual_layers(model.cfg.n_layers) if layer > condition]
    layers = config.layers or usual
    if not layers:
        raise BadInputError(
            f"The condition is read at layer {condition}, and none of the usual behaviour layers "
            f"of a model of {model.cfg.n_layers} layers lies above it. Give layers."
        )
    return layers
