"""Searching a box of weights for the best score: five ways, at equal budget, behind one call.

A way proposes candidates (n, k) and is told their scores. `gp` and `tpe` are Bayesian
optimisation (a Gaussian process of Matern-5/2 kernels under the logarithm of expected improvement;
Parzen trees), by optuna; `cem` is the cross-entropy search over mixtures of Transformer-Squared's
few-shot mode (arXiv 2501.06252: a population of 32, its best fifth kept); `random` draws from the
box; `coordinate` moves along one axis after another.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.errors import BadInputError, UnknownNameError, nearest

Method = Literal["gp", "tpe", "cem", "random", "coordinate"]
Proposals = Generator[Float64[Tensor, "n k"], Float64[Tensor, " n"], None]
"""Yields candidates, and is sent their scores."""


@dataclass(frozen=True)
class Search:
    """How a box is searched."""

    method: Method = "gp"
    budget: int = 50
    """How many candidates are scored, besides 0."""
    bound: float = 3.0
    """Weights lie from -bound to bound."""
    initial: int | None = None
    """Of `gp` and `tpe`: how many candidates of a Sobol sequence come first; by default 2k."""
    batch: int = 5
    """Of `gp`, `tpe` and `random`: how many candidates are proposed at once, and run in one pass; 1
    learns from each. (`cem` proposes a generation, `coordinate` four steps along an axis.)"""
    population: int = 32
    """Of `cem`: the candidates of a generation."""
    elite: float = 0.2
    """Of `cem`: the share of a generation that the next is drawn around."""
    patience: int | None = 30
    """Stops after so many candidates in turn without a gain; None runs to the end."""
    tolerance: float = 1e-3
    """What counts as a gain of the score."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UnknownNameError on another method, BadInputError on numbers that cannot be."""
        if self.method not in get_args(Method):
            near = nearest(str(self.method), get_args(Method))
            raise UnknownNameError(f"There is no search {self.method!r}; {near}.")
        least = {"budget": 1, "batch": 1, "population": 2, "initial": 1, "patience": 1}
        for name, low in least.items():
            given = getattr(self, name)
            if given is not None and given < low:
                raise BadInputError(f"{name} is {low} or more; got {given}.")
        if not 0 < self.bound < float("inf"):
            raise BadInputError(f"bound is a number above 0; got {self.bound}.")
        if not 0 < self.elite < 1:
            raise BadInputError(f"elite is a share between 0 and 1; got {self.elite}.")


@dataclass(frozen=True, eq=False)
class Found:
    """What a search has scored, in order, 0 first, and why it ended."""

    weights: Float64[Tensor, "n k"]
    values: Float64[Tensor, " n"]
    stopped: str

    @property
    def best(self) -> int:
        """The place of the best; of equals the first, so that 0 stays unless it is beaten."""
        return int((self.values == self.values.max()).nonzero()[0])


def search(
    scored: Callable[[Float[Tensor, "n k"]], Float[Tensor, " n"]],
    k: int,
    config: Search = Search(),
    *,
    zero: float = 0.0,
    progress: bool = True,
) -> Found:
    """Search the weights of k vectors for the highest score; 0, whose score is `zero`, is known.

    `scored` takes candidates, as many as the way proposes at once. Exact by the seed. Stops early
    after `patience` candidates without a gain, and says so. Cost: `budget` scores; `gp` also about
    a fifth of a second a candidate.

    >>> hill = lambda weights: -(weights - 1).square().sum(1)
    >>> found = search(hill, 2, Search("coordinate", patience=None), zero=-2.0, progress=False)
    >>> found.weights[found.best].float().round(decimals=3), found.stopped
    (tensor([1., 1.]), 'the budget of 50 is spent')
    """
    weights, values = [torch.zeros(1, k).double()], [torch.tensor([zero]).double()]
    proposals = _WAYS[config.method](k, config, zero)
    done, best, since = 0, zero, 0
    with tqdm(total=config.budget, desc=f"search by {config.method}", disable=not progress) as bar:
        proposed = next(proposals)
        while True:
            proposed = proposed[: config.budget - done]
            told = scored(proposed.float()).double()
            if told.shape != (len(proposed),) or not bool(told.isfinite().all()):
                raise BadInputError(
                    f"{len(proposed)} candidates need as many finite scores; got {told}."
                )
            weights.append(proposed)
            values.append(told)
            for value in told.tolist():
                done, since = done + 1, since + 1
                if value > best + config.tolerance:
                    best, since = value, 0
            bar.update(len(proposed))
            bar.set_postfix_str(f"best {best:.3g}", refresh=False)
            if done == config.budget:
                stopped = f"the budget of {config.budget} is spent"
                break
            if config.patience is not None and since >= config.patience:
                stopped = f"the last {since} of {done} candidates gained nothing"
                break
            proposed = proposals.send(told)
    return Found(torch.cat(weights), torch.cat(values), stopped)


