"""In a real browser, without a network: views are drawn, and hostile tokens do nothing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from steerlens import views

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--host-resolver-rules=MAP\t*\t~NOTFOUND --window-size=1000,1600 "
    "--virtual-time-budget=8000"
)
HOSTILE = "<img src=x onerror=\"document.title='pwned'\">"


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip("No Chromium on this machine: the drawings were not looked at.")
    return found


def drawings() -> list[views.View]:
    rng = np.random.default_rng(0)
    words = ["<bos>", " The", " cat", HOSTILE, "</script>", "\n", " sat", " down"]
    patterns = np.tril(rng.random((4, 8, 8)))
    return [
        views.colored_tokens(words, rng.normal(size=8), title="One row"),
        views.colored_tokens(words, rng.random((3, 8)), title="Three rows"),
        views.attention(words, patterns, title="Heads"),
    ]


def dump(browser: str, page: Path, profile: Path, *flags: str) -> str:
    """Return the page's DOM after its scripts have run."""
    split = [flag.replace("\t", " ") for flag in FLAGS.split(" ")]
    command = [browser, *split, f"--user-data-dir={profile}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode("utf-8")


@pytest.mark.browser
def test_a_page_is_drawn(browser: str, tmp_path: Path) -> None:
    page = views.save_page(tmp_path / "page.html", views.page("Drawn", drawings()))
    dom = dump(browser, page, tmp_path / "profile", "--dump-dom")
    assert dom.count('class="sl-view sl-drawn"') == 3
    assert dom.count('class="colored-tokens"') == 2
    assert dom.count("<canvas role") == 5  # four heads, and one of them large
    assert "<title>Drawn</title>" in dom
    assert "<img src=x" not in dom
    assert "&lt;\u2060img&nbsp;src=x" in dom


@pytest.mark.browser
def test_notebook_fragments_share_one_script(browser: str, tmp_path: Path) -> None:
    """As in a notebook: no policy forbids scripts, and the script comes in the second output."""
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
    page = tmp_path / "outputs.html"
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8">{source}', encoding="utf-8")
    dom = dump(browser, page, tmp_path / "profile", "--dump-dom")
    assert dom.count('class="sl-view sl-drawn"') == 4  # the view shown twice is drawn twice
    assert "<title>Safe</title>" in dom


@pytest.mark.browser
def test_without_scripts_the_static_twin_stays(browser: str, tmp_path: Path) -> None:
    views.embed("never")
    fragments = "".join(view.fragment() for view in drawings())
    views.embed("auto")
    page = tmp_path / "blocked.html"
    page.write_text(f'<!DOCTYPE html><meta charset="utf-8">{fragments}', encoding="utf-8")
    dom = dump(browser, page, tmp_path / "profile", "--dump-dom")
    assert dom.count('class="sl-static"') == 3
    assert "sl-drawn" not in dom


@pytest.mark.browser
def test_a_screenshot_is_not_blank(browser: str, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    page = views.save_page(tmp_path / "page.html", views.page("Drawn", drawings()))
    picture = tmp_path / "page.png"
    dump(browser, page, tmp_path / "profile", f"--screenshot={picture}")
    pixels = image.imread(picture)[..., :3]
    blue = (pixels[..., 2] - pixels[..., 0] > 0.3).mean()
    assert pixels.std() > 0.03
    assert blue > 0.003


@pytest.mark.browser
def test_a_map_of_heads_has_both_colours(browser: str, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    view = views.head_map([[1.0, -1.0] * 4] * 6, mlp_last=True, unit="logits")
    page = views.save_page(tmp_path / "page.html", views.page("Map", [view]))
    picture = tmp_path / "page.png"
    dump(browser, page, tmp_path / "profile", f"--screenshot={picture}")
    pixels = image.imread(picture)[..., :3]
    bluer = pixels[..., 2] - pixels[..., 0]
    cell = 28 * 20 / (1000 * 1600)  # at the least
    assert (bluer > 0.3).mean() > 20 * cell
    assert (bluer < -0.3).mean() > 20 * cell
