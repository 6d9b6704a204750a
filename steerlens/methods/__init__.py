"""The published methods, one file each: mathematics and reference, a config, a fit.

Every module has a frozen `Config` with the paper's defaults and `fit(model, data, config) ->
Steering`: what comes out combines, takes any gate and any positions, traces, calibrates to a dose,
saves and loads like any other steering. `steer2adapt.adapt` searches instead of fitting, and
returns the whole search with its `.steering`.

>>> from steerlens.methods import caa
>>> caa.fit(model, contrast, caa.Config(layer=2, coeff=4))
Steering(4 * add('caa') @ blocks.2.hook_resid_post[generated])
"""

from steerlens.methods import act as act
from steerlens.methods import actadd as actadd
from steerlens.methods import angular as angular
from steerlens.methods import caa as caa
from steerlens.methods import cast as cast
from steerlens.methods import dsas as dsas
from steerlens.methods import e2e_dsas as e2e_dsas
from steerlens.methods import iti as iti
from steerlens.methods import lineas as lineas
from steerlens.methods import refusal as refusal
from steerlens.methods import repe as repe
from steerlens.methods import riser as riser
from steerlens.methods import sadi as sadi
from steerlens.methods import steer2adapt as steer2adapt
from steerlens.methods.data import Sets as Sets
