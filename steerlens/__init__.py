"""SteerLens: find, steer and see directions in language models, as TransformerLens callbacks.

>>> import steerlens as sl

`sl.methods`, `sl.formats`, `sl.views`, `sl.demo` and `sl.report` are imported when first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from steerlens import editing as editing
from steerlens import effects as effects
from steerlens import evaluation as evaluation
from steerlens import positions as positions
from steerlens import signals as signals
from steerlens import transforms as transforms
from steerlens.activations import Activations as Activations
from steerlens.activations import collect as collect
from steerlens.attribution import Attribution as Attribution
from steerlens.attribution import attribute as attribute
from steerlens.basis import Basis as Basis
from steerlens.contrast import Contrast as Contrast
from steerlens.directions import Direction as Direction
from steerlens.directions import Directions as Directions
from steerlens.directions import find_directions as find_directions
from steerlens.editing import Edit as Edit
from steerlens.editing import steer2edit as steer2edit
from steerlens.effects import Effect as Effect
from steerlens.effects import effect as effect
from steerlens.errors import SteerLensError as SteerLensError
from steerlens.evaluation import calibrate as calibrate
from steerlens.evaluation import compare as compare
from steerlens.interventions import Intervention as Intervention
from steerlens.moments import Moments as Moments
from steerlens.saving import load as load
from steerlens.saving import save as save
from steerlens.signals import of_stream as of_stream
from steerlens.steering import Steering as Steering
from steerlens.trace import Trace as Trace
from steerlens.verbs import ablate as ablate
from steerlens.verbs import add as add
from steerlens.verbs import steer as steer

_ROOMS = {"editing", "effects", "evaluation", "positions", "signals", "transforms"}
_LATER = {"demo", "formats", "methods", "views"}


def __getattr__(name: str) -> Any:
    """Import the rooms that a first import leaves out."""
    if name in _LATER:
        return import_module(f"steerlens.{name}")
    if name == "report":
        return import_module("steerlens.views").report
    if name == "__version__":
        return version("steerlens")
    raise AttributeError(f"module 'steerlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is for users, for tab completion: also what is imported when first used."""
    made_in = {name: getattr(value, "__module__", "") for name, value in globals().items()}
    own = [name for name, module in made_in.items() if module.startswith("steerlens.")]
    return sorted({*own, *_ROOMS, *_LATER, "report", "__version__"})
