"""Numbers to colours: one scale a view, with its legend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerlens.errors import BadInputError
from steerlens.views.theme import BLUE, LEGIBLE, VERMILION, text, tint

Floats = NDArray[np.float64]
Number = float | int
"""For runtime type checkers, to which an int is no float."""


def numbers(values: Any) -> Floats:
    """Return a torch tensor (any dtype, any device), an array or lists as a float64 array.

    >>> numbers([1, 2]).tolist()
    [1.0, 2.0]
    """
    if hasattr(values, "detach"):  # numpy has no bfloat16
        values = values.detach().to("cpu").double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadInputError(
            f"These values are no rectangle of numbers ({error}). Give a tensor, an array or lists."
        ) from None


def shown(value: float) -> str:
    """Return a number to three significant digits, with a true minus sign.

    >>> shown(0.01234), shown(-3.0), shown(-0.0), shown(float("nan"))
    ('0.0123', '−3', '0', 'NaN')
    """
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "inf" if value > 0 else "−inf"
    return f"{value + 0.0:.3g}".replace("-", "−")  # + 0.0: a zero has no sign


def signed(value: float) -> str:
    """Return a number as `shown`, with a plus sign where it is above 0.

    >>> signed(0.5), signed(-0.5), signed(0.0)
    ('+0.5', '−0.5', '0')
    """
    return f"+{shown(value)}" if value > 0 else shown(value)


@dataclass(frozen=True)
class Scale:
    """Colour proportional to the value: blue above zero, vermilion below, none at zero."""

    top: float
    """The magnitude drawn at full strength."""
    signed: bool
    """Whether any value is below zero."""
    missing: int
    """How many values are not finite."""
    clipped: bool = False
    """Whether some values lie beyond `top`, and are drawn as it is."""
    strongest: float = LEGIBLE
    """The opacity at `top`."""

    @classmethod
    def of(cls, values: Floats) -> Scale:
        """Return the scale that spans the finite values, from zero.

        >>> scale = Scale.of(numbers([0.0, -2.0, float("nan")]))
        >>> scale.top, scale.signed, scale.missing
        (2.0, True, 1)
        """
        finite = values[np.isfinite(values)]
        top = float(np.abs(finite).max()) if finite.size else 0.0
        return cls(
            float(f"{top:.4g}") or 1.0, bool((finite < 0).any()), int(values.size - finite.size)
        )

    @classmethod
    def of_maps(cls, values: Floats) -> Scale:
        """Return a scale for heat maps, whose few largest values would make the rest pale.

        It ends at the 99th percentile of what is not zero, and no text stands on it.
        """
        whole = cls.of(values)
        sizes = np.abs(values[np.isfinite(values) & (values != 0)])
        top = float(np.quantile(sizes, 0.99)) if sizes.size else whole.top
        return replace(whole, top=float(f"{top:.4g}"), clipped=top < whole.top, strongest=1.0)

    def colour(self, value: float) -> str:
        """Return the background of a value; an empty string for zero."""
        if not np.isfinite(value):
            return "#8883"
        if value == 0:
            return ""
        return tint(BLUE if value > 0 else VERMILION, abs(value) / self.top, self.strongest)

    def paint(self, value: float) -> str:
        """Return the HTML attributes that colour a cell by its value."""
        colour = self.colour(value)
        hatch = "" if np.isfinite(value) else "class=sl-nan "
        return f"{hatch}style=background-color:{colour}" if colour else ""

    def legend(self, unit: str) -> str:
        """Return the legend: the scale's ends with its unit, and what is not finite."""
        steps = np.linspace(-self.top if self.signed else 0.0, self.top, 9 if self.signed else 6)
        ramp = "".join(f"<i {self.paint(float(step))}></i>" for step in steps)
        high, low = shown(self.top), shown(-self.top) if self.signed else "0"
        if self.clipped:
            high, low = f"≥ {high}", f"≤ {low}" if self.signed else low
        unit = f" {text(unit)}" if unit else ""
        lines = (
            f'<span>{low}<span class="sl-ramp" style="outline:1px solid #8884">{ramp}</span>'
            f"{high}{unit}</span>"
        )
        if self.missing:
            values = "value" if self.missing == 1 else "values"
            lines += (
                '<span><i class="sl-nan" style="background-color:#8883"></i>'
                f"{self.missing:,} {values} not finite (NaN or inf)</span>"
            )
        return f'<div class="sl-legend">{lines}</div>'
