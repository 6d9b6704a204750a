"""In a real browser, without a network: drawn, hovered over, and hostile tokens do nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser, found

from steerlens import views

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"
DRAWN = "document.querySelectorAll('.sl-view.sl-drawn').length"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = found()
    if path is None:
        pytest.skip("No Chromium on this machine: the drawings were not looked at.")
    with Browser(path, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The module's browser; no page may complain, or ask for anything."""
    chromium.complaints.clear()
    chromium.asked.clear()
    yield chromium
    assert chromium.complaints == []
    assert chromium.asked == []


def drawings() -> list[views.View]:
    rng = np.random.default_rng(0)
    words = ["<bos>", " The", " cat", HOSTILE, "</script>", "\n", " sat", " down"]
    patterns = np.tril(rng.random((4, 8, 8)))
    return [
        views.colored_tokens(words, np.arange(8) / 4, title="One row"),
        views.colored_tokens(words, rng.random((3, 8)), title="Three rows"),
        views.attention(words, patterns, title="Heads"),
    ]


@pytest.fixture
def drawn(browser: Browser, tmp_path: Path) -> Browser:
    """The browser at a page of three live drawings."""
    browser.open(views.save_page(tmp_path / "page.html", views.page("Drawn", drawings())))
    browser.wait(f"{DRAWN} === 3")
    return browser


def written(folder: Path, html: str) -> Path:
    """A page such as a notebook is: no policy forbids scripts."""
    page = folder / "outputs.html"
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8">{html}', encoding="utf-8")
    return page


def test_a_page_is_drawn(drawn: Browser) -> None:
    drawn.wait("document.querySelectorAll('canvas[role]').length === 5")  # four heads, one large
    assert drawn.js("document.querySelectorAll('.colored-tokens').length") == 2
    assert drawn.js("document.title") == "Drawn"
    assert drawn.js("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
    assert "<\u2060img\u00a0src=x" in drawn.js("document.body.textContent")


def test_a_token_tells_its_number_where_the_mouse_is(drawn: Browser) -> None:
    told = "document.querySelector('.sl-live').textContent"
    before = drawn.js(told)
    drawn.hover(".sl-live .colored-tokens > span", 6)
    drawn.wait(f"{told} !== {before!r}")
    assert re.search(r"sat\W*1\.5", drawn.js(told))
    drawn.hover("h1")
    drawn.wait(f"{told} === {before!r}")


def test_a_head_is_enlarged_where_the_mouse_is(drawn: Browser) -> None:
    drawn.wait("document.querySelectorAll('canvas[role]').length === 5")
    large = "Math.max(...[...document.querySelectorAll('canvas[role]')].map(c => c.width))"
    lit = "[...document.querySelectorAll('canvas[role]')].map(c => c.toDataURL()).join()"
    assert drawn.js(large) > 0
    before = drawn.js(lit)
    drawn.hover("canvas[role]", 2)
    drawn.wait(f"{lit}.length > 0 && {lit} !== {before!r}")


def test_the_static_twin_tells_its_numbers_too(drawn: Browser) -> None:
    titles = drawn.js("[...document.querySelectorAll('.sl-static [title]')].map(e => e.title)")
    assert any(title.endswith("1.5") and "sat" in title for title in titles)
    drawn.js("document.querySelector('.sl-switch').click()")
    assert drawn.js("document.querySelector('.sl-static').checkVisibility()")


def test_on_paper_the_static_twin_stands_whole(browser: Browser, tmp_path: Path) -> None:
    words = [f" word{i}" for i in range(60)]
    values = np.random.default_rng(0).normal(size=(4, 60))
    labels = [f"L{i} resid_post sentiment" for i in range(4)]
    view = views.colored_tokens(words, values, labels=labels)
    browser.open(views.save_page(tmp_path / "page.html", views.page("Long", [view])))
    browser.wait(f"{DRAWN} === 1")
    with browser.on_paper(720):
        shown = "[...document.querySelectorAll('.sl-static')]"
        assert browser.js(f"{shown}.every(e => e.checkVisibility())")
        assert browser.js(f"{shown}.every(e => e.scrollWidth <= e.clientWidth)")
        assert not browser.js("document.querySelector('.sl-live').checkVisibility()")


def test_notebook_fragments_share_one_script(browser: Browser, tmp_path: Path) -> None:
    """The script comes in the second output."""
    waiting, carrying, late = drawings()
    views.embed("never")
    first, last = waiting.fragment(), late.fragment()
    views.embed("always")
    middle = carrying._repr_html_()
    views.embed("auto")
    source = (
        f"<title>Safe</title>{first}<script>{waiting.request()}</script>{middle}{middle}"
        f"{last}<script>{late.request()}</script>"
    )
    browser.open(written(tmp_path, source))
    browser.wait(f"{DRAWN} === 4")  # the view shown twice is drawn twice
    assert browser.js("document.title") == "Safe"


def test_without_scripts_the_static_twin_stays(browser: Browser, tmp_path: Path) -> None:
    views.embed("never")
    fragments = "".join(view.fragment() for view in drawings())
    views.embed("auto")
    browser.open(written(tmp_path, fragments))
    assert browser.js("document.querySelectorAll('.sl-static').length") == 3
    assert browser.js(DRAWN) == 0


def pixels(browser: Browser) -> Any:
    """What is in sight: red, green and blue from 0 to 1."""
    from matplotlib.image import imread

    return imread(io.BytesIO(browser.picture()))[..., :3]


def test_a_picture_is_not_blank(drawn: Browser) -> None:
    seen = pixels(drawn)
    assert seen.std() > 0.03
    assert (seen[..., 2] - seen[..., 0] > 0.3).mean() > 0.003


def test_a_map_of_heads_has_both_colours(browser: Browser, tmp_path: Path) -> None:
    view = views.head_map([[1.0, -1.0] * 4] * 6, mlp_last=True, unit="logits")
    browser.open(views.save_page(tmp_path / "page.html", views.page("Map", [view])))
    seen = pixels(browser)
    bluer = seen[..., 2] - seen[..., 0]
    cell = 28 * 20 / bluer.size  # at the least
    assert (bluer > 0.3).mean() > 20 * cell
    assert (bluer < -0.3).mean() > 20 * cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_executed_notebook_is_a_page(browser: Browser, tmp_path: Path, path: Path) -> None:
    """As nbconvert writes it, less what its own template would fetch from the network."""
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert is of the first environment")
    exporter = nbconvert.HTMLExporter(template_name="lab")
    for name in ("require_js_url", "mathjax_url", "jquery_url", "mermaid_js_url"):
        setattr(exporter, name, "")
    html, _ = exporter.from_filename(str(path))
    html = re.sub(r"<script[^>]*\ssrc=\"\"[^>]*></script>", "", html)
    page = tmp_path / "notebook.html"
    page.write_text(html, encoding="utf-8")
    browser.open(page)
    shown = "[...document.querySelectorAll('.sl-static')].filter(e => e.checkVisibility()).length"
    assert browser.js(shown) == html.count('class="sl-static"') > 0
    assert pixels(browser).std() > 0.03


def test_a_page_that_misbehaves_is_caught(chromium: Browser, tmp_path: Path) -> None:
    remote = "<img src='https://example.org/x.png'>"
    chromium.open(written(tmp_path, f"{remote}<script>console.error('one'); two()</script>"))
    chromium.wait("document.images[0].complete")
    assert chromium.asked == ["https://example.org/x.png"]
    for complaint in ("ERR_NAME_NOT_RESOLVED", "one", "two is not defined"):
        assert any(complaint in each for each in chromium.complaints)
