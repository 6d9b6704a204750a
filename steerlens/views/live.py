"""What circuitsvis would draw: its element and props, through its own public functions.

A figure's `_repr_html_` is never called, since it asks a public site whether it is online.
Every function returns `(None, None)` where circuitsvis is not installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from steerlens.errors import SteerLensError
from steerlens.views.scale import Floats
from steerlens.views.theme import BLUE, VERMILION, on_white

Drawing = tuple[str | None, dict[str, Any] | None]

_CALL = re.compile(
    r'render\(\s*"circuits-vis-[^"]*",\s*(\w+),\s*(\{.*\})\s*\)\s*</script>\s*\Z', re.S
)


def colored_tokens(tokens: Sequence[str], values: Floats, top: float) -> Drawing:
    """Return one row of coloured tokens; `values` of shape `pos`, finite."""
    try:
        from circuitsvis.tokens import colored_tokens as draw
    except ImportError:
        return None, None
    return _unpack(
        draw(list(tokens), _short(values, top), -top, top, on_white(VERMILION), on_white(BLUE))
    )


def colored_tokens_multi(
    tokens: Sequence[str], values: Floats, labels: Sequence[str], top: float
) -> Drawing:
    """Return coloured tokens with a row to choose; `values` of shape `pos layer`, finite.

    All rows share one scale. circuitsvis rounds its bounds to six decimals, so a scale
    that would round to nothing has no drawing.
    """
    if top < 1e-4:
        return None, None
    try:
        from circuitsvis.tokens import colored_tokens_multi as draw
        from torch import tensor
    except ImportError:
        return None, None
    element, props = _unpack(draw(list(tokens), tensor(_short(values, top)), list(labels)))
    bounds = {"positiveBounds": [top] * len(labels), "negativeBounds": [-top] * len(labels)}
    return element, {**(props or {}), "values": _short(values, top), **bounds}


def attention_heads(
    tokens: Sequence[str], patterns: Floats, names: Sequence[str], top: float
) -> Drawing:
    """Return a selector of heads; `patterns` of shape `head query key`, finite."""
    try:
        from circuitsvis.attention import attention_heads as draw
    except ImportError:
        return None, None
    rounded = np.round(patterns, 3).tolist()
    return _unpack(
        draw(rounded, list(tokens), list(names), top, -top, VERMILION, BLUE, mask_upper_tri=False)
    )


def _short(values: Floats, top: float) -> Any:
    """Return the values as lists, to four digits of the scale's top."""
    decimals = max(0, 4 - int(np.floor(np.log10(top))) - 1)
    return np.round(values, decimals).tolist()


def _unpack(figure: Any) -> Drawing:
    """Take element and props out of a circuitsvis figure."""
    found = _CALL.search(figure.cdn_src)
    if found is None:
        raise SteerLensError(
            "This version of circuitsvis writes its figures in another form. "
            "Install circuitsvis 1.43, or show the view's `.static`."
        )
    return found[1], json.loads(found[2])
