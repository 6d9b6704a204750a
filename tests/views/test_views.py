"""Views hold whatever a tokenizer may produce, on one page, without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from steerlens import views
from steerlens.errors import BadInputError
from steerlens.views import View, bundle, theme
from steerlens.views.axes import Axis, spread
from steerlens.views.png import heat_map

HOSTILE = [
    "</script><img src=x onerror=alert(1)>",
    "<img src=x onerror=\"document.title='run'\">",
    "&lt;b&gt;",
    "\u202eright to left",
    "\u200b",
    "\u2028",
    "\ud800",
    "'\"><svg onload=alert(1)>",
    "\n",
    "",
    " ",
    "<bos>",
]


class Tags(HTMLParser):
    """The tags and attributes of a fragment."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


def every_view(words: list[str]) -> list[View]:
    n = len(words)
    rng = np.random.default_rng(0)
    patterns = np.tril(rng.random((3, n, n)))
    said = "".join(words)
    names = words[:3]
    return [
        views.colored_tokens(words, rng.normal(size=n), title=said, unit=said, marks={1: said}),
        views.colored_tokens(
            words, rng.random((3, n)), labels=names, details=[words] * 3, title=said
        ),
        views.attention(words, patterns, names=names, responses=[0.1, -0.2, 0.0], title=said),
        views.side_by_side(
            [{"prompt": said, "base": "a", "steered": said, "verdicts": {"base": said}}]
        ),
        views.curve([views.Line(said, [0, 1], [0.1, 0.2])], x_label=said, y_label=said),
        views.bars([views.Bar(said, {said: 1.0, "unparsed": 2.0}, (0.1, 0.4), 3)], x_label=said),
        views.fronts(
            [views.Points(said, [0, 1], [1, 0], [said] * 2)], x_label=said, y_label=said, target=0.5
        ),
    ]


@pytest.fixture(params=range(7))
def hostile(request: pytest.FixtureRequest) -> View:
    view: View = every_view(HOSTILE)[request.param]
    return view


def test_static_twin_runs_nothing_and_asks_for_nothing(hostile: View) -> None:
    fragment = Tags(hostile.fragment())
    assert not {"script", "iframe", "link", "object"} & set(fragment.tags)
    assert not [name for name in fragment.attributes if name.startswith("on")]
    assert "http" not in hostile.fragment()
    sources = re.findall(r'src="([^"]*)"', hostile.static)
    assert all(source.startswith("data:image/png") for source in sources)


def test_hostile_text_stays_readable_and_in_order(hostile: View) -> None:
    assert "\u202e" not in hostile.fragment()
    assert "⟨202E⟩right to left" in hostile.fragment()
    hostile.fragment().encode("utf-8")


def test_request_is_json_that_cannot_leave_its_script(hostile: View) -> None:
    request = hostile.request()
    assert "<" not in request
    assert request.isascii()
    if hostile.element:
        asked = json.loads(request[request.index("push(") + 5 : -2])
        assert asked["element"] == hostile.element
        assert asked["props"] == hostile.props


def test_circuitsvis_never_receives_a_tag_or_an_entity() -> None:
    for view in every_view(HOSTILE)[:2]:
        assert view.props is not None
        source = "".join(view.props["tokens"])
        assert not re.search(r"<[a-zA-Z/!?]|&[a-zA-Z#]", source)
        assert "<\u2060bos>" in source


def test_a_page_carries_the_script_once(hostile: View) -> None:
    html = views.page(
        "</title><script>1", ["</h2><b>", hostile, *every_view(HOSTILE)], {"<b>": "<i>"}
    )
    assert html.count("DecompressionStream") == 1
    assert Tags(html).tags.count("script") == 1
    assert not re.search(r"https?://", html)
    assert Tags(html).tags.count("svg") == html.count("<svg ")


def test_a_page_of_static_views_carries_no_script() -> None:
    html = views.page("Plots", every_view(["a", "b", "c"])[3:])
    assert "script" not in Tags(html).tags
    assert len(html) < 40_000


@pytest.mark.parametrize("rows", [1, 12])
def test_a_hundred_tokens_weigh_less_than_100_kb(rows: int) -> None:
    words = [f" word{i}" for i in range(100)]
    values = np.random.default_rng(0).normal(size=(rows, 100))
    assert len(views.colored_tokens(words, values).static) < 100_000


def test_attention_of_a_hundred_tokens_weighs_less_than_100_kb() -> None:
    words = [f" word{i}" for i in range(100)]
    patterns = np.tril(np.random.default_rng(0).random((12, 100, 100)))
    view = views.attention(words, patterns)
    assert len(view.static) < 100_000
    assert len(view.request()) < 1_000_000