def _random(k: int, config: Search, zero: float) -> Proposals:
    dice = torch.Generator().manual_seed(config.seed)
    while True:
        yield config.bound * (2 * torch.rand(config.batch, k, generator=dice).double() - 1)


def _cem(k: int, config: Search, zero: float) -> Proposals:
    """Draws around the best of the last generation, as wide as these lie apart."""
    dice = torch.Generator().manual_seed(config.seed)
    mean, spread = torch.zeros(k).double(), torch.full((k,), config.bound / 2).double()
    kept = max(2, round(config.elite * config.population))
    while True:
        drawn = mean + spread * torch.randn(config.population, k, generator=dice).double()
        drawn = drawn.clamp(-config.bound, config.bound)
        values = yield drawn
        best = drawn[values.argsort(descending=True, stable=True)[:kept]]
        mean, spread = best.mean(0), best.std(0).clamp_min(1e-3 * config.bound)


def _coordinate(k: int, config: Search, zero: float) -> Proposals:
    """Tries four steps along each axis in turn; after a round, half as wide."""
    at, best, width = torch.zeros(k).double(), zero, config.bound
    steps = torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0]).double()
    while True:
        for axis in range(k):
            tried = at.repeat(len(steps), 1)
            tried[:, axis] = (at[axis] + width * steps).clamp(-config.bound, config.bound)
            values = yield tried
            if float(values.max()) > best:
                at, best = tried[int(values.argmax())], float(values.max())
        width = width / 2


def _optuna(k: int, config: Search, zero: float) -> Proposals:
    """Bayesian optimisation after a Sobol sequence, with 0 and all of it told beforehand."""
    import optuna

    names = [f"{i:03d}" for i in range(k)]
    axis = optuna.distributions.FloatDistribution(-config.bound, config.bound)
    box: dict[str, Any] = dict.fromkeys(names, axis)
    study = _study(optuna, config)

    def tell(weights: Tensor, values: Tensor) -> None:
        for row, value in zip(weights.tolist(), values.tolist(), strict=True):
            params = dict(zip(names, row, strict=True))
            made = optuna.trial.create_trial(params=params, distributions=box, value=value)
            study.add_trial(made)

    tell(torch.zeros(1, k), torch.tensor([zero]))
    sobol: Any = torch.quasirandom.SobolEngine(k, scramble=True, seed=config.seed)  # type: ignore[no-untyped-call]
    first = config.bound * (2 * sobol.draw(config.initial or 2 * k).double() - 1)
    tell(first, (yield first))
    while True:
        with _quiet(optuna):
            asked = [study.ask(box) for _ in range(config.batch)]
        values = yield torch.tensor([[trial.params[n] for n in names] for trial in asked]).double()
        for trial, value in zip(asked, values.tolist(), strict=True):
            study.tell(trial, value)


def _study(optuna: Any, config: Search) -> Any:
    with _quiet(optuna):
        samplers = optuna.samplers
        sampler = (
            samplers.GPSampler(seed=config.seed, n_startup_trials=0)
            if config.method == "gp"
            else samplers.TPESampler(
                seed=config.seed, n_startup_trials=0, multivariate=True, constant_liar=True
            )
        )
        return optuna.create_study(direction="maximize", sampler=sampler)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """No news of what is experimental, or of studies begun; the user's own level is given back."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)


_WAYS: dict[str, Callable[[int, Search, float], Proposals]] = {
    "gp": _optuna,
    "tpe": _optuna,
    "cem": _cem,
    "random": _random,
    "coordinate": _coordinate,
}
