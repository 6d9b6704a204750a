"""Completions side by side: what the model says without the steering, and with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from steerlens.errors import BadInputError
from steerlens.evaluation import Comparison
from steerlens.views.page import View
from steerlens.views.theme import BLUE, GREY, VERMILION, text, tint

MOST_WORDS = 1_500
"""Words beyond which two completions are not compared."""

_VERDICTS = {"positive": BLUE, "negative": VERMILION}


def side_by_side(
    rows: Comparison | Sequence[Mapping[str, Any]],
    *,
    title: str = "Base and steered",
    subtitle: str = "changed words are marked, the first of them more strongly",
) -> View:
    """Show prompts with their base and steered completions, the differences marked.

    - `rows`: what `steerlens.compare` returns, or mappings: `prompt`, `base`, `steered` (a text,
      or a mapping of names to texts, a column each), and, if there are any, `verdicts`: a mapping
      from a column (`base`, `steered`, or its name) to a judge's word such as `positive` or
      `unparsed`.
    - `title`, `subtitle`: what stands above the view.

    >>> row = {"prompt": "I feel", "base": " bad.", "steered": " good."}
    >>> '<mark class="sl-first">good.</mark>' in side_by_side([row]).static
    True

    Raises BadInputError where a row lacks a text, or has other columns than the first.
    """
    if isinstance(rows, Comparison):
        lines = rows.frame().to_dict("records")
        return side_by_side(lines, title=title, subtitle=f"{rows.headline}; {subtitle}")
    if not rows:
        return View(title, '<div class="sl-muted">No completions.</div>')
    columns = list(_steered(rows[0]))
    cells = "".join(_row(row, columns) for row in rows)
    heads = "".join(f"<th>{text(name)}</th>" for name in ("prompt", "base", *columns))
    first = f'<colgroup><col style="width:{22 if len(columns) == 1 else 18}%"></colgroup>'
    body = f"{first}<thead><tr>{heads}</tr></thead><tbody>{cells}</tbody>"
    return View(title, f'<table class="sl-sides">{body}</table>', subtitle=subtitle)


def marked(base: str, steered: str) -> str:
    """Return `steered` as HTML, with the words that `base` does not have marked.

    >>> marked("a b c", "a x c")
    'a <mark class="sl-first">x</mark> c'
    """
    before, after = _words(base), _words(steered)
    if max(len(before), len(after)) > MOST_WORDS:
        return text(steered)
    parts: list[str] = []
    first = True
    for kind, start, end in _changes(before, after):
        words = "".join(after[start:end])
        if kind == "equal" or not words.strip():
            parts.append(text(words))
            continue
        parts.append(_mark(words, first=first))
        first = False
    return "".join(parts)


def badge(verdict: str) -> str:
    """Return a judge's word as a badge: blue, vermilion, grey, or an outline where unparsed."""
    colour = tint(_VERDICTS.get(verdict, GREY), 0.45)
    paint = "outline:1px dashed #8888" if verdict == "unparsed" else f"background-color:{colour}"
    return f'<span class="sl-badge" style="{paint}">{text(verdict)}</span>'


def _words(value: str) -> list[str]:
    """Split into words, each with the space before it, losing nothing."""
    return re.findall(r"\s*\S+|\s+", value)


def _changes(before: list[str], after: list[str]) -> Iterator[tuple[str, int, int]]:
    """Yield the parts of `after`, and how each came about; space does not count."""
    old, new = ([word.strip() for word in side] for side in (before, after))
    for kind, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        yield kind, start, end


def _mark(words: str, *, first: bool) -> str:
    """Mark words, but not the space around them; the first differing word by itself."""
    lead, tail = words[: -len(words.lstrip())], words[len(words.rstrip()) :]
    core = words.strip()
    if not first:
        return f"{text(lead)}<mark>{text(core)}</mark>{text(tail)}"
    word = core.split()[0]
    rest = f"<mark>{text(core[len(word) :])}</mark>" if core != word else ""
    return f'{text(lead)}<mark class="sl-first">{text(word)}</mark>{rest}{text(tail)}'


def _steered(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row's steered completions by column."""
    missing = [key for key in ("prompt", "base", "steered") if key not in row]
    if missing:
        raise BadInputError(
            f"A row has no {missing[0]!r}; it has {', '.join(map(repr, row)) or 'nothing'}. "
            "Give prompt, base and steered."
        )
    steered = row["steered"]
    return dict(steered) if isinstance(steered, Mapping) else {"steered": str(steered)}


def _row(row: Mapping[str, Any], columns: list[str]) -> str:
    texts = _steered(row)
    if list(texts) != columns:
        raise BadInputError(
            f"A row has the columns {list(texts)}, the first row {columns}. "
            "Give every row the same."
        )
    verdicts = row.get("verdicts") or {}
    base = str(row["base"]).lstrip(" ")
    cells = [text(row["prompt"]), _badge(verdicts, "base") + text(base)]
    cells += [
        _badge(verdicts, name) + marked(base, said.lstrip(" ")) for name, said in texts.items()
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _badge(verdicts: Mapping[str, str], column: str) -> str:
    return badge(str(verdicts[column])) if column in verdicts else ""
