"""What a decoded token costs under a steering: our callbacks and clock over the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial, wraps
from time import thread_time
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import steerlens as sl
from benchmarks import shapes
from benchmarks.measuring import Figure, Goal, interleaved, median, ratio
from benchmarks.results import Row
from steerlens import passes
from steerlens.demo.model import load_hf, load_model
from steerlens.session import Session
from steerlens.signals import Probe

Context = Callable[[], AbstractContextManager[Any]]
PROMPT = 24
OPENING = ("_bridge_pass", "_hooked_pass")
"""What the hosts call as a pass begins; besides them, `_embedding`, `_reaching` and `_leaving`."""


class Watch:
    """The thread's seconds in what is ours, step by step."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.inside: list[float] = []

    def timed(self, function: Callable[..., Any], *, opens: bool) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **options: Any) -> Any:
            start = thread_time()
            if opens:
                self.began.append(start)
                self.inside.append(0.0)
            try:
                return function(*args, **options)
            finally:
                if self.inside:
                    self.inside[-1] += thread_time() - start

        return run

    def watching(self) -> AbstractContextManager[None]:
        """Time every callback of a session that begins meanwhile, and the clock's listeners."""
        return wrapped(self.timed)

    def ratios(self) -> torch.Tensor:
        """Return each decoded step's cost beside the same step without what is ours."""
        whole = torch.tensor(self.began).double().diff()[1:]
        inside = torch.tensor(self.inside).double()[1:-1]
        return whole / (whole - inside)


@contextmanager
def wrapped(around: Callable[..., Callable[..., Any]]) -> Iterator[None]:
    """Wrap each callback of a session that begins meanwhile, and each listener of its clock.

    `around(function, opens=...)` gives what runs in its place; `opens` where a pass begins.
    """
    own_hooks = Session.fwd_hooks

    def fwd_hooks(session: Session) -> list[tuple[str, Callable[..., Any]]]:
        return [(name, around(hook, opens=False)) for name, hook in own_hooks(session)]

    def listener(name: str) -> Callable[..., Any]:
        made = getattr(passes, name)
        return lambda *args: around(made(*args), opens=name in OPENING)

    with ExitStack() as stack:
        stack.enter_context(patch.object(Session, "fwd_hooks", fwd_hooks))
        for name in (*OPENING, "_embedding", "_reaching", "_leaving"):
            stack.enter_context(patch.object(passes, name, listener(name)))
        yield


class _Operations(TorchDispatchMode):
    """Counts torch operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


def generate(model: Any, tokens: torch.Tensor, new: int) -> Any:
    """Decode greedily, with the cache."""
    return model.generate(
        tokens, max_new_tokens=new, do_sample=False, stop_at_eos=False, verbose=False,
        return_type="tokens",
    )  # fmt: skip


def operations(model: Any, tokens: torch.Tensor, context: Context) -> float:
    """Return the torch operations of a decoded step."""

    def counted(new: int) -> int:
        with context(), _Operations() as seen:
            generate(model, tokens, new)
        return seen.count

    return (counted(8) - counted(4)) / 4


def gated(model: Any) -> sl.Steering:
    """Return a steering with a gate that reads every layer's stream, at every layer."""
    directions = [_direction(model, layer) for layer in range(model.cfg.n_layers)]
    first, *rest = (
        sl.add(each, coeff=1, positions="predicting").when(Probe(each, bias=0.1))
        for each in directions
    )
    return sum(rest, first)


def _direction(model: Any, layer: int) -> sl.Direction:
    dice = torch.Generator().manual_seed(layer)
    vector = torch.randn(model.cfg.d_model, generator=dice)
    return sl.Direction(f"blocks.{layer}.hook_resid_post", vector / 100)


def models(tiny: bool) -> Iterator[tuple[str, Any]]:
    """Yield every fixed model on every host."""
    for architecture in ("gpt2", "llama"):
        shape = shapes.shape(architecture, tiny)
        for host in shapes.hosts():
            yield f"{shape.name}, {host}", shapes.build(shape, host)
    for host in shapes.hosts():
        yield f"Steerling, {host}", load_model(host)


def steps(tiny: bool) -> Iterator[Row]:
    """`generate` under a steering: a decoded step over that step less our callbacks and clock."""
    new, rounds = (8, 1) if tiny else (48, 2)
    for what, model in models(tiny):
        tokens = torch.randint(5, 400, (1, PROMPT), generator=torch.Generator().manual_seed(0))
        one = sl.add(_direction(model, model.cfg.n_layers // 2), 1, positions="predicting")
        every = gated(model)
        bare = operations(model, tokens, nullcontext)
        runs: dict[str, tuple[Context, Goal]] = {
            "one addition": (partial(one.on, model), Goal(1.01)),
            "a gate at every layer": (partial(every.on, model), Goal(1.05)),
            "one addition, traced": (partial(one.trace, model), Goal(1.1)),
            "a gate at every layer, traced": (partial(every.trace, model), Goal(1.1)),
        }
        for name, (context, goal) in runs.items():
            more = operations(model, tokens, context) - bare
            figure = _measured(model, tokens, context, new, rounds)
            note = f"{more:.0f} torch operations a step more than {bare:.0f}"
            yield Row(f"{what}: {name}", figure, goal, note=note)


def _measured(model: Any, tokens: torch.Tensor, context: Context, new: int, rounds: int) -> Figure:
    found = []
    for _ in range(rounds):
        watch = Watch()
        with watch.watching(), context():
            generate(model, tokens, new)
        found.append(watch.ratios())
    return median(torch.cat(found))


@torch.no_grad()
def hosts(tiny: bool) -> Iterator[Row]:
    """The hosts themselves beside Hugging Face: a forward pass of 8 x 32 tokens, and 32 decoded."""
    rows, new, rounds = (2, 4, 2) if tiny else (8, 32, 9)
    for architecture in ("gpt2", "llama"):
        shape = shapes.shape(architecture, tiny)
        bare = _hugging_face(shape)
        tokens = shapes.sample(shape, rows, 32)
        for host in shapes.hosts():
            model = shapes.build(shape, host)
            yield from _beside(f"{shape.name}, {host}", model, bare, tokens, new, rounds)
    bare, _ = load_hf()
    tokens = torch.randint(5, 400, (rows, 32), generator=torch.Generator().manual_seed(0))
    for host in shapes.hosts():
        yield from _beside(f"Steerling, {host}", load_model(host), bare, tokens, new, rounds)


def _hugging_face(shape: shapes.Shape) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(shapes.folder(shape)).eval()


def _beside(
    what: str, model: Any, bare: Any, tokens: torch.Tensor, new: int, rounds: int
) -> Iterator[Row]:
    one = tokens[:1]
    forward = interleaved({"host": lambda: model(tokens), "bare": lambda: bare(tokens)}, rounds)
    yield Row(f"{what}: forward / Hugging Face's", ratio(forward["host"], forward["bare"]))
    decoded = interleaved(
        {"host": lambda: generate(model, one, new), "bare": lambda: _decoded(bare, one, new)},
        rounds,
    )
    yield Row(f"{what}: generate / a bare loop", ratio(decoded["host"], decoded["bare"]))


def _decoded(model: Any, tokens: torch.Tensor, new: int) -> None:
    """Decode greedily on Hugging Face's model, and nothing else."""
    cache = None
    for _ in range(new):
        out = model(tokens, past_key_values=cache, use_cache=True)
        cache, tokens = out.past_key_values, out.logits[:, -1:].argmax(-1)
