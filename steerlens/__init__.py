"""SteerLens: find, steer and see directions in language models, as TransformerLens callbacks.

>>> import steerlens as sl
"""

from steerlens import positions as positions
from steerlens.activations import Activations as Activations
from steerlens.activations import Moments as Moments
from steerlens.activations import collect as collect
from steerlens.contrast import Contrast as Contrast
from steerlens.directions import Direction as Direction
from steerlens.directions import Directions as Directions
from steerlens.directions import find_directions as find_directions
from steerlens.errors import SteerLensError as SteerLensError
from steerlens.interventions import Intervention as Intervention
from steerlens.steering import Steering as Steering
from steerlens.steering import ablate as ablate
from steerlens.steering import add as add
from steerlens.trace import Trace as Trace
