"""Random steerings on random texts, with an oracle that knows nothing of SteerLens's clock.

`cases(architecture)` draws everything at once. A case's oracle works on one row alone, in one
uncached pass, with positions found by a loop over plain integers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from zlib import crc32

import models
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from models import cached_forward, forward, hosts, padded
from torch import Tensor

import steerlens as sl
from steerlens.host import hook_name

EXAMPLES = int(os.environ.get("STEERLENS_EXAMPLES", "42"))
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("STEERLENS_SHRINK") else [Phase.generate]
PAIRS = [(name, host) for host in hosts() for name in models.ARCHITECTURES]
EACH = pytest.mark.parametrize(("architecture", "host"), PAIRS)
EACH_HOST = pytest.mark.parametrize("host", hosts())
BOS = 1
WORDS = (5, 9, 20, 33, 40)
"""Few words, so that `matching` matches."""


@dataclass(frozen=True)
class Leaf:
    """One intervention, as plain data."""

    kind: str
    site: str
    layer: int
    where: tuple[Any, ...]
    coeff: tuple[float, ...]
    """One a row, or one for all."""
    gate: float | str
    number: int

    @property
    def hook(self) -> str:
        return hook_name(self.site, self.layer)

    def direction(self, architecture: str) -> sl.Direction:
        shapes = {
            "z": (models.N_HEADS, models.D_HEAD[architecture]),
            "mlp_post": (models.D_MLP,),
        }
        generator = torch.Generator().manual_seed(self.number)
        vector = torch.randn(shapes.get(self.site, (models.D_MODEL,)), generator=generator)
        if self.site == "z":
            vector[self.number % models.N_HEADS] = 0
        return sl.Direction(self.hook, vector / 2)

    def selector(self) -> Any:
        name, *arguments = self.where
        return getattr(sl.positions, name)(*arguments) if arguments else name

    def gated(self, architecture: str) -> Any:
        return Openness(self.direction(architecture).vector) if self.gate == "read" else self.gate

    def steering(self, architecture: str) -> sl.Steering:
        make = sl.add if self.kind == "add" else sl.ablate
        coeff = self.coeff[0] if len(self.coeff) == 1 else list(self.coeff)
        return make(
            self.direction(architecture),
            coeff,
            positions=self.selector(),
            gate=self.gated(architecture),
        )

    def row(self, i: int) -> Leaf:
        return self if len(self.coeff) == 1 else replace(self, coeff=(self.coeff[i],))


@dataclass(frozen=True, eq=False)
class Openness:
    """A gate between 0 and 1, read at each token: continuous, so that no example is near a jump."""

    vector: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x.flatten(2) @ self.vector.to(x).flatten())


@dataclass(frozen=True)
class Case:
    architecture: str
    rows: tuple[tuple[int, ...], ...]
    prompt_lengths: tuple[int, ...]
    side: str
    cuts: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    joints: tuple[str, ...]

    @property
    def tensors(self) -> list[Tensor]:
        return [torch.tensor(row) for row in self.rows]

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        return padded(self.tensors, self.side)

    @property
    def sizes(self) -> list[int]:
        """Chunks that the batch passes in under a cache."""
        width = max(map(len, self.rows))
        bounds = sorted({0, *(cut for cut in self.cuts if cut < width), width})
        return [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]  # noqa: RUF007

    @property
    def steering(self) -> sl.Steering:
        whole, *rest = (leaf.steering(self.architecture) for leaf in self.leaves)
        for joint, part in zip(self.joints, rest, strict=True):
            whole = whole + part if joint == "+" else whole >> part
        return whole

    def row(self, i: int) -> Case:
        return replace(
            self,
            rows=self.rows[i : i + 1],
            prompt_lengths=self.prompt_lengths[i : i + 1],
            leaves=tuple(leaf.row(i) for leaf in self.leaves),
        )

    def alone(self, model: Any) -> list[Tensor]:
        """Logits of each row alone, steered by SteerLens, uncached."""
        each = []
        for i, tokens in enumerate(self.tensors):
            row = self.row(i)
            with row.steering.on(model, prompt_lengths=row.prompt_lengths):
                each.append(forward(model, tokens[None])[0])
        return each

    def together(self, model: Any, cached: bool) -> Tensor:
        """Logits of the padded batch, in one pass or in chunks under a cache."""
        tokens, mask = self.batch
        with self.steering.on(model, prompt_lengths=self.prompt_lengths):
            return self._pass(model, tokens, mask, cached)

    def traced(self, model: Any, cached: bool) -> sl.Trace:
        tokens, mask = self.batch
        with self.steering.trace(model, prompt_lengths=self.prompt_lengths) as trace:
            self._pass(model, tokens, mask, cached)
        return trace

    def _pass(self, model: Any, tokens: Tensor, mask: Tensor, cached: bool) -> Tensor:
        if cached:
            return cached_forward(model, tokens, self.sizes, mask)
        return forward(model, tokens, mask)

    # The oracle

    def by_hand(self, model: Any) -> list[Tensor]:
        """Logits of each row alone under hooks written by hand."""
        each = []
        for i, tokens in enumerate(self.tensors):
            with model.hooks(fwd_hooks=self.row(i).hooks_by_hand()):
                each.append(forward(model, tokens[None])[0])
        return each

    def hooks_by_hand(self) -> list[tuple[str, Callable[..., Tensor]]]:
        names = {leaf.hook for leaf in self.leaves}
        return [(name, partial(self._write, name)) for name in names]

    def _write(self, name: str, h: Tensor, hook: Any) -> Tensor:
        total = torch.zeros_like(h)
        for joint, leaf in zip(("+", *self.joints), self.leaves, strict=True):
            if leaf.hook == name:
                total = total + self._change(leaf, h + total if joint == ">>" else h)
        return h + total

    def _change(self, leaf: Leaf, x: Tensor) -> Tensor:
        vector = leaf.direction(self.architecture).vector
        gate = leaf.gate
        if gate == "read":
            gate = torch.einsum("...i,i->...", x.flatten(2), vector.flatten()).sigmoid()
        strength = self.picked(leaf) * leaf.coeff[0] * gate
        strength = strength.reshape(*strength.shape, *[1] * vector.ndim)
        if leaf.kind == "add":
            return strength * vector.expand_as(x)
        squares = (vector**2).sum(-1, keepdim=True).clamp_min(1e-20)
        return -strength * vector * ((x * vector).sum(-1, keepdim=True) / squares)

    def picked(self, leaf: Leaf) -> Tensor:
        """Where a leaf writes in the only row: (1, pos)."""
        tokens, prompt = self.rows[0], self.prompt_lengths[0]
        return torch.tensor([[_picks(leaf.where, i, tokens, prompt) for i in range(len(tokens))]])


def _picks(where: tuple[Any, ...], i: int, tokens: tuple[int, ...], prompt: int) -> bool:
    name, *arguments = where
    opens = tokens[0] == BOS
    if i == 0 and opens and name in ("everywhere", "prompt", "generated", "first"):
        return False
    if name == "first":
        return i < arguments[0] + opens
    if name == "index":
        return i == arguments[0] % prompt if arguments[0] < 0 else i == arguments[0]
    if name == "span":
        start, stop = (prompt + a if a is not None and a < 0 else a for a in arguments)
        return start <= i and (stop is None or i < stop)
    if name == "matching":
        return tokens[i] in arguments
    return {
        "everywhere": True,
        "prompt": i < prompt,
        "generated": i >= prompt,
        "predicting": i >= prompt - 1,
        "last_prompt_token": i == prompt - 1,
    }[name]


# Drawing


def sites(architecture: str, host: str) -> tuple[str, ...]:
    """Pythia has no resid_mid, and what is written to the bridge's does not reach the stream."""
    every = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "mlp_post")
    without = architecture == "pythia" or host == "bridge"
    return every if without else (*every, "resid_mid")


