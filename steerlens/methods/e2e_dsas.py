"""E2E-DSAS: where to steer and how are trained together, through the network.

At every hook point and token

    a' = a + g(a) (w a + b - a),   g(a) = sigmoid(u . a + v)  or  relu(u . a + v),

from w = 1, b = 0, u = 0, and v = 0 (sigmoid) or 0.5 (relu, where 0 would have no gradient). The
loss is LinEAS's from steered source to target, and what steering does to the control texts:

    sum over hook points of mean over entries of W_2^2(steered source, target)
    + gamma * sum over hook points of mean over control tokens of |a' - a_unsteered|_2 / sqrt(d)

Both passes run with everything on. The control loss is a length, the other one a square: where
source and target lie close together, a large gamma leaves nothing of the steering. A gate looks at
what it scales: at activations that hold the steering of earlier layers already. Source: arXiv
2512.03661, its end-to-end variant.

What comes out is made of ordinary parts: `Affine` maps, under the gate `Probe` for the sigmoid.
A rectifier has no upper bound, and a share has: there the map is an `Extrapolate`, whose strength
is an amplitude, under the gate `Relu(Readout(...))`. Either is the training's own forward.

Confirmed (public reviews): both gates, joint training with LinEAS's loss, a loss between steered
and original activations of the control set. Reconstructed (no code was found): its form, the
starts, gamma (unknown; try `GAMMAS`), and that the settings are LinEAS's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.directions import Direction
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.methods.data import Sets
from steerlens.methods.descent import Descent, Parts, Trained, descend
from steerlens.methods.signing import signed
from steerlens.methods.training import Live, Texts, drawn, gradients, matchings, split
from steerlens.methods.transport import check_share, places
from steerlens.positions import Mask, Positions
from steerlens.provenance import made_by
from steerlens.signals import Combining, Moment, Probe, Readout, Relu, Signal
from steerlens.signals.gates import dots
from steerlens.steering import Steering, together
from steerlens.transforms import Extrapolate, Transform
from steerlens.verbs import steer

Kind = Literal["sigmoid", "relu"]
_START = {"sigmoid": 0.0, "relu": 0.5}
GAMMAS = (0.001, 0.01, 0.1, 1.0)
"""The weights of the control loss to try."""


@dataclass(frozen=True)
class Config(Descent):
    """E2E-DSAS's choices, beside those of any training."""

    gate: Kind = "sigmoid"
    """The gate's form."""
    gamma: float = 0.01
    """Weight of the control loss. On Steerling and formality, after 24 steps, 0.1 left about a
    third of the steering and 1 none."""

    def __post_init__(self) -> None:
        """Raise BadInputError on another gate, or a weight below 0."""
        super().__post_init__()
        if self.gate not in _START:
            raise BadInputError(f"A gate is 'sigmoid' or 'relu'; got {self.gate!r}.")
        if self.gamma < 0:
            raise BadInputError(f"gamma is 0 or more; got {self.gamma}.")
        if self.gate == "sigmoid":
            check_share(self.coeff)


@dataclass(frozen=True, eq=False)
class LiveGate(Combining):
    """A gate under training: `Probe` and `Readout` would detach it."""

    weight: Float[Tensor, "*unit"]
    """u in units of one over `unit`."""
    bias: Float[Tensor, ""]
    kind: Kind
    unit: float = 1.0

    def __call__(self, moment: Moment) -> Float[Tensor, "batch pos"]:
        """Return the gate of each token."""
        score = dots(moment.x, (self.weight / self.unit).to(moment.x)) + self.bias.to(moment.x)
        return torch.sigmoid(score) if self.kind == "sigmoid" else score.clamp_min(0)

    def __repr__(self) -> str:
        """Return its form."""
        return f"live_gate({self.kind!r})"

    @classmethod
    def beside(cls, map: Live, kind: Kind) -> LiveGate:
        """Return the gate of a map before training."""
        weight = torch.zeros_like(map.weight, requires_grad=True)
        bias = torch.full((), _START[kind], device=map.weight.device, requires_grad=True)
        return cls(weight, bias, kind, map.unit)


