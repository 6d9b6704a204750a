"""Angular and selective steering: rotations in one plane, shared by every layer.

At both norms of every block, d is the difference of the sides' means at length 1. b1 is the d whose
mean cosine to all others is highest, b2 the first principal component of them all, orthogonal to
b1. With P the projection on that plane, and θ an angle in radians from b1 to b2,

    angular     h' = h - P h + |P h| (cos θ b1 + sin θ b2),   adaptive: only where hᵀb1 > 0
    selective   h' = h turned by θ in the plane, at discriminative layers alone

A layer is discriminative if, at both of its norms, the sides' mean projections on b1 have opposite
signs (activations at length 1). Both keep norms. Sources: angular steering (arXiv 2510.26243),
selective steering (knoveleng/steering).

Confirmed (both codes): plane, sites after the norms, the angular change and its mask, all tokens,
180 degrees as the default, candidates centred before the PCA; the criterion is of selective
steering. Its later code asks each norm apart, its text both, as here. Ours: read and written where
a norm has divided by its scale and its gain is still to come (hosts have no hook point behind the
gain); on a HookedTransformer, which computes attention's norm three times a pass, the MLP's norm
alone; and the side of b2, which a PCA leaves open: that of the candidates' sum. In the stream,
turns of one layer would add to those of the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from steerlens.activations import Activations, collect
from steerlens.components import Components
from steerlens.contrast import Contrast, check_contrast
from steerlens.directions import Direction
from steerlens.directions.finding import check_read_alike
from steerlens.errors import BadInputError, UnknownNameError
from steerlens.host import Host, dtype_of, is_bridge
from steerlens.interventions import OPEN, Expression
from steerlens.methods.signing import signed
from steerlens.names import hook_name, layer_of
from steerlens.positions import Positions
from steerlens.provenance import made_by, worded
from steerlens.signals import Projection
from steerlens.steering import Steering, together
from steerlens.transforms import Rotate, RotateTo
from steerlens.verbs import steer


@dataclass(frozen=True)
class Config:
    """Choices of angular and selective steering."""

    mode: Literal["angular", "selective"] = "angular"
    """Whether θ is the angle that is set, or the angle that is turned by."""
    angle: float = pi
    """θ in radians: 0 points to the positive side, π away from it; the papers sweep the circle."""
    adaptive: bool = True
    """Whether angular steering leaves tokens alone that point away from b1."""
    sites: Sequence[str] | None = None
    """Where, in every block; by default after both norms, as far as the host has each once."""
    read: Positions | None = None
    """Where sides are read; by default the completion, or an item's last token, as in the code."""
    positions: Positions = "every_token"
    """Where it acts."""


@dataclass(frozen=True, eq=False, repr=False)
class Plane:
    """What is fitted once, for every angle: the plane, and where it tells the sides apart."""

    axes: Float[Tensor, "2 d_model"]
    """b1 and b2."""
    source: str
    """The hook point whose candidate is b1."""
    projections: Mapping[str, tuple[float, float]]
    """At each hook point, the mean projections on b1 of the positive and the negative side."""
    made_on: Mapping[str, str]
    items: str
    config: Config = Config()

    @property
    def layers(self) -> tuple[int, ...]:
        """The discriminative layers: both sides' means on opposite sides, at every site."""
        opposite: dict[int, bool] = {}
        for name, (positive, negative) in self.projections.items():
            layer = layer_of(name)
            assert layer is not None
            opposite[layer] = opposite.get(layer, True) and positive * negative < 0
        return tuple(layer for layer, each in opposite.items() if each)

    def at(self, name: str) -> tuple[Direction, Direction]:
        """Return the axes as directions at a hook point."""
        one, other = (
            Direction(name, axis, name=label, items=self.items, provenance=self.made_on)
            for axis, label in zip(self.axes, ("b1", "b2"), strict=True)
        )
        return one, other

    def angular(
        self, angle: float = pi, *, adaptive: bool = True, positions: Positions = "every_token"
    ) -> Steering:
        """Return the steering that sets the angle in the plane, at every hook point."""

        def one(name: str) -> Expression:
            first, second = self.at(name)
            gate = Projection(first) > 0.0 if adaptive else OPEN
            made = RotateTo(first, second, angle=angle)
            return steer(made, positions=positions, gate=gate).expression

        used = replace(self.config, mode="angular", angle=angle, adaptive=adaptive)
        return self._signed(together([one(name) for name in self.projections]), used, positions)

    def selective(self, angle: float = pi, *, positions: Positions = "every_token") -> Steering:
        """Return the steering that turns by an angle in the plane, at discriminative layers.

        The angle is its coefficient: `0.5 * steering` turns by half of it. Raises BadInputError
        where no layer is discriminative.
        """
        names = [name for name in self.projections if layer_of(name) in self.layers]
        if not names:
            raise BadInputError(
                "At no layer do the sides lie on opposite sides of b1, so selective steering would "
                "change nothing. Take mode='angular', or read the sides elsewhere."
            )
        turns = [Rotate(*self.at(name)) for name in names]
        made = steer(turns, coeff=angle, positions=positions)
        return self._signed(made, replace(self.config, mode="selective", angle=angle), positions)

    def _signed(self, made: Steering, config: Config, positions: Positions) -> Steering:
        """Return the steering, which says with what config it was made."""
        used = worded(replace(config, positions=positions))
        return signed(made, {**self.made_on, "config": used})

    def __repr__(self) -> str:
        """Return where b1 is from and which layers are discriminative."""
        layers = ", ".join(map(str, self.layers)) or "none"
        return f"Plane(b1 of {self.source}, discriminative layers: {layers})"


