"""How a clock hears of a host's passes: forward pre-hooks, and marks on `generate`.

The bridge's Hugging Face model sees tokens, mask and cache in every kind of call. In a
HookedTransformer the embedding sees the tokens and the first block the mask and the cache.
Prefill and decoding cannot be told apart by the pass itself, so `generate` and its kin are
marked while they run, by an instance attribute that is deleted on leaving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from steerlens.clock import Clock, Generation
from steerlens.errors import BadInputError, HookError
from steerlens.host import FwdHooks, Host, is_bridge, warn_of_dropout
from steerlens.text import Batch

_GENERATORS = ("generate", "generate_stream", "hf_generate")
_CLOCKS = "_steerlens_clocks"
_NO_TOKENS = (
    "The model was called with embeddings (or start_at_layer), so nothing tells which token is "
    "where. A steered pass needs token ids: call the whole model on tokens or text."
)


@contextmanager
def following(
    model: Host, *, layers: set[int], prompt_lengths: Int[Tensor, " batch"] | None = None
) -> Iterator[Clock]:
    """Yield a clock that follows every pass of `model` until the block is left."""
    clock = Clock(model, prompt_lengths)
    with ExitStack() as stack:
        for handle in _listeners(model, clock, layers):
            stack.callback(handle.remove)
        stack.enter_context(_listed(model, clock))
        yield clock


@contextmanager
def _listed(model: Host, clock: Clock) -> Iterator[None]:
    """Keep a clock among the model's; the last to leave, whichever it is, takes all away."""
    if _CLOCKS not in vars(model):
        vars(model)[_CLOCKS] = _Clocks(model)
    clocks: _Clocks = vars(model)[_CLOCKS]
    clocks.append(clock)
    try:
        yield
    finally:
        clocks.remove(clock)
        if not clocks:
            del vars(model)[_CLOCKS]
            clocks.unmark(model)