@pytest.mark.parametrize("rows", [1, 4])
def test_five_thousand_tokens_stay_static(rows: int) -> None:
    view = views.colored_tokens(["word "] * 5_000, np.ones((rows, 5_000)))
    assert view.element is None
    assert len(view.static) < 1_500_000
    assert "static" in view.subtitle


def test_nothing_to_show() -> None:
    assert "No tokens" in views.colored_tokens([], []).static
    assert "No attention" in views.attention([], np.zeros((0, 0, 0))).static
    assert "No completions" in views.side_by_side([]).static
    silent = views.side_by_side([{"prompt": "", "base": "", "steered": ""}]).static
    assert Tags(silent).tags.count("td") == 3
    assert "<mark" not in silent
    assert "sl-first" in views.side_by_side([{"prompt": "", "base": "", "steered": "a"}]).static


def test_missing_values_are_told_and_never_reach_the_drawing() -> None:
    values = torch.tensor([[0.1, float("nan"), float("-inf")], [0.0, 0.0, 1.0]])
    for each in (
        views.colored_tokens(["a", "b", "c"], values[0]),
        views.colored_tokens(["a", "b", "c"], values),
    ):
        assert "2 values not finite" in each.fragment()
        assert "class=sl-nan" in each.static
        assert "NaN" not in each.request()
    everywhere = views.colored_tokens(["a"], [float("nan")])
    assert everywhere.props is not None
    assert everywhere.props["values"] == [0.0]


def test_values_of_any_kind_give_the_same_view() -> None:
    plain = views.colored_tokens(["a", "b"], [0.5, 0.25])
    assert views.colored_tokens(["a", "b"], np.array([0.5, 0.25])) == plain
    assert (
        views.colored_tokens(["a", "b"], torch.tensor([0.5, 0.25], dtype=torch.bfloat16)) == plain
    )


def test_rows_share_one_scale() -> None:
    view = views.colored_tokens(["a", "b"], [[0.1, 0.2], [0.4, 0.8]], labels=["L0", "L1"])
    assert view.element == "ColoredTokensMulti"
    assert view.props is not None
    assert view.props["positiveBounds"] == [0.8, 0.8]
    assert view.props["values"] == [[0.1, 0.4], [0.2, 0.8]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: views.colored_tokens(["a"], [0.1, 0.2]),
        lambda: views.colored_tokens(["a"], [[0.1]], labels=["x", "y"]),
        lambda: views.colored_tokens(["a"], [[0.1]], details=[["x", "y"]]),
        lambda: views.colored_tokens(["a"], [["x"]]),
        lambda: views.attention(["a"], np.zeros((1, 2, 2))),
        lambda: views.attention(["a"], np.zeros((1, 1, 1)), responses=[1.0, 2.0]),
        lambda: views.side_by_side([{"prompt": "a", "base": "b"}]),
        lambda: views.curve([], x_label="x", y_label="y"),
        lambda: views.curve([views.Line("a", [0, 1], [1])], x_label="x", y_label="y"),
        lambda: views.bars([]),
        lambda: views.fronts([]),
        lambda: views.fronts([views.Points("a", [1, 2], [1])]),
        lambda: views.fronts([views.Points("a", [1, 2], [1, 2], ["one"])]),
        lambda: views.fronts([views.Points("a", [[1, 2]], [[1, 2]])]),
        lambda: views.fronts([views.Points("a", [float("nan")], [1])]),
        lambda: views.bars([views.Bar("a", {"x": 0.0})]),
    ],
)
def test_bad_input_is_told(call: Callable[[], object]) -> None:
    with pytest.raises(BadInputError):
        call()


def test_differences_are_marked_by_word() -> None:
    static = views.side_by_side([{"prompt": "p", "base": "it is bad", "steered": "it was  good"}])
    assert '<mark class="sl-first">was</mark><mark>  good</mark>' in static.static
    same = views.side_by_side([{"prompt": "p", "base": "a b", "steered": "a b"}]).static
    assert "<mark" not in same


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    view = every_view(HOSTILE)[0]
    path = view.save(tmp_path / "view.html")
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [each.name for each in tmp_path.iterdir()] == ["view.html"]
    with pytest.raises(BadInputError, match="no folder"):
        view.save(tmp_path / "missing" / "view.html")
    with pytest.raises(BadInputError, match=r"Save it as view.html; .*--screenshot=view.png"):
        view.save(tmp_path / "view.png")
    assert [each.name for each in tmp_path.iterdir()] == ["view.html"]


