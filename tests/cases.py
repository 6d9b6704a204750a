"""Random steerings on random texts: `cases(architecture, host)` draws everything at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

import models
import pytest
from case import Case as Case
from case import Leaf as Leaf
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from models import hosts
from oracle import BOS

import steerlens as sl

EXAMPLES = int(os.environ.get("STEERLENS_EXAMPLES", "70"))
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("STEERLENS_SHRINK") else [Phase.generate]
PAIRS = [(name, host) for host in hosts() for name in models.ARCHITECTURES]
EACH = pytest.mark.parametrize(("architecture", "host"), PAIRS)
EACH_HOST = pytest.mark.parametrize("host", hosts())
WORDS = (5, 9, 20, 33, 40)
"""Few words, so that `matching` matches."""


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


STREAM = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
KINDS = {
    **dict.fromkeys(("add", "scale", "keep_norm", "function"), (-1.5, 0.5, 1.0, 2.0, 0.0)),
    "rotate": (-1.5, 0.5, 3.0, 0.0),
    **dict.fromkeys(
        (
            *("ablate", "ablate_both", "mean_ablate", "clamp", "cap"),
            *("affine", "rotate_to", "replace", "interchange", "reads"),
        ),
        (1.0, 0.5, 0.0),
    ),
}
"""Every transform, with the strengths it is drawn at."""
GATES = (
    *("function", "probe", "or", "relu", "latch", "hysteresis"),
    *("of_prompt", "of_last", "decay", "steps", "elsewhere"),
)


def _leaf(draw: st.DrawFn, places: tuple[str, ...], rows: int, shortest: int, prompt: int) -> Leaf:
    kind = draw(st.sampled_from(sorted(KINDS)))
    if kind == "reads":
        places = tuple(place for place in places if place in STREAM)
    size = draw(st.sampled_from([1, rows]))
    return Leaf(
        kind=kind,
        site=draw(st.sampled_from(places)),
        layer=draw(st.integers(0, models.N_LAYERS - 1)),
        where=_where(draw, shortest, prompt),
        coeff=tuple(draw(st.sampled_from(KINDS[kind])) for _ in range(size)),
        gate=draw(st.one_of(st.sampled_from([1.0, 0.5]), st.sampled_from(GATES))),
        number=draw(st.integers(0, 99)),
        rows=tuple(range(rows)),
        stream=kind == "add" and draw(st.booleans()),
    )


def _where(draw: st.DrawFn, shortest: int, prompt: int) -> tuple[Any, ...]:
    """Positions, alone or combined."""
    one = _place(draw, shortest, prompt)
    joint = draw(st.sampled_from([None, None, None, "or", "and", "not"]))
    if joint is None:
        return one
    return (joint, one) if joint == "not" else (joint, one, _place(draw, shortest, prompt))


def _place(draw: st.DrawFn, shortest: int, prompt: int) -> tuple[Any, ...]:
    """Positions inside every row: one past every text is an error, and has its own test."""
    first, last = draw(st.integers(0, shortest - 1)), draw(st.integers(1, prompt))
    return draw(
        st.sampled_from(
            [
                *((name,) for name in sl.positions.NAMED),
                ("first", draw(st.integers(1, 4))),
                ("last", draw(st.integers(1, 4))),
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
