"""What `HookedTransformer` and `TransformerBridge` share, behind one small surface.

SteerLens imports neither class. Hook points go by TransformerLens's classic names on both
hosts (`blocks.3.hook_resid_post`), or by their short form (`"resid_post", 3`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor

from steerlens.errors import BadInputError, HookError, UnknownNameError, nearest, warn

T = TypeVar("T")
Key = str | tuple[str, int]
"""A hook name, or a site and a layer."""
HookNames = str | Sequence[str] | Callable[[str], bool]
HookFn = Callable[..., Tensor | None]
FwdHooks = list[tuple[str, HookFn]]


@runtime_checkable
class Host(Protocol):
    """The members of a model that SteerLens relies on, on either host."""

    cfg: Any
    tokenizer: Any

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Every hook point by name, aliases included."""

    def hooks(self, fwd_hooks: FwdHooks = ...) -> AbstractContextManager[Any]:
        """Add hooks for the length of a `with` block."""

    def to_tokens(self, input: str | list[str], *, truncate: bool = ...) -> Tensor:
        """Tokenise, with BOS where the model is used to it."""

    def parameters(self) -> Iterator[Any]:
        """The weights."""

    def __call__(self, input: Any, **options: Any) -> Any:
        """Run a forward pass."""


_SITES = {
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
_FLAGS = {
    "attn.hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}
STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites whose vectors are of the stream, and at which what is written goes to it as it is."""
_NEURONS = ("mlp.hook_pre", "mlp.hook_post")
_BLOCK = re.compile(r"blocks\.(-?\d+)\.(.+)")


def is_bridge(model: Host) -> bool:
    """Return whether `model` is a TransformerBridge (it carries the Hugging Face model)."""
    return hasattr(model, "original_model")


def hook_name(site: str, layer: int | None = None) -> str:
    """Return the full hook name of a site at a layer.

    >>> hook_name("resid_post", 14)
    'blocks.14.hook_resid_post'
    >>> hook_name("z", 0)
    'blocks.0.attn.hook_z'
    """
    if layer is None:
        return site
    return f"blocks.{layer}.{_SITES.get(site, site)}"


def split_name(name: str) -> tuple[str, int | None]:
    """Return the site and layer of a hook name; the layer is None outside the blocks.

    >>> split_name("blocks.14.hook_resid_post")
    ('resid_post', 14)
    """
    match = _BLOCK.fullmatch(name)
    if match is None:
        return name, None
    short = {full: site for site, full in reversed(_SITES.items())}
    return short.get(match[2], match[2]), int(match[1])


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


def check_model(model: Host) -> None:
    """Raise BadInputError on what is no model: as a rule, arguments in another order."""
    if not hasattr(model, "hook_dict"):
        raise BadInputError(
            "A model goes here, a HookedTransformer or a TransformerBridge; got a "
            f"{type(model).__name__}. The model comes first: compare(model, steering, prompts)."
        )


def check_hook_name(model: Host, name: str) -> str:
    """Return `name` if the host has that hook point and it is alive, else raise.

    Raises UnknownNameError with the nearest names where the host lacks it, HookError where
    it is there but dead behind a flag of the model's configuration.
    """
    return _checked(model, name, model.hook_dict)


def _checked(model: Host, name: str, known: Mapping[str, Any]) -> str:
    if name.endswith(_NEURONS) and getattr(model.cfg, "num_experts", None):
        raise HookError(
            f"On a mixture of experts {name!r} is no place of neurons: a bridge means the MLP's "
            "whole input or output by it. Take 'mlp_out'."
        )
    if name not in known:
        _, layer = split_name(name)
        beyond = layer is not None and not 0 <= layer < model.cfg.n_layers
        layers = f" It has layers 0 to {model.cfg.n_layers - 1}." if beyond else ""
        raise UnknownNameError(
            f"The model has no hook point {name!r}.{layers} {nearest(name, known).capitalize()}."
        )
    for ending, flag in _FLAGS.items():
        if name.endswith(ending) and not getattr(model.cfg, flag, False):
            raise HookError(
                f"Hook point {name!r} is dead: the model computes it only with {flag}. "
                f"Call model.set_{flag}(True) first."
            )
    return name


def check_by_token(name: str) -> None:
    """Raise HookError for a hook point whose activations are not one vector a token."""
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        raise HookError(
            f"{name!r} holds a number for every query and key of a head, not a vector a token. "
            "Read or steer 'z', 'q', 'k' or 'v' instead."
        )


def check_read(model: Host, name: str) -> None:
    """Raise UnknownNameError or HookError on a hook point that no signal can read."""
    check_by_token(check_hook_name(model, name))
    if layer_of(name) is None and "embed" in name.split(".")[0] and "unembed" not in name:
        raise HookError(
            f"{name!r} fires before the pass is known. Take 'blocks.0.hook_resid_pre' instead: "
            "it is the sum of the embeddings."
        )


def check_written(model: Host, name: str) -> None:
    """Raise UnknownNameError or HookError on a hook point that cannot be steered."""
    check_read(model, name)
    if is_bridge(model) and name.endswith(("hook_resid_mid", "ln2.hook_in")):
        raise HookError(
            f"{name!r} is only read by the MLP on a TransformerBridge: what is written there does "
            "not reach the stream. Add at 'attn_out' of the same layer, or steer 'resid_post'."
        )


def warn_of_dropout(model: Any) -> None:
    """Warn where dropout is at work, so that no two passes are the same."""
    if model.training and any(
        isinstance(each, torch.nn.Dropout) and each.training and each.p for each in model.modules()
    ):
        warn(
            "The model is in training mode, and its dropout makes every pass another: base and "
            "steered differ by it too. Call model.eval() first."
        )


def hook_names(model: Host, names: HookNames) -> list[str]:
    """Return full hook names from a site for every layer, a full name, several, or a filter.

    >>> hook_names(model, "resid_post")[:2]  # doctest: +SKIP
    ['blocks.0.hook_resid_post', 'blocks.1.hook_resid_post']
    """
    check_model(model)
    known = model.hook_dict  # a bridge puts it together each time it is asked
    return list(dict.fromkeys(_full_names(model, names, known)))


def _full_names(model: Host, names: HookNames, known: Mapping[str, Any]) -> list[str]:
    if callable(names):
        found = [name for name in known if names(name)]
        if not found:
            raise UnknownNameError(
                "The filter matches none of the model's hook points; model.hook_dict names them."
            )
        return found
    if isinstance(names, int):
        raise UnknownNameError(
            f"{names} is no hook point or site. Give a site, 'resid_post', to have it at every "
            "layer, or hook points by their names, ['blocks.2.hook_resid_post']."
        )
    if not isinstance(names, str):
        return [full for name in names for full in _full_names(model, name, known)]
    if names in known:
        return [_checked(model, names, known)]
    layers = [hook_name(names, layer) for layer in range(model.cfg.n_layers)]
    if names in _SITES or any(name in known for name in layers):
        return [_checked(model, name, known) for name in layers]
    if layer_of(names) is not None:
        return [_checked(model, names, known)]  # which says what layers there are
    near = nearest(names, [*_SITES, *known]).capitalize()
    raise UnknownNameError(f"The model has no hook point or site {names!r}. {near}.")


def layer_of(name: str) -> int | None:
    """Return the layer of a hook name, None outside the blocks."""
    return split_name(name)[1]


def token_id(model: Host, which: str) -> int | None:
    """Return the tokenizer's id of "bos", "eos" or "pad", None where it has none."""
    value = getattr(model.tokenizer, f"{which}_token_id", None)
    return None if value is None else int(value)


def need_tokenizer(model: Host, what: str) -> Any:
    """Return the model's tokenizer, or raise naming what needed it, or what is no model."""
    check_model(model)
    if model.tokenizer is None:
        raise BadInputError(
            f"{what} needs a tokenizer and the model has none. Give token ids (a tensor or a "
            "list of int) instead of text, or set a tokenizer when the model is loaded."
        )
    return model.tokenizer


def device_of(model: Host) -> torch.device:
    """Return the device of the model's first parameter, where its input goes."""
    return torch.device(next(iter(model.parameters())).device)


def dtype_of(model: Host) -> torch.dtype:
    """Return the dtype of the model's first weights, in which it computes."""
    found = next(each.dtype for each in model.parameters() if each.is_floating_point())
    return cast(torch.dtype, found)


def load(folder_or_name: str) -> Host:
    """Load a model as a TransformerBridge, from a local folder or by name."""
    from transformer_lens.model_bridge import TransformerBridge

    model: Any = TransformerBridge.boot_transformers(folder_or_name)
    return cast(Host, model)


@contextmanager
def no_bar() -> Iterator[None]:
    """Keep transformers' bars quiet over a file that is read or written before one could look."""
    from transformers.utils import logging

    switch: Any = logging
    shown = switch.is_progress_bar_enabled()
    switch.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            switch.enable_progress_bar()
