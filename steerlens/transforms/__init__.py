"""How: transforms, each giving its change in closed form, in float32."""

from steerlens.transforms.entries import Affine as Affine
from steerlens.transforms.entries import Erase as Erase
from steerlens.transforms.entries import Function as Function
from steerlens.transforms.entries import Scale as Scale
from steerlens.transforms.exchange import Interchange as Interchange
from steerlens.transforms.exchange import Replace as Replace
from steerlens.transforms.exchange import stored_pass as stored_pass
from steerlens.transforms.extrapolate import Extrapolate as Extrapolate
from steerlens.transforms.linear import Ablate as Ablate
from steerlens.transforms.linear import Add as Add
from steerlens.transforms.linear import Clamp as Clamp
from steerlens.transforms.linear import MeanAblate as MeanAblate
from steerlens.transforms.norms import AddBeforeNorm as AddBeforeNorm
from steerlens.transforms.norms import KeepNorm as KeepNorm
from steerlens.transforms.rotation import Rotate as Rotate
from steerlens.transforms.rotation import RotateTo as RotateTo
from steerlens.transforms.shift import Shift as Shift
from steerlens.transforms.sides import Piecewise as Piecewise
from steerlens.transforms.transform import Linear as Linear
from steerlens.transforms.transform import Scaled as Scaled
from steerlens.transforms.transform import Transform as Transform
from steerlens.transforms.transform import moved as moved