class _Clocks(list[Clock]):
    """The clocks that follow a model. Its generate methods are shadowed by ones that tell them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        names = [name for name in _GENERATORS if hasattr(model, name)]
        self._own = {name: vars(model).get(name) for name in names}
        for name in names:
            marked = _marked_stream if name.endswith("stream") else _marked_call
            vars(model)[name] = marked(getattr(model, name), model, self)

    def unmark(self, model: Any) -> None:
        """Take the shadows away, and put back what the user had there."""
        for name, own in self._own.items():
            del vars(model)[name]
            if own is not None:
                vars(model)[name] = own


@contextmanager
def telling(model: Host, batch: Batch) -> Iterator[None]:
    """Tell every clock that follows `model` which tokens are prompt, completion and pads.

    For code that scores or reads (prompt, completion) items, under whatever steering is on.
    """
    with ExitStack() as stack:
        for clock in vars(model).get(_CLOCKS, ()):
            stack.enter_context(clock.told(batch.prompt_lengths, batch.real))
        yield


def one_pass(model: Host, batch: Batch, fwd_hooks: FwdHooks) -> Float[Tensor, "batch pos d_vocab"]:
    """Run one pass over a batch, told to every clock, under hooks of its own; return the logits.

    The hooks stand after those of whatever steering is on, and see what it wrote. One that raises
    ends the pass: `suppress(Enough)` around it.
    """
    warn_of_dropout(model)
    with telling(model, batch), hooked(model, fwd_hooks):
        logits: Tensor = model(batch.tokens)
    return logits


def keeping(seen: dict[str, Tensor], names: Iterable[str]) -> FwdHooks:
    """Return hooks that leave in `seen`, by hook name, what a pass brings by."""

    def keep(name: str, activation: Tensor, hook: Any) -> None:
        seen[name] = activation.detach()

    return [(name, partial(keep, name)) for name in dict.fromkeys(names)]


def bare(model: Host) -> bool:
    """Return whether no steering is on and no hook stands at any hook point."""
    return not vars(model).get(_CLOCKS) and not any(
        point.fwd_hooks for point in model.hook_dict.values()
    )


def logits_at(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
    **options: Any,
) -> Float[Tensor, "asked d_vocab"]:
    """Run a pass and return the logits at the positions of a mask, row after row.

    Only these positions are unembedded, unless a hook at the unembedding would see it: of a
    vocabulary of 256,000 words the logits of a whole batch take gigabytes. `options` go to the
    host's call.
    """
    if any(each._forward_hooks or each._forward_pre_hooks for each in model.unembed.modules()):
        every: Tensor = model(tokens, **options)
        return every[mask]

    def keep(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][mask][None], *args[1:])

    handle = model.unembed.register_forward_pre_hook(keep)
    try:
        asked: Tensor = model(tokens, **options)
    finally:
        handle.remove()
    return asked[0]


@contextmanager
def hooked(model: Host, fwd_hooks: FwdHooks) -> Iterator[None]:
    """Add hooks at full hook names for the length of a block, and take away these alone.

    The host's own `hooks` takes away all of its depth, those of a block that crosses it too. And
    here the bridge puts its table of hook points together once rather than for every hook: 5 ms
    of one in place of 70 for twelve, at GPT-2's depth.
    """
    known, added = model.hook_dict, []
    try:
        for name, function in fwd_hooks:
            known[name].add_hook(function)
            added.append((known[name], known[name].fwd_hooks[-1]))
        yield
    finally:
        for point, handle in added:
            handle.hook.remove()
            # Another list by now, where the host's own `hooks` or `reset_hooks` ran in the block.
            point.fwd_hooks = [each for each in point.fwd_hooks if each is not handle]


def _listeners(model: Any, clock: Clock, layers: set[int]) -> Iterator[Any]:
    if is_bridge(model):
        yield model.original_model.register_forward_pre_hook(_bridge_pass(clock), with_kwargs=True)
        yield model.original_model.register_forward_hook(_leaving(clock))
    else:
        embedded: list[tuple[Tensor, Generation | None]] = []
        yield model.embed.register_forward_pre_hook(_embedding(clock, embedded))
        begin = _hooked_pass(clock, embedded)
        yield model.blocks[0].register_forward_pre_hook(begin, with_kwargs=True)
    for layer in sorted(layers):
        yield model.blocks[layer].register_forward_hook(_reaching(clock, layer))


def _bridge_pass(clock: Clock) -> Callable[..., None]:
    def begin(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        ids = args[0] if args else options.get("input_ids")
        if ids is None:
            raise HookError(_NO_TOKENS)
        cache = options.get("past_key_values")
        past = int(cache.get_seq_length()) if cache is not None else 0
        mask = options.get("attention_mask")
        clock.begin(ids, past, _two_dimensional(mask), cache=cache)

    return begin


def _leaving(clock: Clock) -> Callable[..., None]:
    """Hugging Face makes a cache for a pass that is given none, and hands it out at the end."""

    def leave(module: Any, args: tuple[Any, ...], output: Any) -> None:
        clock.filled(getattr(output, "past_key_values", None))

    return leave


def _embedding(
    clock: Clock, embedded: list[tuple[Tensor, Generation | None]]
) -> Callable[..., None]:
    def keep(module: Any, args: tuple[Any, ...]) -> None:
        embedded[:] = [(args[0], clock.generation)]

    return keep


def _hooked_pass(
    clock: Clock, embedded: list[tuple[Tensor, Generation | None]]
) -> Callable[..., None]:
    def begin(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        entry = options.get("past_kv_cache_entry")
        past = 0 if entry is None else int(entry.past_keys.shape[1])
        mask = _two_dimensional(options.get("attention_mask"))
        tokens, generation = embedded.pop() if embedded else (None, None)
        if tokens is None or generation is not clock.generation:  # generate embeds one too many
            raise HookError(_NO_TOKENS)
        clock.begin(tokens, past, mask, like=args[0], cache=entry)

    return begin


def _two_dimensional(mask: Any) -> Tensor | None:
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _reaching(clock: Clock, layer: int) -> Callable[..., None]:
    def reach(module: Any, args: tuple[Any, ...], output: Any) -> None:
        clock.reached[layer] = clock.serial

    return reach


def _marked_call(original: Callable[..., Any], model: Host, clocks: _Clocks) -> Callable[..., Any]:
    @wraps(original)
    def generate(*args: Any, **options: Any) -> Any:
        _refuse_beams(model, options)
        with _generating({clock: Generation() for clock in clocks}):
            return original(*args, **options)

    return generate


def _marked_stream(
    original: Callable[..., Any], model: Host, clocks: _Clocks
) -> Callable[..., Any]:
    @wraps(original)
    def generate(*args: Any, **options: Any) -> Iterator[Any]:
        _refuse_beams(model, options)
        generations = {clock: Generation() for clock in clocks}
        stream = iter(original(*args, **options))
        while True:
            with _generating(generations):
                try:
                    item = next(stream)
                except StopIteration:
                    return
            yield item

    return generate


@contextmanager
def _generating(generations: Mapping[Clock, Generation]) -> Iterator[None]:
    with ExitStack() as stack:
        for clock, generation in generations.items():
            stack.enter_context(clock.generating(generation))
        yield


def _refuse_beams(model: Any, options: dict[str, Any]) -> None:
    hugging_face = getattr(model, "original_model", None)
    configured = options.get("generation_config") or getattr(
        hugging_face, "generation_config", None
    )
    beams = options.get("num_beams") or getattr(configured, "num_beams", None) or 1
    if int(beams) > 1:
        raise BadInputError(
            "Beam search reorders the KV cache under the clock and cannot be steered. "
            "Use num_beams=1 (greedy or sampling)."
        )