@st.composite
def cases(draw: st.DrawFn, architecture: str, host: str, n_leaves: int | None = None) -> Case:
    lengths = draw(st.lists(st.integers(2, 11), min_size=1, max_size=3))
    rows = tuple(_row(draw, length) for length in lengths)
    prompts = tuple(draw(st.integers(1, length)) for length in lengths)
    leaf = partial(_leaf, draw, sites(architecture, host), len(rows), min(lengths), min(prompts))
    leaves = tuple(leaf() for _ in range(n_leaves or draw(st.integers(1, 3))))
    return Case(
        architecture=architecture,
        rows=rows,
        prompt_lengths=prompts,
        side=draw(st.sampled_from(["left", "right"])),
        cuts=tuple(draw(st.lists(st.integers(1, 10), max_size=3))),
        leaves=leaves,
        joints=tuple(draw(st.sampled_from(["+", ">>"])) for _ in leaves[1:]),
    )


def _row(draw: st.DrawFn, length: int) -> tuple[int, ...]:
    words = draw(st.lists(st.sampled_from(WORDS), min_size=length, max_size=length))
    return (BOS, *words[1:]) if draw(st.integers(0, 4)) else tuple(words)


def _leaf(draw: st.DrawFn, places: tuple[str, ...], rows: int, shortest: int, prompt: int) -> Leaf:
    kind = draw(st.sampled_from(["add", "ablate"]))
    amounts = (-1.5, 0.5, 1.0, 2.0, 0.0) if kind == "add" else (1.0, 0.5, 0.0)
    size = draw(st.sampled_from([1, rows]))
    return Leaf(
        kind=kind,
        site=draw(st.sampled_from(places)),
        layer=draw(st.integers(0, models.N_LAYERS - 1)),
        where=_where(draw, shortest, prompt),
        coeff=tuple(draw(st.sampled_from(amounts)) for _ in range(size)),
        gate=draw(st.sampled_from([1.0, "read", 0.5])),
        number=draw(st.integers(0, 99)),
    )


def _where(draw: st.DrawFn, shortest: int, prompt: int) -> tuple[Any, ...]:
    """Positions inside every row: one past every text is an error, and has its own test."""
    first, last = draw(st.integers(0, shortest - 1)), draw(st.integers(1, prompt))
    return draw(
        st.sampled_from(
            [
                *((name,) for name in sl.positions.NAMED),
                ("first", draw(st.integers(1, 4))),
                ("index", first),
                ("index", -last),
                ("span", first, first + draw(st.integers(1, 4))),
                ("span", first, None),
                ("span", -last, None),
                *([("span", 0, -last)] if last < prompt else []),
                ("matching", WORDS[0], WORDS[2]),
            ]
        )
    )


def examples(law: Callable[..., None], *strategies: Any, salt: str, part: float = 1.0) -> None:
    """Run a law on drawn cases, other ones for each salt, the same ones every time.

    A law gets `part` of the examples asked for, shared among the pairs of architecture and host.
    """
    share = max(2, round(part * EXAMPLES / len(PAIRS)))
    run = settings(
        max_examples=share,
        deadline=None,
        database=None,
        phases=PHASES,
        suppress_health_check=list(HealthCheck),
    )(given(*strategies)(law))
    seed(crc32(salt.encode()))(run)()
    DRAWN[salt] = share


DRAWN: dict[str, int] = {}
"""How many cases were drawn, by salt."""
