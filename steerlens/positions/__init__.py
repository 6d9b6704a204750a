"""Where in the text: selectors of token positions, one language for reading and writing.

A selector looks at a `Window`, the tokens of one pass with their absolute place in their
texts, and picks some. Positions are absolute and causal: a token's membership is fixed when
it is first computed, so a selector means the same in a full pass, under a KV cache, in a
padded batch and in `generate`. Pads are never picked; BOS only where it is asked for by
index or `every_token`, or is all the prompt there is.

By place: `everywhere`, `every_token` (BOS too), `prompt`, `generated`, `predicting`,
`last_prompt_token`, `first(n)`, `last(n)`, `index(i)`, `span(start, stop)`. By what is written:
`matching(...)`, `after(...)`, `between(..., ...)`, `role("assistant")`. Combined:
`prompt & ~first(3)`. `.show(model, text)` shows what a selector picks.
"""

from steerlens.positions.combining import AllOf as AllOf
from steerlens.positions.combining import AnyOf as AnyOf
from steerlens.positions.combining import Combining as Combining
from steerlens.positions.combining import Complement as Complement
from steerlens.positions.combining import Custom as Custom
from steerlens.positions.combining import Positions as Positions
from steerlens.positions.combining import Selector as Selector
from steerlens.positions.phrases import Between as Between
from steerlens.positions.phrases import Matching as Matching
from steerlens.positions.phrases import Text as Text
from steerlens.positions.phrases import after as after
from steerlens.positions.phrases import between as between
from steerlens.positions.phrases import matching as matching
from steerlens.positions.roles import Role as Role
from steerlens.positions.roles import role as role
from steerlens.positions.selectors import NAMED as NAMED
from steerlens.positions.selectors import Everywhere as Everywhere
from steerlens.positions.selectors import First as First
from steerlens.positions.selectors import FromPromptEnd as FromPromptEnd
from steerlens.positions.selectors import Span as Span
from steerlens.positions.selectors import every_token as every_token
from steerlens.positions.selectors import everywhere as everywhere
from steerlens.positions.selectors import first as first
from steerlens.positions.selectors import generated as generated
from steerlens.positions.selectors import index as index
from steerlens.positions.selectors import last as last
from steerlens.positions.selectors import last_prompt_token as last_prompt_token
from steerlens.positions.selectors import missed as missed
from steerlens.positions.selectors import predicting as predicting
from steerlens.positions.selectors import prompt as prompt
from steerlens.positions.selectors import selector as selector
from steerlens.positions.selectors import span as span
from steerlens.positions.showing import Shown as Shown
from steerlens.positions.window import Mask as Mask
from steerlens.positions.window import Window as Window
from steerlens.positions.window import closing as closing
from steerlens.positions.window import padding as padding
