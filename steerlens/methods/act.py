"""AcT, activation transport: every entry of the source is carried onto the target by its own map.

Responses are pooled, a mean over each text's tokens (BOS and pads left out). Entry by entry, the
sorted source values x are paired with the sorted target values y, and

- Linear-AcT: T(a) = w a + b by least squares, w = sum(xc yc) / sum(xc^2), b = mean(y) - w mean(x);
- Gaussian-AcT: w = sd(y) / sd(x), b as above;
- Mean-AcT: w = 1, b = mean(y) - mean(x).

A token's entry becomes s T(a) + (1 - s) a at strength s, the steering's coefficient, from 0 to 1.
Linear-AcT leaves values outside of the pooled source's range as they are; the others move all.
Incremental: hook points are fitted in the order of the pass, source and target each read while
the maps before are on. Source: arXiv 2410.23054.

Confirmed (the authors' code): maps, pooling, strength, supports, all tokens, sites after the norms,
and that both sets pass the earlier maps. Ours: sets of different sizes are coupled exactly, where
the code draws equally many; BOS is neither read nor steered; bounds count as inside; an entry
without spread in the source is only shifted, within a support only where it has that one value
(the code adds noise to it for Linear-AcT, and for the others leaves alone what spreads less than
1e-4); a support of one source text, which would hold next to nothing, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.activations import collect
from steerlens.cards import count
from steerlens.contrast import Contrast
from steerlens.errors import BadInputError
from steerlens.evaluation.metrics import quantile
from steerlens.host import HookNames, Host
from steerlens.methods.data import Sets
from steerlens.methods.signing import signed
from steerlens.methods.transport import check_share, coupled, places
from steerlens.positions import Positions
from steerlens.provenance import made_by
from steerlens.steering import Steering
from steerlens.transforms import Affine
from steerlens.verbs import steer

Line = tuple[Float[Tensor, "*unit"], Float[Tensor, "*unit"]]
"""Weight and bias of an entry's map, in float64."""
_NO_SPREAD = 1e-6
"""Spread below this share of an entry's size is the rounding of float32."""


