"""Hostile names and hostile tokens, through every value and view of a study, to one page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from chromium import Browser, found
from models import build, vocabulary
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import steerlens as sl
from steerlens import views
from steerlens.editing import steer2edit
from steerlens.effects import logit_lens, look, mediation, readers

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<img src=x onerror=\"document.title='run'\">",
    "&lt;b&gt;&#x27;",
    "\u202eright to left",
    "\u200b",
    "\u2028",
    "'\"><svg onload=alert(1)>",
    "<!--",
    "]]>",
    "${alert(1)}",
    "\\u003cscript>",
    "\x1b[31m",
    "مرحبا",
    "שלום",
)
NAME = "".join(HOSTILE)


def hostile_model(folder: Path) -> Any:
    """A tiny model whose every word is hostile, specials aside."""
    model = build("gpt2", "bridge")
    specials = vocabulary()[:3]
    words = [*specials, *HOSTILE]
    words += [f"{HOSTILE[i % len(HOSTILE)]}{i}" for i in range(len(vocabulary()) - len(words))]
    table = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(WordLevel(table, unk_token=HOSTILE[0]))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    names = dict(zip(("pad_token", "bos_token", "eos_token"), specials, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return model


def study(folder: Path) -> list[Any]:
    """Every value that has a card or a view, made on hostile tokens under hostile names."""
    model = hostile_model(folder)
    sides = [[1, *range(start, start + 6), 3 + k] for start in (3, 10) for k in range(8)]
    contrast = sl.Contrast(positive=sides[:8], negative=sides[8:])
    directions = sl.find_directions(model, contrast, name=NAME, progress=False)
    chosen = directions["resid_post", 1]
    turned = sl.Direction(chosen.hook_name, chosen.vector.flip(0), name=NAME + "2")
    steering = sl.add(chosen, 3.0) + sl.ablate(directions["resid_post", 0])
    with steering.trace(model) as trace:
        model(torch.tensor(sides[:1]))
    prompts = sides[:2]
    looked = look(model, steering, prompts[0], [(2, 0)])
    edit = steer2edit(model, contrast, rho_attn=0.01, rho_mlp=None, progress=False)
    lens = logit_lens(model, chosen, k=4)
    effect = sl.effect(model, steering, prompts)
    silent = sl.compare(model, steering, prompts, max_new_tokens=1)
    return [
        NAME,
        contrast,
        chosen,
        directions,
        sl.Basis.of({NAME: chosen, NAME + "2": turned}),
        steering,
        trace,
        effect,
        mediation(model, steering, prompts[:1]),
        readers(model, directions["resid_post", 0]),
        lens,
        views.logit_lens(lens),
        views.projections(model, [chosen, chosen], prompts[0], title=NAME),
        views.heads(model, steering, prompts[0], layer=2, title=NAME),
        views.looked(looked),
        views.rests_on(looked),
        sl.attribute(model, contrast, chosen, progress=False),
        edit,
        sl.compare(model, steering, prompts, max_new_tokens=6),
        silent,
        views.head_map([[0.1, -0.2]], unit=NAME, title=NAME, subtitle=NAME),
        views.waterfall({NAME: 0.5, "b": -0.25}, total=NAME, x_label=NAME, title=NAME),
        views.matrix([[1.0, 0.5], [0.5, 1.0]], [NAME, "b"], [NAME, "b"], title=NAME, unit=NAME),
    ]


class Tags(HTMLParser):
    """The tags, the attributes and the words of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return sl.report(folder / "report.html", *study(folder / "tokenizer"), title=NAME)


def test_hostile_words_are_words(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    tags = Tags(html)
    assert tags.tags.count("script") == 1
    assert not {"iframe", "link", "object", "base", "form"} & set(tags.tags)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    sources = [value or "" for name, value in tags.attributes if name in ("src", "href")]
    assert all(source.startswith("data:image/png") for source in sources)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\u2028\x1b]", html)
    assert html.count("⟨202E⟩right to left") > 20
    assert html.count("&lt;img src=x onerror") > 20


@pytest.mark.browser
def test_hostile_words_do_nothing_in_a_browser(page: Path, tmp_path: Path) -> None:
    path = found()
    if path is None:
        pytest.skip("No Chromium on this machine: hostile words were not tried in one.")
    with Browser(path, tmp_path) as browser:
        browser.open(page)
        browser.wait("document.querySelectorAll('.sl-drawn').length > 3")
        for number in range(3):
            browser.hover(".sl-live .colored-tokens > span", number)
        assert browser.js("document.title").startswith("</script><img")
        assert browser.js("document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
        assert browser.js("document.querySelectorAll('svg[onload]').length") == 0
        assert browser.complaints == []
        assert browser.asked == []
