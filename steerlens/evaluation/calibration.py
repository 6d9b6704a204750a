"""Calibration: the smallest coefficient that gives a dose, for any steering.

A scan of coefficients, all rows of one pass, finds where the dose first passes the target;
regula falsi between the logarithms of coefficient and dose closes in on it (a small dose grows
as the square of the coefficient, so the curve is nearly straight there), and bisection where
that is slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, log, pi
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from steerlens.cards import card, count, number
from steerlens.errors import BadInputError, OutOfReachError
from steerlens.evaluation.dose import Dose, forced, held_out_interval, mean_nats, measured
from steerlens.evaluation.forcing import Forced
from steerlens.host import Host
from steerlens.signals import Constant, Product, Rows, Signal
from steerlens.statistics import Interval
from steerlens.steering import Steering
from steerlens.text import Item

if TYPE_CHECKING:
    import pandas

SHARES = torch.logspace(-2, 0.8, 12).tolist()
"""Lengths of the change that are scanned, as shares of the activation's."""
OF_RANGE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Parts of its range that are scanned, of a steering whose strength is bounded."""
STEPS = 60
"""Coefficients tried between two of the scan before it is said that the dose jumps."""


@dataclass(frozen=True, repr=False, eq=False)
class Calibrated:
    """A steering at the smallest coefficient that gives a dose, and how it was found."""

    steering: Steering
    """At that coefficient."""
    coeff: float
    """What the steering given was multiplied by."""
    dose: Dose
    target: float
    """The dose asked for, in nats a token."""
    reach: tuple[float, float]
    """The lowest and the highest dose that the scan met."""
    coeffs: Float[Tensor, " tried"]
    """All coefficients tried, from 0 outwards."""
    kls: Float[Tensor, " tried"]
    """The dose of each; infinite where the model overflowed."""

    def interval_on(self, held_out: Dose) -> Interval:
        """Return the 95% interval of its dose on other prompts, the chance in its own included."""
        return held_out_interval(held_out, self.dose)

    def frame(self) -> pandas.DataFrame:
        """Return a tidy table of what was tried: `coeff` and `kl` in nats a token."""
        import pandas

        return pandas.DataFrame({"coeff": self.coeffs.numpy(), "kl": self.kls.numpy()})

    def __repr__(self) -> str:
        """Return coefficient, dose and reach."""
        low, high = map(number, self.reach)
        return (
            f"Calibrated(coeff {number(self.coeff, 4)} for {number(self.target)} nats a token; "
            f"{count(len(self.coeffs), 'coefficient')} tried, {low} to {high} nats)\n"
            f"  {self.dose!r}\n  {self.steering!r}"
        )

    def _repr_html_(self) -> str:
        lines = repr(self).splitlines()
        rows = {"dose": lines[1].strip(), "steering": lines[2].strip()}
        return card(lines[0], rows)


def calibrate(
    steering: Steering,
    model: Host,
    prompts: Iterable[Item],
    kl: float = 0.5,
    control: Iterable[Item] | None = None,
    *,
    coeffs: Sequence[float] | None = None,
    sign: int = 1,
    tolerance: float = 0.01,
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_tokens: int = 4096,
    progress: bool = False,
) -> Calibrated:
    """Return the steering at the smallest coefficient whose dose is `kl` nats a token.

    - `prompts`, `control`, `max_new_tokens`, `seed`: as in `dose`. The base completions are
      sampled once. Prompts are a sample: on others the dose lies further off than its interval
      there says, by the chance in these; `interval_on` counts both.
    - `coeffs`: the coefficients to scan, where the default ones are too few to see that a dose
      rises, falls and rises again. By default they change an activation by a hundredth of its
      length up to six times, and go on while the dose is not reached.
    - `sign`: -1 scans negative coefficients.
    - `tolerance`: how far the dose may be off, as a share of it.

    A strength that is a share stays within 0 to 1, one that is an angle within half a turn;
    gates that a run alone can tell are taken to be 1 at most. Raises OutOfReachError, a
    BadInputError, where no coefficient gives the dose, and says which doses can be reached. Cost:
    one generation, a pass for each of 15 to 25 coefficients.

    >>> found = calibrate(steering, model, ["a good day", "the bad cat"], kl=0.1)
    >>> abs(found.dose.kl / 0.1 - 1) < 0.01
    True
    """
    if not isinstance(steering, Steering):
        raise BadInputError(
            f"calibrate is given a {type(steering).__name__} where a steering goes. Call "
            "calibrate(steering, model, prompts, kl=...); of a direction, sl.add makes a steering, "
            "of an edit, edit.as_steering()."
        )
    if not (0 < kl < inf and 0 < tolerance < 1 and sign in (1, -1)):
        raise BadInputError(
            f"A dose is a number of nats above 0, its tolerance a share and its sign 1 or -1; got "
            f"{kl}, {tolerance} and {sign}."
        )
    limit = _limit(steering, sign)
    on = forced(model, prompts, max_new_tokens, seed, batch_tokens, progress)
    curve = _Curve(sign * steering if sign < 0 else steering, on, kl, tolerance / 2, progress)
    curve.scan(_checked(coeffs, limit) if coeffs else _first_scan(curve, limit))
    if coeffs is None and limit == inf:
        curve.reach_up()
    curve.reach_down()
    coeff = sign * curve.smallest(limit)
    beside = None
    if control is not None:
        beside = forced(model, control, max_new_tokens, seed, batch_tokens, progress)
    [dose] = measured(steering, [coeff], on, beside)
    tried = sorted(curve.tried.items())
    return Calibrated(
        steering=coeff * steering,
        coeff=coeff,
        dose=dose,
        target=kl,
        reach=curve.reach,
        coeffs=torch.tensor([sign * each for each, _ in tried]),
        kls=torch.tensor([nats for _, nats in tried]),
    )


class _Curve:
    """The dose as a function of the coefficient, above 0, as far as it has been tried."""

    def __init__(
        self, steering: Steering, on: Forced, target: float, tolerance: float, progress: bool
    ) -> None:
        self.steering, self.on, self.progress = steering, on, progress
        self.target, self.tolerance = target, tolerance
        self.tried: dict[float, float] = {}

    def scan(self, coeffs: Sequence[float]) -> None:
        """Try several coefficients as rows of one pass."""
        found = mean_nats(self.on.nats(self.steering, coeffs, self.progress))
        self.tried |= dict(zip(coeffs, found.tolist(), strict=True))

    def reach_up(self) -> None:
        """Go on to larger coefficients while the dose is not reached."""
        for _ in range(3):
            if max(self.tried.values()) < self.target:
                last = max(self.tried)
                self.scan([2 * last, 4 * last])

    def reach_down(self) -> None:
        """Go on to smaller coefficients until one gives less than the dose."""
        for _ in range(8):
            if self.tried[min(self.tried)] > self.target:
                first = min(self.tried)
                self.scan([first / 16, first / 4])

    @property
    def reach(self) -> tuple[float, float]:
        """The lowest and highest dose met, overflow left out."""
        met = [nats for nats in self.tried.values() if isfinite(nats)] or [inf]
        return min(met), max(met)

    def _right(self, nats: float) -> bool:
        return abs(nats / self.target - 1) <= self.tolerance

    def smallest(self, limit: float) -> float:
        """Return the smallest coefficient that gives the dose, between those tried."""
        before: tuple[float, float] | None = None
        for point in sorted(self.tried.items()):
            if self._right(point[1]):
                return point[0]
            if point[1] > self.target:
                return self._between(before or (point[0], 0.0), point)
            before = point
        raise OutOfReachError(self._out_of_reach(limit))

    def _between(self, low: tuple[float, float], high: tuple[float, float]) -> float:
        """Close in on the target between a coefficient that gives less and one that gives more."""
        start = low, high
        for step in range(STEPS):
            coeff = exp(_next(low, high, self.target, straight=step % 3 < 2))
            if high[0] < low[0] * (1 + 1e-6):
                break
            self.scan([coeff])
            point = coeff, self.tried[coeff]
            if self._right(point[1]):
                return coeff
            low, high = (low, point) if point[1] > self.target else (point, high)
        raise OutOfReachError(
            f"The dose jumps from {number(low[1])} to {number(high[1])} nats a token at "
            f"coefficient {number(high[0], 6)}, so none between {number(start[0][0])} and "
            f"{number(start[1][0])} gives {number(self.target)}. A gate opens there all at once: "
            "ask for a dose on either side, or make the gate soft."
        )

    def _out_of_reach(self, limit: float) -> str:
        low, high = map(number, self.reach)
        if self.reach[1] == 0:
            return (
                f"The steering changes nothing at any coefficient from {number(min(self.tried))} "
                f"to {number(max(self.tried))}, so no dose of {number(self.target)} nats a token. "
                "Look at its trace: is its coefficient 0, its gate shut, or no token selected?"
            )
        bound = "" if limit == inf else f" (its strength ends at coefficient {number(limit)})"
        remedy = "steer at more positions or layers" if limit < inf else "give coeffs=[...] to scan"
        return (
            f"No coefficient gives {number(self.target)} nats a token: those from "
            f"{number(min(self.tried))} to {number(max(self.tried))}{bound} reach {low} to {high}. "
            f"Ask for a dose in that range, or {remedy}."
        )


def _next(
    low: tuple[float, float], high: tuple[float, float], target: float, straight: bool
) -> float:
    """The logarithm of the next coefficient to try: on the straight line, or halfway."""
    a, b = log(low[0]), log(high[0])
    if not straight or low[1] <= 0 or not isfinite(high[1]):
        return (a + b) / 2
    part = log(target / low[1]) / log(high[1] / low[1])
    return a + min(max(part, 0.02), 0.98) * (b - a)


def _first_scan(curve: _Curve, limit: float) -> list[float]:
    """Coefficients that change an activation a little up to a lot, or all of a bounded range."""
    if limit < inf:
        return [limit * part for part in OF_RANGE]
    share = float(curve.on.nats(curve.steering, [1.0]).share)
    unit = share if isfinite(share) and share > 0 else 1.0
    return [each / unit for each in SHARES]


def _checked(coeffs: Sequence[float], limit: float) -> list[float]:
    sizes = sorted({abs(float(each)) for each in coeffs} - {0.0})
    if not sizes or not isfinite(sizes[-1]) or sizes[-1] > limit:
        raise BadInputError(
            f"The coefficients to scan are finite, not all 0, and {number(limit)} at most here; "
            f"got {list(coeffs)}."
        )
    return sizes


def _limit(steering: Steering, sign: int) -> float:
    """The largest coefficient that keeps every strength in its range; infinite without one."""
    limit = inf
    for leaf in steering.interventions:
        scales = leaf.transform.scales
        if scales == "share" and sign < 0:
            raise BadInputError(
                f"The strength of {leaf!r} is a share from 0 to 1, which has no negative side. "
                "Take sign=1."
            )
        largest = _largest(leaf.coeff) * _largest(leaf.gate)
        if scales != "amplitude" and largest > 0:
            whole = 1.0 if scales == "share" else pi
            # A little below, where a quotient's rounding could pass the range.
            limit = min(limit, whole if largest == 1 else whole / largest * (1 - 1e-6))
    return limit


def _largest(signal: Signal) -> float:
    """The largest size of a signal; 1 where a run alone can tell."""
    if isinstance(signal, Constant):
        return abs(signal.value)
    if isinstance(signal, Rows):
        return float(signal.values.abs().max())
    if isinstance(signal, Product):
        return _largest(signal.first) * _largest(signal.second)
    return 1.0
