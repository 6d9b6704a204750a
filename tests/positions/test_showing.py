"""Shown: brackets around what is picked, and what selectors of text refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from rows import BOS, host, together

from steerlens import positions as ps
from steerlens.clock import Clock
from steerlens.demo.tokens import PAD
from steerlens.errors import BadInputError


def test_a_text_with_its_picked_tokens() -> None:
    shown = ps.first(2).show(host(), "a cat\n(")
    assert repr(shown) == "2 of 5 tokens: <s>[a][ cat]\\n("
    assert shown.picked == ((False, True, True, False, False),)
    assert shown.strings[0][:3] == ("<s>", "a", " cat")


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["a cat", "a"], ["1 of 3 tokens: <s>a[ cat]", "1 of 2 tokens: <s>[a]"]),
        ([("a", " cat sat"), "a cat"], ["1 of 4 tokens: <s>[a] cat sat", "1 of 3 tokens: ..."]),
        (("a cat", " sat"), ["1 of 4 tokens: <s>a[ cat] sat"]),
        ([[BOS, 69], [BOS, 69, 70]], ["1 of 2 tokens: <s>[a]", "1 of 3 tokens: <s>a[b]"]),
        ([BOS, 69, 70], ["1 of 3 tokens: <s>a[b]"]),
        (torch.tensor([BOS, 69, 70]), ["1 of 3 tokens: <s>a[b]"]),
        (
            torch.tensor([[PAD, BOS, 69], [BOS, 69, 70]]),
            ["1 of 2 tokens: <s>[a]", "1 of 3 tokens: <s>a[b]"],
        ),
    ],
)
def test_one_text_or_several(texts: Any, wanted: list[str]) -> None:
    lines = repr(ps.last_prompt_token.show(host(), texts)).splitlines()
    assert len(lines) == len(wanted)
    for line, want in zip(lines, wanted, strict=True):
        assert line == want or (want.endswith("...") and line.startswith(want[:-3]))


def test_where_the_prompt_ends_may_be_told() -> None:
    after_all = ps.selector("generated") | ps.index(0)
    assert repr(after_all.show(host(), "a cat sat", 2)) == "3 of 4 tokens: [<s>]a[ cat][ sat]"
    two = after_all.show(host(), ["a cat", "a cat"], [2, 3])
    assert [sum(row) for row in two.picked] == [2, 1]
    with pytest.raises(BadInputError, match="1 prompt lengths were given for 2 texts"):
        after_all.show(host(), ["a", "a"], [1])
    with pytest.raises(BadInputError, match="A prompt of 9 tokens does not fit a text of 2"):
        after_all.show(host(), "a", 9)
    with pytest.raises(BadInputError, match="nothing to read"):
        after_all.show(host(), [])


def test_html_is_escaped() -> None:
    shown = ps.after("<b>").show(host(), "<b>&'\"<i>")
    html = shown._repr_html_()
    assert "<b>&" not in html
    assert "&lt;b&gt;[&amp;][&#x27;][&quot;][&lt;][i][&gt;]" in html
    assert "after(&#x27;&lt;b&gt;&#x27;)" in html
    assert html.count("tokens") == 1
    assert ps.first(1).show(host(), ["a", "a"])._repr_html_().count("tokens") == 2


def test_a_selector_of_ones_own() -> None:
    def even(window: ps.Window) -> ps.Mask:
        return window.index % 2 == 0

    assert repr(ps.selector(even).show(host(), "a cat sat")) == "2 of 4 tokens: [<s>]a[ cat] sat"
    both = ps.first(2) & even
    assert repr(both) == "first(2) & even"
    assert together(both, [[BOS, 69, 70, 71]], [4]) == [[False, False, True, False]]


def bare() -> Any:
    kind: Any = type(host())
    return type("Bare", (kind,), {"tokenizer": None})()


def test_ids_without_a_tokenizer() -> None:
    assert repr(ps.first(1).show(bare(), [5, 6])) == "1 of 2 tokens: [5] 6"
    assert repr(ps.matching(6).show(bare(), [5, 6])) == "1 of 2 tokens: 5 [6]"
    for where in (ps.matching("a"), ps.matching(re.compile("a")), ps.after("a"), ps.role("user")):
        with pytest.raises(BadInputError, match="needs a tokenizer and the model has none"):
            where.show(bare(), [5, 6])


def test_a_cache_filled_unseen() -> None:
    clock = Clock(host(), torch.tensor([2]))
    clock.begin(torch.tensor([[69, 70]]), past=3)
    for where in (ps.after("a"), ps.matching(" cat ab"), ps.role("user") | 4):
        with pytest.raises(BadInputError, match=r"from its beginning.*Fill the cache while"):
            clock.where(where)
    assert clock.where(ps.matching(70)).tolist() == [[False, True]]


def test_texts_do_not_mix() -> None:
    """One clock, text after text: rows that only grow are kept, others begin anew."""
    clock, where = Clock(host()), ps.after("a")
    for tokens, wanted in (
        ([[69, 70], [70, 70]], [[False, True], [False, False]]),
        ([[70, 70]], [[False, False]]),
        ([[69, 70, 70]], [[False, True, True]]),
        ([[70, 69, 70], [69, 70, 70]], [[False, False, True], [False, True, True]]),
    ):
        clock.begin(torch.tensor(tokens), attention_mask=torch.ones(len(tokens), len(tokens[0])))
        assert clock.where(where).tolist() == wanted