class Shell:
    """What `bundle` reads of an IPython shell."""

    def __init__(self) -> None:
        self.execution_count = 1
        self.cell = "a"

    def get_parent(self) -> dict[str, object]:
        return {"metadata": {"cellId": self.cell}}


def test_a_session_carries_the_script_once_and_again_when_its_cell_is_rerun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = Shell()
    monkeypatch.setattr(bundle, "_shell", lambda: shell)
    views.embed("auto")
    view = views.colored_tokens(["a"], [1.0])

    def carries() -> bool:
        return "DecompressionStream" in view._repr_html_()

    assert [carries(), carries()] == [True, False]
    shell.execution_count, shell.cell = 2, "b"
    assert not carries()
    shell.execution_count, shell.cell = 3, "a"
    assert [carries(), carries()] == [True, False]
    views.embed("always")
    assert [carries(), carries()] == [True, True]
    views.embed("never")
    assert not carries()
    views.embed("auto")
    assert carries()


def test_static_views_do_not_use_up_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = Shell()
    monkeypatch.setattr(bundle, "_shell", lambda: shell)
    views.embed("auto")
    assert "<script" not in views.side_by_side([])._repr_html_()
    assert "DecompressionStream" in views.colored_tokens(["a"], [1.0])._repr_html_()
    views.embed("auto")


def test_line_plots_keep_gaps_and_numbers() -> None:
    line = views.Line("a", [0, 1, 2, 3], [0.1, float("nan"), 0.3, 0.4], [0, 0, 0.2, 0.3], [1] * 4)
    view = views.curve([line], x_label="coefficient", y_label="share")
    assert view.static.count("<polyline") == 2
    assert "0.3 [0.2, 1]" in view.static
    assert "nan" not in view.static


def test_fronts_join_what_no_point_dominates_from_left_to_right() -> None:
    utility, attribute = [1.0, 0.5, 0.9, 0.8, float("nan")], [0.0, 0.8, 0.6, 0.5, 1.0]
    points = views.Points("add", utility, torch.tensor(attribute), list("abcde"))
    other = views.Points("ablate", [0.7], [0.2])
    static = views.fronts([points, other], target=0.7).static
    lines = re.findall(r'<polyline points="([^"]*)" fill="none" stroke="([^"]*)"', static)
    assert [colour for _, colour in lines] == list(theme.SERIES[:2])
    joined = [tuple(map(float, each.split(","))) for each in lines[0][0].split()]
    drawn = {
        title.split(", ")[1][0]: (float(x), float(y))
        for x, y, title in re.findall(r'cx="([^"]*)" cy="([^"]*)".*?<title>(.*?)</title>', static)
        if title.startswith("add")
    }
    assert joined == [drawn["b"], drawn["c"], drawn["a"]]
    assert static.count("<circle") == 4 + 1
    assert static.count('fill="none" stroke="#0072b2" stroke-opacity') == 1
    assert "add, along the front: 0.7 at 0.7" in static
    assert "ablate, along the front: 0.2 at 0.7" in static
    assert "nan" not in static
    assert "stroke-dasharray" not in views.fronts([points]).static
    assert views.fronts([points, other], target=0.9).static.count("along the front: ") == 1


def test_axes_and_labels() -> None:
    assert Axis.over([3.0, 3.0], 0, 10)(3.0) == 5.0
    assert Axis.over([], 0, 10).ticks[0] == 0.0
    for size in (1e-300, 1e-11, 1.0, 1e12, 1e300):
        ticks = Axis.over([0.0, 0.97 * size], 0, 10).ticks
        assert [tick / size for tick in ticks] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert "direct: +1e−11" in views.waterfall({"direct": 1e-11, "heads": -3e-12}).static
    placed = spread([5.0, 5.0, 6.0, 90.0], 15.0)
    assert all(b - a >= 15 for a, b in pairwise(placed))
    assert heat_map(np.array([[np.nan, -1.0]]), 1.0).startswith("data:image/png")


def test_tokens_show_what_is_invisible() -> None:
    assert [theme.token_text(t) for t in ("\n\n", "  ", "\t", "", " a")] == [
        "⏎⏎", "␣␣", "⇥", "∅", " a",
    ]  # fmt: skip


def test_effects_need_a_method_and_escape_its_name() -> None:
    with pytest.raises(BadInputError, match="nothing to plot"):
        views.effects([])
    view = views.effects([views.MethodEffect("<b>", 0.1, 0.0, 0.2)])
    assert "&lt;b&gt;" in view.static
    assert "<b>" not in view.static
    assert "placebos" not in view.static.split("<details")[0]
