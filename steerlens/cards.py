"""The small pieces that make a value's repr short and its notebook card clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from unicodedata import category

_CARD = (
    "display:inline-block;font:13px/1.5 system-ui,sans-serif;border:1px solid #8884;"
    "border-radius:6px;padding:8px 12px;margin:2px 0"
)


def number(value: float, digits: int = 3) -> str:
    """Return `value` to a few significant digits: 5.1, 0.0042, 12.

    >>> number(5.1234), number(0.00421), number(1234.5)
    ('5.12', '0.00421', '1.23e+03')
    """
    return f"{value:.{digits}g}"


def share(value: float) -> str:
    """Return a share as a percentage.

    >>> share(0.114), share(0.004), share(-0.12)
    ('11%', '0.4%', '-12%')
    """
    percent = 100 * value
    return f"{percent:.0f}%" if abs(percent) >= 1 or percent == 0 else f"{percent:.1g}%"


def interval(low: float, high: float, digits: int = 2) -> str:
    """Return an interval in brackets: [0.93, 0.99]."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def count(n: int, noun: str) -> str:
    """Return a number with its noun: 1 pair, 64 pairs."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of what has no shape of its own."""


def drawable(value: str) -> str:
    """Spell out characters that would be invisible, or reorder the text around them.

    >>> drawable("a" + chr(0x202E) + "b")
    'a⟨202E⟩b'
    """
    return "".join(
        f"⟨{ord(char):04X}⟩" if char not in "\n\r\t" and category(char) in _HIDDEN else char
        for char in value
    )


def card(title: str, rows: Mapping[str, str]) -> str:
    """Return an HTML card: a title, and a line for each row. Everything is escaped."""
    lines = "".join(
        f"<div><span style='opacity:.65'>{_text(key)}</span> {_text(value)}</div>"
        for key, value in rows.items()
    )
    return f"<div style='{_CARD}'><div><b>{_text(title)}</b></div>{lines}</div>"


def _text(value: str) -> str:
    return escape(drawable(value))


def table_card(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML card that holds a table: a title, a head, a line for each row; escaped."""
    cell = "text-align:left;padding:0 14px 0 0;font-weight:400;border:0;white-space:nowrap"
    heads = "".join(f"<th style='{cell};opacity:.65'>{_text(each)}</th>" for each in head)
    lines = "".join(
        "<tr>" + "".join(f"<td style='{cell}'>{_text(each)}</td>" for each in row) + "</tr>"
        for row in rows
    )
    table = f"<table style='border-collapse:collapse;margin:0'><tr>{heads}</tr>{lines}</table>"
    return f"<div style='{_CARD};overflow-x:auto'><div><b>{_text(title)}</b></div>{table}</div>"
