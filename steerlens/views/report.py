"""The report: values of a study, each in its own views, on one page that opens offline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steerlens.attribution import Attribution
from steerlens.editing import Edit
from steerlens.effects import Effect, Mediation
from steerlens.errors import BadInputError
from steerlens.evaluation import Comparison, EqualDose
from steerlens.methods.adaptation import Adaptation
from steerlens.provenance import provenances
from steerlens.trace import Trace
from steerlens.views.adapting import shares, trajectory
from steerlens.views.causes import attribution_map, effect_map, flow, mediation_map
from steerlens.views.edits import edit_map
from steerlens.views.effects import effects
from steerlens.views.page import HasHtml, View, page, prose, save_page
from steerlens.views.text import side_by_side
from steerlens.views.traced import tokens

Section = View | str | HasHtml
_DRAWN: dict[type, Callable[[Any], list[Section]]] = {
    Trace: lambda trace: [tokens(trace)],
    Effect: lambda effect: [effect, effect_map(effect), flow(effect)],
    Mediation: lambda found: [mediation_map(found)],
    Attribution: lambda found: [found, attribution_map(found)],
    Edit: lambda edit: [edit, edit_map(edit)],
    Comparison: lambda found: [found.steering, side_by_side(found)],
    EqualDose: lambda found: [prose(found.sentence()), effects(found)],
    Adaptation: lambda found: [found, shares(found), trajectory(found)],
}
"""What is shown of a value, beside or in place of its card."""


def report(path: str | os.PathLike[str], *values: object, title: str = "A steering") -> Path:
    """Write values as one self-contained HTML page, and return its path.

    - `values`: in the order of the page. A string is a heading; a trace, effect, mediation,
      attribution, edit, comparison (plain or at equal dose) or adaptation is drawn; a view is
      shown; of anything else with a notebook card (steerings, directions, bases, doses, ...) its
      card.

    The page ends with what the values were made on, and with versions. It asks the network for
    nothing. Raises BadInputError without values, on one that cannot be shown, and where the folder
    is not there; nothing is written then. Cost: what the views cost; half a megabyte where one of
    them is interactive.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     report(f"{folder}/report.html", "What is added", steering).name
    'report.html'
    """
    if not isinstance(path, str | os.PathLike):
        raise BadInputError(
            f"The first argument is where the report goes; got {type(path).__name__}. Call "
            'report("report.html", steering, trace, ...).'
        )
    if not values:
        raise BadInputError("A report shows one value or more: report(path, steering, trace, ...).")
    sections = [section for value in values for section in _sections(value)]
    about: dict[str, object] = {
        "made on": "; ".join(_made_on(values)) or "not told by what is shown",
        "steerlens": version("steerlens"),
        "torch": version("torch"),
    }
    return save_page(path, page(title, sections, about))


def _sections(value: object) -> list[Section]:
    for kind, drawn in _DRAWN.items():
        if isinstance(value, kind):
            return drawn(value)
    if isinstance(value, View | str | HasHtml):
        return [value]
    raise BadInputError(
        f"A report cannot show {type(value).__name__}: it has no notebook card. Give a view of it, "
        "or steerlens.views.prose(text)."
    )


def _made_on(values: object) -> list[str]:
    """What models, and how, the values say they were made on, each once."""
    found = dict.fromkeys(_told(each) for each in provenances(values))
    return [each for each in found if each]


def _told(provenance: Mapping[str, str]) -> str:
    model = Path(str(provenance.get("model", ""))).name
    rest = (provenance.get(key) for key in ("host", "dtype", "weights", "data"))
    return ", ".join(str(each) for each in (model, *rest) if each)
