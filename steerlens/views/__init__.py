"""What a person looks at: static twins everywhere, circuitsvis drawings where scripts run.

Every function takes plain data (strings, sequences, arrays or tensors) and returns a `View`,
which shows itself in a notebook, is saved as one offline page, or becomes part of one.
"""

from steerlens.views.adapting import shares as shares
from steerlens.views.adapting import trajectory as trajectory
from steerlens.views.attention import attention as attention
from steerlens.views.bars import Bar as Bar
from steerlens.views.bars import bars as bars
from steerlens.views.bundle import embed as embed
from steerlens.views.causes import attribution_map as attribution_map
from steerlens.views.causes import effect_map as effect_map
from steerlens.views.causes import flow as flow
from steerlens.views.causes import mediation_map as mediation_map
from steerlens.views.edits import acts_on as acts_on
from steerlens.views.edits import edit_map as edit_map
from steerlens.views.effects import MethodEffect as MethodEffect
from steerlens.views.effects import effects as effects
from steerlens.views.fronts import Points as Points
from steerlens.views.fronts import fronts as fronts
from steerlens.views.lens import logit_lens as logit_lens
from steerlens.views.looks import looked as looked
from steerlens.views.looks import rests_on as rests_on
from steerlens.views.maps import head_map as head_map
from steerlens.views.matrix import compositions as compositions
from steerlens.views.matrix import concepts as concepts
from steerlens.views.matrix import matrix as matrix
from steerlens.views.page import HasHtml as HasHtml
from steerlens.views.page import Html as Html
from steerlens.views.page import View as View
from steerlens.views.page import page as page
from steerlens.views.page import prose as prose
from steerlens.views.page import save_page as save_page
from steerlens.views.plots import Band as Band
from steerlens.views.plots import Line as Line
from steerlens.views.plots import Panel as Panel
from steerlens.views.plots import curve as curve
from steerlens.views.plots import panels as panels
from steerlens.views.report import report as report
from steerlens.views.sweeps import dose_response as dose_response
from steerlens.views.sweeps import layer_sweep as layer_sweep
from steerlens.views.text import side_by_side as side_by_side
from steerlens.views.tokens import colored_tokens as colored_tokens
from steerlens.views.traced import heads as heads
from steerlens.views.traced import projections as projections
from steerlens.views.traced import tokens as tokens
from steerlens.views.waterfall import waterfall as waterfall
