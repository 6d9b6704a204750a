"""Selectors: what each picks, what each refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import tiny

from steerlens import positions as ps
from steerlens.errors import BadInputError, UnknownNameError

pytestmark = pytest.mark.host


def window(**changes: Any) -> ps.Window:
    """Two rows: left-padded [pad BOS 5 6 | 7] and, without BOS, [5 6 7 | 8 9]."""
    given: dict[str, Any] = {
        "index": torch.tensor([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]]),
        "tokens": torch.tensor([[0, 1, 5, 6, 7], [5, 6, 7, 8, 9]]),
        "opens_with_bos": torch.tensor([True, False]),
        "prompt_lengths": torch.tensor([3, 3]),
        "model": tiny("llama", "bridge"),
    }
    return ps.Window(**{**given, **changes})


def shown(where: Any, **changes: Any) -> list[str]:
    seen = window(**changes)
    mask = ps.selector(where)(seen) & seen.real
    return ["".join("x" if picked else "." for picked in row) for row in mask.tolist()]


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("everywhere", ["..xxx", "xxxxx"]),
        ("prompt", ["..xx.", "xxx.."]),
        ("generated", ["....x", "...xx"]),
        ("predicting", ["...xx", "..xxx"]),
        ("last_prompt_token", ["...x.", "..x.."]),
        (0, [".x...", "x...."]),
        (2, ["...x.", "..x.."]),
        (-1, ["...x.", "..x.."]),
        (-3, [".x...", "x...."]),
        (slice(1, 3), ["..xx.", ".xx.."]),
        (slice(-2, None), ["..xxx", ".xxxx"]),
        (slice(1, -1), ["..x..", ".x..."]),
        (ps.first(1), ["..x..", "x...."]),
        (ps.first(2), ["..xx.", "xx..."]),
        (ps.span(3, None), ["....x", "...xx"]),
        (ps.matching(6, 9), ["...x.", ".x..x"]),
        (ps.matching("good"), [".....", "....."]),
        (ps.matching("bad", "w0"), ["..x..", "x...."]),
    ],
)
def test_what_is_picked(where: Any, wanted: list[str]) -> None:
    if where == ps.matching("bad", "w0"):
        assert ps._token_ids(tiny("llama", "bridge"), "bad") == [5]
    assert shown(where) == wanted


def test_trap_19_bos_only_where_it_is_all_there_is() -> None:
    alone = dict(
        index=torch.tensor([[0, 1]]),
        tokens=torch.tensor([[1, 5]]),
        opens_with_bos=torch.tensor([True]),
        prompt_lengths=torch.tensor([1]),
    )
    assert shown("last_prompt_token", **alone) == ["x."]
    assert shown("predicting", **alone) == ["xx"]
    assert shown("prompt", **alone) == [".."]
    assert shown("everywhere", **alone) == [".x"]


def test_names_and_reprs() -> None:
    listed = ["predicting", -2, 3, slice(2, 5), slice(None, 2), ps.first(2), ps.matching(3, "a")]
    assert [repr(ps.selector(each)) for each in listed] == [
        "predicting", "index(-2)", "index(3)", "span(2, 5)", "span(0, 2)", "first(2)",
        "matching(3, 'a')",
    ]  # fmt: skip
    assert ps.index(-1) == ps.last_prompt_token
    with pytest.raises(UnknownNameError, match=r"called 'predictin'\. Nearest: 'predicting'"):
        ps.selector("predictin")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ps.first(0), "n of 1 or more"),
        (lambda: ps.span(3, 3), "is empty"),
        (lambda: ps.span(-1, -3), "is empty"),
        (lambda: ps.selector(slice(0, 4, 2)), "no step"),
        (lambda: ps.matching(), "at least one"),
    ],
)
def test_refusals(make: Any, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        make()


def test_what_selectors_need() -> None:
    untold = dict(tokens=None, opens_with_bos=None, prompt_lengths=None)
    assert shown(2, **untold) == ["...x.", "..x.."]
    for where in ("everywhere", ps.first(1), ps.matching(3)):
        with pytest.raises(BadInputError, match=r"fwd_hooks\(model, tokens="):
            shown(where, **untold)
    for where in ("predicting", "generated", -2):
        with pytest.raises(BadInputError, match=r"where the prompt ends.*Give prompt_lengths"):
            shown(where, prompt_lengths=None)


def test_a_word_of_several_tokens_is_refused() -> None:
    with pytest.raises(BadInputError, match="splits 'good bad' into several tokens"):
        shown(ps.matching("good bad"))
