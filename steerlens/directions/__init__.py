"""Directions: the vector that tells the sides of a contrast apart, and finding it."""

from steerlens.directions.clipped import clipped_mean_difference as clipped_mean_difference
from steerlens.directions.collection import Directions as Directions
from steerlens.directions.direction import Direction as Direction
from steerlens.directions.direction import Quality as Quality
from steerlens.directions.erasure import Eraser as Eraser
from steerlens.directions.erasure import leace as leace
from steerlens.directions.finding import FINDERS as FINDERS
from steerlens.directions.finding import find_directions as find_directions
from steerlens.directions.lda import whitened as whitened
from steerlens.directions.mean_difference import mean_difference as mean_difference
from steerlens.directions.pca import pca as pca
from steerlens.directions.probe import probe as probe
