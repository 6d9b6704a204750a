"""Contrast: two sides, pairs kept together, files read with their line numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from steerlens import Contrast
from steerlens.contrast import warn_of_repeats
from steerlens.errors import BadInputError

PAIRS = [(f"p{i}", f"n{i}") for i in range(10)]


def test_trap_21_empty_sides_and_lone_texts() -> None:
    for sides in ([], ["a"]), (["a"], []):
        with pytest.raises(BadInputError, match=r"side is a list of one item or more; got '\[\]'"):
            Contrast(*sides)
    with pytest.raises(BadInputError, match="side is a list of one item or more; got 'a text'"):
        Contrast("a text", ["b"])
    with pytest.raises(BadInputError, match=r"got '\[\]'"):
        Contrast.from_pairs([])


def test_sides_are_anything_that_can_be_listed() -> None:
    listed = Contrast(["a", "b"], ["c", "d"])
    assert Contrast((text for text in "ab"), iter(["c", "d"])) == listed
    with pytest.raises(BadInputError, match="positive side is a list of one item or more"):
        Contrast(iter(()), ["c"])


def test_pairs_need_sides_of_one_length() -> None:
    with pytest.raises(BadInputError, match=r"2 positive and 1 negative.*paired=False"):
        Contrast(["a", "b"], ["c"], paired=True)
    assert not Contrast(["a", "b"], ["c"]).paired
    assert repr(Contrast(["a", "b"], ["c"])) == "Contrast(2 positive, 1 negative, unpaired)"
    assert repr(Contrast(["a"], ["b"])) == "Contrast(1 pair)"


def test_split_keeps_pairs_together_and_loses_nothing() -> None:
    contrast = Contrast.from_pairs(PAIRS)
    first, rest = contrast.split(0.3, seed=1)
    assert (len(first), len(rest)) == (3, 7)
    got = [
        *zip(first.positive, first.negative, strict=True),
        *zip(rest.positive, rest.negative, strict=True),
    ]
    assert sorted(got) == sorted(PAIRS)
    assert contrast.split(0.3, seed=1)[0] == first
    assert contrast.split(0.3, seed=2)[0] != first


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 2.0])
def test_split_refuses_shares_outside(share: float) -> None:
    with pytest.raises(BadInputError, match="between 0 and 1"):
        Contrast.from_pairs(PAIRS).split(share)
    with pytest.raises(BadInputError, match="too small"):
        Contrast(["a"], ["b"]).split(0.5)


def test_unpaired_split_and_shuffle_keep_the_items() -> None:
    contrast = Contrast(["a", "b", "c", "d"], ["x", "y"])
    first, rest = contrast.split(0.5)
    assert sorted(first.positive + rest.positive) == ["a", "b", "c", "d"]
    shuffled = contrast.shuffled(3)
    assert (len(shuffled.positive), len(shuffled.negative)) == (4, 2)
    assert sorted(shuffled.positive + shuffled.negative) == sorted("abcdxy")


def test_shuffled_swaps_within_pairs() -> None:
    shuffled = Contrast.from_pairs(PAIRS).shuffled(0)
    pairs = list(zip(shuffled.positive, shuffled.negative, strict=True))
    assert all(pair in PAIRS or pair[::-1] in PAIRS for pair in pairs)
    assert any(pair in PAIRS for pair in pairs)
    assert any(pair[::-1] in PAIRS for pair in pairs)


def test_items_that_stand_twice_are_told() -> None:
    chat = [{"role": "user", "content": "good"}]
    with pytest.warns(UserWarning, match="2 of 7 items repeat another of their side"):
        warn_of_repeats(["a", "b", "a"], [chat, list(chat), ("a", "b"), "a"])


def test_digest_tells_contents_and_order() -> None:
    contrast = Contrast.from_pairs(PAIRS)
    assert contrast.digest == Contrast.from_pairs(PAIRS).digest
    assert contrast.digest != Contrast.from_pairs(PAIRS[::-1]).digest
    assert contrast.digest != Contrast(contrast.negative, contrast.positive).digest
    assert Contrast([torch.tensor([1, 2])], [("a", "b")]).digest
    assert Contrast([[{"role": "user", "content": "x"}]], ["a"]).digest


@pytest.mark.parametrize(
    ("record", "pair"),
    [
        ({"positive": "a", "negative": "b"}, ("a", "b")),
        (
            {"prompt": "q", "positive_response": "a", "negative_response": " b"},
            (("q", " a"), ("q", " b")),
        ),
        (
            {
                "question": "q",
                "answer_matching_behavior": " (A)",
                "answer_not_matching_behavior": "(B)",
            },
            (("q", " (A)"), ("q", " (B)")),
        ),
    ],
)
def test_from_jsonl(tmp_path: Path, record: dict[str, str], pair: object) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(record) + "\n\n" + json.dumps(record) + "\n")
    contrast = Contrast.from_jsonl(path)
    assert list(zip(contrast.positive, contrast.negative, strict=True)) == [pair, pair]


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"positive": "a"}', '{"positive": 1, "negative": "b"}']
)
def test_from_jsonl_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"positive": "a", "negative": "b"}\n' + line)
    with pytest.raises(BadInputError, match=r"pairs\.jsonl, line 2 (is not JSON|holds none)"):
        Contrast.from_jsonl(path)


def test_card_is_escaped() -> None:
    card = Contrast(["<script>x</script>"], ["b"])._repr_html_()
    assert "<script" not in card
    assert "1 pair" in card
