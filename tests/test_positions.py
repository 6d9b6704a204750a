"""Selectors: what each picks, what each refuses."""

from __future__ import annotations

import re
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
        (ps.last(1), ["...x.", "..x.."]),
        (ps.last(2), ["..xx.", ".xx.."]),
        (ps.last(3), ["..xx.", "xxx.."]),
        (ps.first(1) | "generated", ["..x.x", "x..xx"]),
        ("prompt" & ~ps.first(1), ["...x.", ".xx.."]),
        (0 | ps.last(1), [".x.x.", "x.x.."]),
        (~ps.first(1), ["...xx", ".xxxx"]),
        (~ps.index(0), ["..xxx", ".xxxx"]),
        (ps.span(3, None), ["....x", "...xx"]),
        (ps.matching(6, 9), ["...x.", ".x..x"]),
        (ps.matching("good"), [".....", "....."]),
        (ps.matching("bad", "w0"), ["..x..", "x...."]),
    ],
)
def test_what_is_picked(where: Any, wanted: list[str]) -> None:
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
    assert shown(ps.last(1), **alone) == [".."]
    assert shown(~ps.index(1), **alone) == [".."]
    assert shown(ps.index(0) | ps.index(1), **alone) == ["xx"]


def test_names_and_reprs() -> None:
    listed = ["predicting", -2, 3, slice(2, 5), slice(None, 2), ps.first(2), ps.matching(3, "a")]
    assert [repr(ps.selector(each)) for each in listed] == [
        "predicting", "index(-2)", "index(3)", "span(2, 5)", "span(0, 2)", "first(2)",
        "matching(3, 'a')",
    ]  # fmt: skip
    assert ps.index(-1) == ps.last_prompt_token
    assert ps.selector(ps.first) != ps.first  # any function of a window is a selector
    assert repr(ps.selector(ps.first)) == "first"
    with pytest.raises(UnknownNameError, match=r"called 'predictin'\. Nearest: 'predicting'"):
        ps.selector("predictin")


@pytest.mark.parametrize(
    ("formula", "wanted"),
    [
        (ps.prompt & ~ps.first(3), "prompt & ~first(3)"),
        ((ps.first(3) | "generated") & ~ps.index(5), "(first(3) | generated) & ~index(5)"),
        (~(ps.prompt & 1), "~(prompt & index(1))"),
        (ps.first(1) | ps.last(2) | "generated", "first(1) | last(2) | generated"),
        (ps.first(1) | ps.prompt & ps.last(2), "first(1) | (prompt & last(2))"),
        (slice(1, 3) | ~ps.after("so"), "span(1, 3) | ~after('so')"),
        (ps.between("(", re.compile(r"\)")) & ps.role("user"),
         "between('(', re.compile('\\\\)')) & role('user')"),
    ],
)  # fmt: skip
def test_formulas_read_as_they_are_written(formula: Any, wanted: str) -> None:
    assert repr(formula) == wanted


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ps.first(0), "n of 1 or more"),
        (lambda: ps.last(0), "n of 1 or more"),
        (lambda: ps.after(""), "empty text"),
        (lambda: ps.between("a", re.compile("")), "empty text"),
        (lambda: ps.matching(re.compile(b"a")), "a string or a regular expression"),
        (lambda: ps.span(3, 3), "is empty"),
        (lambda: ps.span(-1, -3), "is empty"),
        (lambda: ps.span(-3, 0), "from the prompt's end and stops"),
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
    textual = (ps.matching("good bad"), ps.after("good"), ps.between("good", "bad"))
    for where in ("everywhere", ps.first(1), ~ps.index(1), ps.matching(3), *textual):
        with pytest.raises(BadInputError, match=r"fwd_hooks\(model, tokens="):
            shown(where, **untold)
    for where in ("predicting", "generated", -2, ps.last(2), 1 | ps.prompt):
        with pytest.raises(BadInputError, match=r"where the prompt ends.*Give prompt_lengths"):
            shown(where, prompt_lengths=None)


def test_the_last_token_is_not_known() -> None:
    with pytest.raises(
        UnknownNameError, match=r"'last'.*nobody knows.*'last_prompt_token'"
    ) as told:
        ps.selector("last")
    assert "last(n)" in str(told.value)
    assert "'predicting'" in str(told.value)