def norms(model: Host) -> tuple[str, ...]:
    """Return the norms before attention and MLP that the host computes once a pass.

    Raises BadInputError where norms stand behind them instead (OLMo-2).
    """
    both = ("ln1.hook_normalized", "ln2.hook_normalized")
    once = both if is_bridge(model) else both[1:]
    found = tuple(each for each in once if hook_name(each, 0) in model.hook_dict)
    if not found or Components(model).before(0) is None:
        raise BadInputError(
            "Angular steering acts behind the norms before attention and MLP, and this model's "
            "norms stand behind them. Give sites=('resid_post',) or others of your choice."
        )
    return found


def candidates(
    positive: Float[Tensor, "site d"], negative: Float[Tensor, "site d"]
) -> Float64[Tensor, "site d"]:
    """Return each site's difference of means at length 1.

    >>> candidates(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([[1., 0.]], dtype=torch.float64)
    """
    return torch.nn.functional.normalize(positive.double() - negative.double(), dim=-1)


def axes(found: Float[Tensor, "site d"]) -> tuple[int, Float64[Tensor, "2 d"]]:
    """Return which candidate is b1, and the orthonormal b1 and b2.

    Raises BadInputError where the candidates span no plane.

    >>> which, (b1, b2) = axes(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]))
    >>> which, b1.float(), b2.float()
    (1, tensor([0.8000, 0.6000]), tensor([-0.6000,  0.8000]))
    """
    wide = found.double()
    which = int((wide @ wide.T).mean(1).argmax())
    first = wide[which]
    _, spread, components = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    main = components[0] * spread[0]
    second = main - (main @ first) * first
    if not float(second.norm()) > 1e-6:
        raise BadInputError(
            "The differences of means are parallel at all sites, so they span no plane. Take more "
            "sites, or another contrast."
        )
    second = second / second.norm()
    lean = float(wide.sum(0) @ second)
    return which, torch.stack([first, -second if lean < 0 else second])


def plane(
    model: Host, data: Contrast, config: Config = Config(), *, progress: bool = True
) -> Plane:
    """Return the plane of a contrast, for steerings at any angle.

    Raises BadInputError where the sides read the same. Cost: one pass an item.

    >>> found = plane(model, contrast, progress=False)
    >>> len(found.angular(1.5).interventions) == len(found.projections)
    True
    """
    check_contrast(data, "Angular steering is fitted on")
    sites = norms(model) if config.sites is None else config.sites
    names = [hook_name(site, n) for n in range(model.cfg.n_layers) for site in sites]
    positive, negative = (
        collect(model, side, names, config.read, progress=progress)
        for side in (data.positive, data.negative)
    )
    check_read_alike(positive.positions, negative.positions, "read=...")
    for name in names:
        if positive[name].same_mean(negative[name], dtype_of(model)):
            raise BadInputError(
                f"Both sides read the same at {name!r}, positions {positive.positions}. Give "
                "read=..., where the texts differ."
            )
    means = (torch.stack([side[name].mean for name in names]) for side in (positive, negative))
    which, both = axes(candidates(*means))
    return Plane(
        both.float(),
        names[which],
        {n: (_projected(positive, n, both[0]), _projected(negative, n, both[0])) for n in names},
        made_by(model, "angular", config, data.digest),
        data.counted,
        config,
    )


def _projected(side: Activations, name: str, axis: Float64[Tensor, " d"]) -> float:
    """The mean over items of each one's cosine with an axis."""
    units = torch.nn.functional.normalize(side.examples[name].double(), dim=-1)
    return float((units @ axis).mean())


def fit(
    model: Host,
    data: Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the steering that turns activations to an angle, or by one, in the contrast's plane.

    To try several angles, fit the `plane` once. Raises and costs as `plane`; UnknownNameError on
    another mode.

    >>> fit(model, contrast, Config(angle=1.5), progress=False).layers(2).interventions[-1]
    1 * (projection('b1') > 0) * rotate_to(1.5, 'b1' to 'b2') @ blocks.2.ln2.hook_normalized[...]
    """
    if config.mode not in ("angular", "selective"):
        raise UnknownNameError(f"The modes are 'angular' and 'selective', not {config.mode!r}.")
    found = plane(model, data, config, progress=progress)
    if config.mode == "selective":
        return found.selective(config.angle, positions=config.positions)
    return found.angular(config.angle, adaptive=config.adaptive, positions=config.positions)
