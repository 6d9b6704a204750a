"""A view as a value, and pages made of views: self-contained, and silent on the network."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from steerlens.errors import BadInputError
from steerlens.storage import replacing
from steerlens.views import bundle
from steerlens.views.theme import PAGE_STYLE, STYLE, props_json, text


@runtime_checkable
class HasHtml(Protocol):
    """Anything with a notebook card."""

    def _repr_html_(self) -> str: ...


@dataclass(frozen=True)
class View:
    """What a person looks at: a static twin, and what circuitsvis needs to draw it live.

    >>> View("Nothing yet", "<p>no tokens</p>").element is None
    True
    """

    title: str
    """Plain text; escaped where it is shown."""
    static: str
    """An HTML fragment without scripts, its text escaped: what is seen where nothing runs."""
    element: str | None = None
    """The circuitsvis element, such as `ColoredTokens`; None for a static view."""
    props: dict[str, Any] | None = None
    """The element's props, as plain JSON values."""
    subtitle: str = ""
    """What is drawn."""
    legend: str = ""
    """An HTML fragment that explains the colours of the twin and of the drawing alike."""

    def __repr__(self) -> str:
        """Return the title; a notebook shows the view itself."""
        return f"View({self.title or self.element or 'static'!r})"

    @property
    def key(self) -> str:
        """A name for the view on its page, from its content."""
        content = f"{self.title}\0{self.static}\0{self.element}"
        return hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:12]

    def fragment(self) -> str:
        """Return the view's own HTML: title, static twin and an empty place for the drawing."""
        title = f'<div class="sl-title">{text(self.title)}</div>' if self.title else ""
        sub = f'<div class="sl-sub">{text(self.subtitle)}</div>' if self.subtitle else ""
        live = '<div class="sl-live"></div>' if self.element else ""
        return (
            f'<div class="sl-view" data-steerlens="{self.key}">{title}{sub}'
            f'<div class="sl-static">{self.static}</div>{live}{self.legend}</div>'
        )

    def request(self) -> str:
        """Return the script that asks for the drawing; empty for a static view."""
        if self.element is None or self.props is None:
            return ""
        ask = props_json({"key": self.key, "element": self.element, "props": self.props})
        return f"(window.__steerlens=window.__steerlens||[]).push({ask});"

    def _repr_html_(self) -> str:
        """Return the notebook fragment; one of a session carries the drawing script."""
        script = self.request()
        if script and bundle.is_due():
            script += bundle.loader()
        return f"<style>{STYLE}</style>{self.fragment()}" + (
            f"<script>{script}</script>" if script else ""
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the view as one self-contained page, and return its path."""
        return save_page(path, page(self.title, [self], {}))


@dataclass(frozen=True)
class Html:
    """A card of ready HTML for `page`. It is trusted: escape what goes in."""

    source: str

    def _repr_html_(self) -> str:
        return self.source


def prose(*paragraphs: str) -> Html:
    """Return paragraphs of plain text as a card for `page`.

    >>> prose("One model, 64 pairs & a placebo.").source
    '<p>One model, 64 pairs &amp; a placebo.</p>'
    """
    return Html("".join(f"<p>{text(paragraph)}</p>" for paragraph in paragraphs))


def page(
    title: str,
    sections: Sequence[View | str | HasHtml],
    provenance: Mapping[str, object] | None = None,
) -> str:
    """Return one HTML document that stands alone: a string is a heading, the rest is shown.

    It asks the network for nothing (its policy forbids it), and carries the drawing
    script once, 0.5 MB, if any of its views is interactive.

    >>> document = page("Refusal", ["Where it writes", prose("Layer 14.")], {"seed": 0})
    >>> "<h2>Where it writes</h2>" in document
    True
    """
    body = [f"<h1>{text(title)}</h1>"]
    body += [_section(section) for section in sections]
    script = "".join(each.request() for each in sections if isinstance(each, View))
    nonce = hashlib.sha256("".join([*body, script]).encode("utf-8", "replace")).hexdigest()[:16]
    if script:
        script = f'<script nonce="{nonce}">{script}{bundle.loader(nonce)}</script>'
    policy = (
        f"default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'nonce-{nonce}'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{text(title)}</title><style>{PAGE_STYLE}{STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + _provenance(provenance or {})
        + f"{script}</body></html>\n"
    )


def save_page(path: str | os.PathLike[str], html: str) -> Path:
    """Write a page in one step, so that a reader never sees half of it.

    Raises BadInputError where the folder is not there, and on a name that ends as none of a page.
    """
    target = Path(path)
    if target.suffix.lower() not in ("", ".html", ".htm"):
        raise BadInputError(
            f"A page is HTML, and {target.name!r} ends in {target.suffix}. Save it as "
            f"{target.stem}.html; a browser prints it, or makes a picture of it: chromium "
            f"--headless --screenshot={target.stem}.png {target.stem}.html"
        )
    with replacing(target) as fresh:
        fresh.write_text(html, encoding="utf-8", errors="replace")
    return target


def _section(section: View | str | HasHtml) -> str:
    if isinstance(section, View):
        return section.fragment()
    if isinstance(section, str):
        return f"<h2>{text(section)}</h2>"
    if hasattr(section, "_repr_html_"):
        return section._repr_html_()
    raise BadInputError(
        f"A section of a page is {type(section).__name__}, which has no HTML. "
        "Give a View, a string (a heading), or a value with a notebook card."
    )


def _provenance(provenance: Mapping[str, object]) -> str:
    if not provenance:
        return ""
    rows = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in provenance.items())
    return f"<footer><dl>{rows}</dl></footer>"
