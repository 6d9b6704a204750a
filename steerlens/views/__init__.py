"""What a person looks at: static twins everywhere, circuitsvis drawings where scripts run.

Every function takes plain data (strings, sequences, arrays or tensors) and returns a `View`,
which shows itself in a notebook, is saved as one offline page, or becomes part of one.
"""

from steerlens.views.attention import attention as attention
from steerlens.views.bars import Bar as Bar
from steerlens.views.bars import bars as bars
from steerlens.views.bundle import embed as embed
from steerlens.views.effects import Effect as Effect
from steerlens.views.effects import effects as effects
from steerlens.views.fronts import Points as Points
from steerlens.views.fronts import fronts as fronts
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
from steerlens.views.text import side_by_side as side_by_side
from steerlens.views.tokens import colored_tokens as colored_tokens
from steerlens.views.traced import heads as heads
from steerlens.views.traced import tokens as tokens
