"""What `HookedTransformer` and `TransformerBridge` share, behind one small surface.

SteerLens imports neither class. Hook points go by their classic names on both (`names`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from steerlens.errors import BadInputError, HookError, UnknownNameError, nearest, warn
from steerlens.names import SITES, hook_name, layer_of, split_name

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


_FLAGS = {
    "attn.hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
}
_NEURONS = ("mlp.hook_pre", "mlp.hook_post")
_HEADS_FIRST = re.compile(r"attn\.(hook_)?[qk]_norm")


def is_bridge(model: Host) -> bool:
    """Return whether `model` is a TransformerBridge (it carries the Hugging Face model)."""
    return hasattr(model, "original_model")


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


def by_token(name: str, activation: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return what a hook point holds for each of a pass's (batch, pos) tokens.

    Behind a KV cache a HookedTransformer rotates all keys again: those of the cache are left out.
    Raises HookError where there is no such thing, as under norms that have heads before tokens.
    """
    if name.endswith("hook_rot_k"):
        activation = activation[:, -tokens[1] :]
    heads_first = activation.ndim == 4 and _HEADS_FIRST.search(name)
    if heads_first or tuple(activation.shape[:2]) != tuple(tokens):
        raise HookError(
            f"{name!r} holds {tuple(activation.shape)} in a pass over {tuple(tokens)} tokens "
            "(batch, pos): not a value for each. Read or steer the stream, 'attn_out', 'mlp_out', "
            "'z', 'q', 'k' or 'v'."
        )
    return activation


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
    if names in SITES or any(name in known for name in layers):
        return [_checked(model, name, known) for name in layers]
    if layer_of(names) is not None:
        return [_checked(model, names, known)]  # which says what layers there are
    near = nearest(names, [*SITES, *known]).capitalize()
    raise UnknownNameError(f"The model has no hook point or site {names!r}. {near}.")


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
