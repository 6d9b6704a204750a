"""The names of hook points: TransformerLens's own, or a site and a layer.

They are the classic ones on both hosts (`blocks.3.hook_resid_post`); `"resid_post", 3` is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from steerlens.errors import UnknownNameError, nearest

T = TypeVar("T")
Key = str | tuple[str, int]
"""A hook name, or a site and a layer."""
SITES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "rot_q": "attn.hook_rot_q",
    "rot_k": "attn.hook_rot_k",
    "z": "attn.hook_z",
    "pattern": "attn.hook_pattern",
    "result": "attn.hook_result",
    "mlp_pre": "mlp.hook_pre",
    "mlp_post": "mlp.hook_post",
    "post": "mlp.hook_post",
}
STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites whose vectors are of the stream, and at which what is written goes to it as it is."""
_BLOCK = re.compile(r"blocks\.(-?\d+)\.(.+)")


def hook_name(site: str, layer: int | None = None) -> str:
    """Return the full hook name of a site at a layer.

    >>> hook_name("resid_post", 14)
    'blocks.14.hook_resid_post'
    >>> hook_name("z", 0)
    'blocks.0.attn.hook_z'
    """
    if layer is None:
        return site
    return f"blocks.{layer}.{SITES.get(site, site)}"


def split_name(name: str) -> tuple[str, int | None]:
    """Return the site and layer of a hook name; the layer is None outside the blocks.

    >>> split_name("blocks.14.hook_resid_post")
    ('resid_post', 14)
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name, None
    short = {full: site for site, full in reversed(SITES.items())}
    return short.get(match[2], match[2]), int(match[1])


def layer_of(name: str) -> int | None:
    """Return the layer of a hook name, None outside the blocks."""
    return split_name(name)[1]


def at_hook(found: Mapping[str, T], key: Key, what: str) -> T:
    """Return what there is at a hook name, or at a (site, layer), as ActivationCache does.

    Raises UnknownNameError, with the layers that there are, on any other; `what` names a value.

    >>> at_hook({"blocks.2.hook_resid_post": 0.5}, ("resid_post", 2), "share")
    0.5
    """
    pair = isinstance(key, tuple) and len(key) == 2
    if not pair and not isinstance(key, str):
        raise UnknownNameError(f"Give a hook name or (site, layer), not {key!r}.")
    name = hook_name(*key) if isinstance(key, tuple) else key
    if name not in found:
        layers = sorted({layer for each in found if (layer := layer_of(each)) is not None})
        raise UnknownNameError(
            f"There is no {what} at {name!r}. {nearest(name, found).capitalize()}."
            + f" There are {what}s at layers {', '.join(map(str, layers))}." * pair
        )
    return found[name]
