"""From a direction to the weights: sparse edits in factors, run as hooks, certified, exported."""

from steerlens.editing.acting import Acting as Acting
from steerlens.editing.acting import acting as acting
from steerlens.editing.candidates import Candidate as Candidate
from steerlens.editing.candidates import Candidates as Candidates
from steerlens.editing.candidates import candidates as candidates
from steerlens.editing.certificate import Certificate as Certificate
from steerlens.editing.closed_form import Null as Null
from steerlens.editing.closed_form import objective as objective
from steerlens.editing.closed_form import strengths as strengths
from steerlens.editing.exporting import Exported as Exported
from steerlens.editing.factors import Embeddings as Embeddings
from steerlens.editing.factors import Factors as Factors
from steerlens.editing.factors import Gates as Gates
from steerlens.editing.folding import fold_gates as fold_gates
from steerlens.editing.kept import handles as handles
from steerlens.editing.placebos import random_components as random_components
from steerlens.editing.placebos import top_components as top_components
from steerlens.editing.removing import orthogonalise as orthogonalise
from steerlens.editing.removing import thinkedit as thinkedit
from steerlens.editing.steer2edit import elastic_net as elastic_net
from steerlens.editing.steer2edit import steer2edit as steer2edit
from steerlens.editing.value import Edit as Edit
from steerlens.editing.weights import Handle as Handle
