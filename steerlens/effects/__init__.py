"""What a steering causes: which layers, heads and neurons respond, and through which paths."""

from steerlens.effects.account import Effect as Effect
from steerlens.effects.lens import LogitLens as LogitLens
from steerlens.effects.lens import logit_lens as logit_lens
from steerlens.effects.looking import Look as Look
from steerlens.effects.looking import look as look
from steerlens.effects.measuring import effect as effect
from steerlens.effects.mediation import Mediation as Mediation
from steerlens.effects.mediation import mediation as mediation
from steerlens.effects.readers import Readers as Readers
from steerlens.effects.readers import readers as readers
from steerlens.effects.readout import Metric as Metric
