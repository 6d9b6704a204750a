"""Basis: several directions as one value, at one hook point or at many."""

from steerlens.basis.spans import orthonormal_factor as orthonormal_factor
from steerlens.basis.value import Basis as Basis