def fit(
    model: Host,
    data: Sets,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the gated steering from source to target that leaves the control set alone.

    As `train`, which also tells how the training went.

    >>> sets = Sets.of(contrast, control=["some day", "the cat", "food"])
    >>> config = Config(sites="blocks.2.hook_resid_post", steps=2)
    >>> fit(model, sets, config, progress=False)
    Steering(1 * probe('e2e_dsas', ...) * affine(... entries) @ blocks.2.hook_resid_post[...])
    """
    return train(model, data, config, progress=progress).steering


def train(
    model: Host,
    data: Sets,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Trained:
    """Return the steering of `fit` and the course of its training, `transport` and `control`.

    Weights are left as they are, with no gradients stored for them. Raises BadInputError without
    a control set, and as LinEAS does. Cost: one pass a target text, then `steps` passes over
    `batch` source and control texts, forward and backward, and over the control texts once more.

    >>> sets = Sets.of(contrast, control=["some day", "the cat", "food"])
    >>> sorted(train(model, sets, Config(steps=2), progress=False).course.losses)
    ['control', 'transport']
    """
    data = Sets.read(data, "E2E-DSAS")
    control = split(data.need_control("E2E-DSAS"), config.validation, config.seed)
    with gradients(model):
        texts = [Texts(model, part, "everywhere") for part in control if part]
        both = matchings(model, data, places(model, config.sites), config, progress)
        maps = both[0].maps()
        gates = [LiveGate.beside(each, config.gate) for each in maps]
        steering = gated(maps, gates, config.positions)
        generator = torch.Generator().manual_seed(config.seed)

        def loss(part: int, generator: torch.Generator | None = None) -> Parts:
            transport = both[part](steering, generator)
            moved = disturbance(texts[part], both[part].units, steering, config.batch, generator)
            return {"transport": transport, "control": config.gamma * moved}

        course = descend(
            [each for pair in zip(maps, gates, strict=True) for each in _parameters(*pair)],
            lambda: loss(0, generator),
            config,
            scale=both[0].scale,
            held_out=(lambda: float(sum(loss(1).values()))) if len(both) > 1 else None,
            name="E2E-DSAS",
            progress=progress,
        )
        source = made_by(model, "e2e_dsas", config, data.digest)
        pairs = [_settled(*pair, source) for pair in zip(maps, gates, strict=True)]
    found = gated([pair[0] for pair in pairs], [pair[1] for pair in pairs], config.positions)
    return Trained(signed(config.coeff * found, source), course)


def gated(maps: Sequence[Transform], gates: Sequence[Signal], positions: Positions) -> Steering:
    """Return the steering of every map under its gate, all at once."""
    parts = [
        steer(each, positions=positions, gate=gate).expression
        for each, gate in zip(maps, gates, strict=True)
    ]
    return together(parts)


def disturbance(
    control: Texts,
    units: Mapping[str, float],
    steering: Steering,
    batch: int,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Return how far a steering moves control texts: |a' - a|_2 / sqrt(d), mean over tokens.

    Summed over hook points, each in its units; BOS is left out. Of texts drawn at random; of all
    without a generator.
    """
    rows = drawn(len(control), batch, generator)
    moved, tokens = [], 0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        with torch.no_grad():
            before, mask = control.written(some, list(units))
        after, _ = control.written(some, list(units), steering)
        tokens += int(mask.sum())
        moved += [_length(after[name] - x, mask).cpu() / units[name] for name, x in before.items()]
    return torch.stack(moved).sum() / tokens


def _length(change: Float[Tensor, "batch pos *unit"], mask: Mask) -> Float[Tensor, ""]:
    """The summed length of the changes at the tokens in a mask, over the root of their entries."""
    changes = change.float().flatten(2)[mask.to(change.device)]
    total: Tensor = changes.norm(dim=-1).sum()
    return total / sqrt(changes.shape[-1])


def _parameters(map: Live, gate: LiveGate) -> tuple[Tensor, ...]:
    return map.weight, map.bias, gate.weight, gate.bias


def _settled(map: Live, gate: LiveGate, source: Mapping[str, str]) -> tuple[Transform, Signal]:
    """A trained map and its gate as values: a share under a sigmoid, an amplitude under a relu."""
    found = gate.weight / gate.unit
    direction = Direction(map.hook_name, found, name="e2e_dsas", provenance=source)
    bias = float(gate.bias.detach())
    if gate.kind == "sigmoid":
        return map.settled(), Probe(direction, bias)
    return Extrapolate(map.settled()), Relu(Readout(direction, bias))
