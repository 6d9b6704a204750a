"""Attribution: which heads and neurons carry a direction, or move a metric."""

from steerlens.attribution.attributing import attribute as attribute
from steerlens.attribution.value import Attribution as Attribution
from steerlens.attribution.value import Scores as Scores