@dataclass(frozen=True)
class Config:
    """AcT's choices."""

    map: Literal["linear", "mean", "gaussian"] = "linear"
    """Which map is fitted."""
    sites: HookNames | None = None
    """Where: a site, hook names or a filter; by default what the blocks write after their norms
    (Gemma-2, OLMo-2), else `resid_post` of every layer. On Llama and Qwen the authors' pattern
    names the norm before the MLP: `"ln2.hook_normalized"` (a gain behind it changes no map)."""
    support: tuple[float, float] | Literal["paper", "all"] = "paper"
    """Quantiles of the pooled source between which entries are mapped: (0, 1) is its range.
    "all" maps every value; "paper" is (0, 1) for the linear map and "all" for the others."""
    incremental: bool = True
    """Fit each hook point while the maps before are on; else all at once, which is faster."""
    coeff: float = 1.0
    """The strength, 0 to 1."""
    read: Positions = "everywhere"
    """Over which tokens responses are pooled."""
    positions: Positions = "everywhere"
    """Which tokens are steered."""

    def __post_init__(self) -> None:
        """Raise BadInputError on an unknown map or support, or a strength that is no share."""
        check_share(self.coeff)
        if self.map not in _LINES:
            raise BadInputError(f"AcT's map is one of {', '.join(_LINES)}; got {self.map!r}.")
        given = self.support
        if isinstance(given, str):
            if given not in ("paper", "all"):
                raise BadInputError(f"A support is (low, high), 'paper' or 'all'; got {given!r}.")
        elif not 0 <= given[0] < given[1] <= 1:
            raise BadInputError(
                f"A support lies between two quantiles from 0 to 1, the lower first; got {given}."
            )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The quantiles of the support; None where every value is mapped."""
        if isinstance(self.support, tuple):
            return self.support
        return (0.0, 1.0) if self.support == "paper" and self.map == "linear" else None


def linear(source: Float[Tensor, "source *unit"], target: Float[Tensor, "target *unit"]) -> Line:
    """Return the least-squares line through sorted pairs, entry by entry.

    >>> linear(torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [5.0]]))
    (tensor([2.], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    x, y, shares = coupled(source.double(), target.double())
    shares = shares.reshape(-1, *[1] * (x.ndim - 1))
    mean_x, mean_y = (shares * x).sum(0), (shares * y).sum(0)
    spread = (shares * (x - mean_x) ** 2).sum(0)
    together = (shares * (x - mean_x) * (y - mean_y)).sum(0)
    weight = _where_spread(spread.sqrt(), source, together / spread)
    return weight, mean_y - weight * mean_x


def gaussian(source: Float[Tensor, "source *unit"], target: Float[Tensor, "target *unit"]) -> Line:
    """Return the line between normal distributions of the sets' means and spreads.

    >>> gaussian(torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [5.0]]))
    (tensor([2.], dtype=torch.float64), tensor([3.], dtype=torch.float64))
    """
    x, y = source.double(), target.double()
    spread = x.std(0, unbiased=False)
    weight = _where_spread(spread, source, y.std(0, unbiased=False) / spread)
    return weight, y.mean(0) - weight * x.mean(0)


def mean(source: Float[Tensor, "source *unit"], target: Float[Tensor, "target *unit"]) -> Line:
    """Return the shift between the sets' means.

    >>> mean(torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [5.0]]))
    (tensor([1.], dtype=torch.float64), tensor([3.5000], dtype=torch.float64))
    """
    x, y = source.double(), target.double()
    return torch.ones_like(x[0]), y.mean(0) - x.mean(0)


_LINES: dict[str, Callable[[Tensor, Tensor], Line]] = {
    "linear": linear,
    "mean": mean,
    "gaussian": gaussian,
}


def _where_spread(
    spread: Float[Tensor, "*unit"],
    source: Float[Tensor, "source *unit"],
    weight: Float[Tensor, "*unit"],
) -> Float[Tensor, "*unit"]:
    """The weight, and 1 where the source does not spread."""
    size = source.double().abs().amax(0)
    return torch.where(spread > _NO_SPREAD * size, weight, 1.0)


def fitted(
    source: Float[Tensor, "source *unit"],
    target: Float[Tensor, "target *unit"],
    config: Config = Config(),
    hook_name: str | None = None,
) -> Affine:
    """Return the map from pooled source to pooled target responses of one hook point.

    >>> fitted(torch.tensor([[1.0], [0.0]]), torch.tensor([[3.0], [5.0]]))
    affine(1 entries, within its support)
    """
    weight, bias = _LINES[config.map](source, target)
    low, high = (
        (None, None)
        if config.bounds is None
        else (quantile(source.float(), share) for share in config.bounds)
    )
    return Affine(weight.float(), bias.float(), low, high, hook_name)


def fit(
    model: Host,
    data: Sets | Contrast,
    config: Config = Config(),
    *,
    progress: bool = True,
) -> Steering:
    """Return the steering that carries source activations onto the target's.

    A contrast is taken from its negative to its positive side. At most 1,024 texts a set are
    used, a seeded sample. Raises as `collect` does, BadInputError on a support of one source text,
    and UnknownNameError or HookError on a hook point that cannot be steered. Cost: one pass a
    text; incremental, one more for every hook point but the first, up to that hook point.

    >>> fit(model, contrast, Config(sites="blocks.2.hook_resid_post"), progress=False)
    Steering(1 * affine(... entries, within its support) @ blocks.2.hook_resid_post[everywhere])
    """
    sets = Sets.read(data, "AcT")
    if config.bounds is not None and len(sets.source) < 2:
        raise BadInputError(
            "Within a support, entries move that lie between the source texts' values, and there "
            "is one source text: next to nothing would. Give more, or Config(support='all')."
        )
    names = places(model, config.sites)
    found = _maps(model, sets, names, config, progress)
    if config.incremental:
        found = _in_turn(model, sets, found, config, progress)
    steering = steer(found, coeff=config.coeff, positions=config.positions)
    return signed(steering, made_by(model, "act", config, sets.digest))


def _maps(
    model: Host, sets: Sets, names: Sequence[str], config: Config, progress: bool
) -> list[Affine]:
    """The map of every hook point under whatever is on, in the order of the pass."""
    source, target = (
        collect(model, items, list(names), config.read, progress=progress).examples
        for items in (sets.source, sets.target)
    )
    return [fitted(x, target[name], config, name) for name, x in source.items()]


def _in_turn(
    model: Host, sets: Sets, alone: Sequence[Affine], config: Config, progress: bool
) -> list[Affine]:
    """The maps fitted one after another, each while those before are on."""
    found = [alone[0]]
    label = f"fitting {count(len(alone), 'hook point')}"
    for each in tqdm(alone[1:], desc=label, disable=not progress):
        assert each.hook_name is not None
        with steer(found, positions=config.positions).on(model):
            found += _maps(model, sets, [each.hook_name], config, progress=False)
    return found
