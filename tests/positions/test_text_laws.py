"""Laws of all selectors, against an oracle in plain Python that knows prefixes of strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rows import BOS, Row, host, picks, rows, together
from trials import trials

from steerlens import positions as ps

TEXTS = (" cat sat", "(", ")", "aba", "é", "👍", " 日", "12 3", ") ")
REGEXES = tuple(
    map(re.compile, (r"\d+", r'"[^"]*"', "cat|sat", r"a(?=b)", r"a*", r"^a", r"b$", "(?<=a)b"))
)
sought = st.sampled_from([*TEXTS, *REGEXES])
LAW = trials(60)


@st.composite
def plain(draw: st.DrawFn) -> Any:
    return draw(
        st.one_of(
            st.sampled_from(list(ps.NAMED.values())),
            st.builds(ps.first, st.integers(1, 4)),
            st.builds(ps.last, st.integers(1, 4)),
            st.builds(ps.index, st.integers(-3, 6)),
            st.builds(lambda start: ps.span(start, None), st.integers(-3, 6)),
            st.builds(ps.matching, sought, st.integers(3, 60), st.just(" cat")),
            st.builds(ps.after, sought),
            st.builds(ps.between, sought, sought),
            st.builds(ps.role, st.sampled_from(["user", "assistant"])),
        )
    )


def combined(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda a, b: a | b, parts, parts),
        st.builds(lambda a, b: a & b, parts, parts),
        st.builds(lambda a: ~a, parts),
    )


selectors = st.recursive(plain(), combined, max_leaves=4)


# Laws


@LAW
@given(
    st.lists(rows(), min_size=1, max_size=3),
    st.data(),
    selectors,
    st.booleans(),
    st.lists(st.integers(1, 12), max_size=4),
)
def test_law_2_padding_and_cache_change_nothing(
    texts: list[Row], data: st.DataObject, where: Any, left: bool, cuts: list[int]
) -> None:
    prompts = [data.draw(st.integers(1, len(row))) for row in texts]
    alone = [picks(where, row, prompt) for row, prompt in zip(texts, prompts, strict=True)]
    assert together(where, texts, prompts, left=left) == alone
    assert together(where, texts, prompts, left=left, cuts=cuts) == alone


@LAW
@given(rows(), st.data(), selectors)
def test_a_token_is_picked_for_what_comes_before_it(
    row: Row, data: st.DataObject, where: Any
) -> None:
    known = data.draw(st.integers(1, len(row)))
    prompt = data.draw(st.integers(1, known))
    assert picks(where, row[:known], prompt) == picks(where, row, prompt)[:known]
    one_by_one = range(1, len(row))
    assert together(where, [row], [prompt], cuts=one_by_one)[0] == picks(where, row, prompt)


@trials(30)
@given(rows(), selectors, selectors)
def test_de_morgan(row: Row, a: Any, b: Any) -> None:
    def same(first: Any, second: Any) -> bool:
        return picks(first, row, 3) == picks(second, row, 3)

    assert same(~(a | b), ~a & ~b)
    assert same(~(a & b), ~a | ~b)
    assert same(a | b, b | a)
    assert same(a & (a | b), a)
    assert same(~~a, a & "everywhere")
    assert not any(picks(a & ~a, row, 3))
    assert same(a | ~a | 0, slice(0, None))


# The oracle


def prefixes(row: Row) -> list[str]:
    """The text up to each token, without BOS and without unfinished characters."""
    decode = host().tokenizer.decode
    words = row[1:] if row[0] == BOS else row
    shift = len(row) - len(words)
    each = [decode(words[: i + 1]).rstrip("\N{REPLACEMENT CHARACTER}") for i in range(len(words))]
    return [""] * shift + each


def ends(text: str, sought: Any, since: int = 0) -> list[int]:
    if isinstance(sought, str):
        starts = [i for i in range(since, len(text)) if text[i:].startswith(sought)]
        return [i + len(sought) for i in starts]
    return [match.end() for match in sought.finditer(text, since) if match.group()]


def completes(row: Row, sought: Any) -> list[bool]:
    texts = prefixes(row)
    before = [0, *map(len, texts)]
    return [
        any(end > begin for end in ends(text, sought))
        for begin, text in zip(before, texts, strict=False)
    ]


def between(row: Row, opens: Any, shuts: Any) -> list[bool]:
    texts = prefixes(row)
    found, inside, since, begin = [], False, 0, 0
    for text in texts:
        touched = False
        while new := [e for e in ends(text, shuts if inside else opens, since) if e > begin]:
            since, inside, touched = new[0], not inside, True
        found.append(inside and not touched)
        begin = len(text)
    return found


def last(row: Row, n: int, prompt: int) -> list[bool]:
    return [prompt - n <= i < prompt and not (i == 0 and row[0] == BOS) for i in range(len(row))]


@LAW
@given(rows(20), sought)
@example([69, 108, 131, 106], "é")
def test_the_token_that_completes_a_match(row: Row, what: Any) -> None:
    done = completes(row, what)
    if isinstance(what, str) and len(host().tokenizer(what)["input_ids"]) == 2:
        return  # a word that is one token: equal tokens, tested elsewhere
    assert picks(ps.matching(what), row, 1) == done
    first = done.index(True) if True in done else len(row)
    assert picks(ps.after(what), row, 1) == [i > first for i in range(len(row))]


@LAW
@given(rows(20), sought, sought)
def test_between_one_match_and_the_next(row: Row, opens: Any, shuts: Any) -> None:
    assert picks(ps.between(opens, shuts), row, 1) == between(row, opens, shuts)


@LAW
@given(rows(), st.integers(1, 15), st.data())
def test_the_last_tokens_of_the_prompt(row: Row, n: int, data: st.DataObject) -> None:
    prompt = data.draw(st.integers(1, len(row)))
    assert picks(ps.last(n), row, prompt) == last(row, n, prompt)


# By hand


def marked(where: Any, text: str) -> str:
    return repr(where.show(host(), text)).partition(": ")[2]


@pytest.mark.parametrize(
    ("where", "text", "wanted"),
    [
        (ps.after("("), "a(b)(c", "<s>a([b][)][(][c]"),
        (ps.between("(", ")"), "a(b)(c", "<s>a([b])([c]"),
        (ps.between('"', '"'), 'x"y"z"w', '<s>x"[y]"z"[w]'),
        (ps.matching("é"), "xéy", None),
        (ps.matching(re.compile(r"\d+")), "x12 3", "<s>x[1][2] [3]"),
        (ps.matching(re.compile(r"^x")), "xx", "<s>[x]x"),
        (ps.after(re.compile("2")), "123", "<s>12[3]"),
    ],
)
def test_what_is_shown(where: Any, text: str, wanted: str | None) -> None:
    if wanted is None:
        wanted = "<s>x\N{REPLACEMENT CHARACTER}[\N{REPLACEMENT CHARACTER}]y"
    assert marked(where, text) == wanted


def test_no_regex_is_searched_twice_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    original: Callable[..., Any] = ps.phrases.Phrase.completed

    def completed(self: Any, text: str, begin: int, end: int, since: int = 0) -> Any:
        asked.append((begin, end))
        return original(self, text, begin, end, since)

    monkeypatch.setattr(ps.phrases.Phrase, "completed", completed)
    together(ps.matching(re.compile("x")), [[60, 61, 62, 63, 64]], [2], cuts=(2, 3, 4))
    assert len(asked) == len(set(asked)) == 5
