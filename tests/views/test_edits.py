"""An edit drawn: strengths where they belong, and the tokens that a component's edit acts on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cases import EACH_HOST
from models import D_HEAD, D_MLP, D_MODEL, N_HEADS, N_LAYERS, tiny
from test_views import HOSTILE, Tags

from steerlens import views
from steerlens.editing import Acting, Edit, Embeddings, Factors, Gates, acting
from steerlens.errors import BadInputError, SteerLensError, UnknownNameError
from steerlens.text import encode
from steerlens.views import View
from steerlens.views.scale import shown

SAID = "".join(HOSTILE)
ITEMS = ["good bad w1", ("the sad", " w5 w6 w7 good"), "happy"]


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def factors(
    layer: int, block: Any, units: list[int], strengths: list[float], d_head: int = 8
) -> Factors:
    width, of = (d_head, N_HEADS) if block == "attn" else (1, D_MLP)
    v = torch.nn.functional.normalize(draws(D_MODEL, seed=layer), dim=0)
    reads = draws(len(units), width, seed=layer + 10)
    reads = torch.nn.functional.normalize(reads, dim=1)
    place, at = (layer, block), torch.tensor(units)
    return Factors(place, of, at, torch.tensor(strengths), reads, v, v)


def made(d_head: int = 8, **other: Any) -> Edit:
    """Heads of layer 1, neurons of layers 0 and 2; g of every head."""
    parts = (
        factors(0, "mlp", [3, 40], [0.5, -2.0]),
        factors(1, "attn", [0, 2], [-1.5, 0.125], d_head),
        factors(2, "mlp", [7], [1.0]),
    )
    importance = {(layer, "attn"): draws(N_HEADS, seed=layer).tanh() for layer in range(N_LAYERS)}
    return Edit(parts, importance=importance, maker="hand", **other)


def gated() -> Edit:
    gain, offset = torch.ones(N_HEADS, 8), torch.zeros(N_HEADS, 8)
    gain[0], gain[1, 3], gain[1, 4], offset[2, :2] = 0.0, 1.25, 0.5, torch.tensor([3.0, 4.0])
    return Edit((), gates=(Gates(1, gain, offset),))


def hovers(view: View) -> list[tuple[str, str]]:
    """What the cells of the maps tell, by name."""
    return re.findall(r'title="(L\d+H\d+): ([^"]*)"', view.static)


def bars(view: View) -> list[str]:
    return re.findall(r"<title>([^<]*)</title>", view.static)


def test_a_map_tells_each_strength_where_it_belongs() -> None:
    edit = made()
    view = views.edit_map(edit)
    told = dict(hovers(view))
    assert len(told) == N_LAYERS * N_HEADS
    for name, cell in told.items():
        layer, head = map(int, re.findall(r"\d+", name))
        strength = {"L1H0": -1.5, "L1H2": 0.125}.get(name, 0.0)
        g = float(edit.importance[layer, "attn"][head])
        sign = "+" if strength > 0 else ""
        assert cell == f"{sign}{shown(strength)}, g {'+' if g > 0 else ''}{shown(g)}"
    cells = re.findall(r"<td[^>]*>([^<]*)", view.static)
    assert [cell for cell in cells if cell] == ["−1.5", "+0.1"]
    assert [i for i, cell in enumerate(cells) if cell] == [N_HEADS, N_HEADS + 2]
    assert bars(view) == ["L0N40: −2", "L2N7: +1", "L0N3: +0.5"]
    assert view.element is None


def test_bars_point_where_the_strength_does() -> None:
    view = views.edit_map(made())
    zero = float(re.findall(r'<line x1="([^"]*)"', view.static)[0])
    drawn = re.findall(r'<rect x="([^"]*)" y="[^"]*" width="([^"]*)"', view.static)
    ends = [(float(x), float(x) + float(width)) for x, width in drawn]
    assert [end[0] < zero for end in ends] == [True, False, False]
    (low, high), one, half = ends
    assert high == pytest.approx(zero, abs=0.2)
    assert zero - low == pytest.approx(2 * (one[1] - one[0]), abs=0.3)
    assert one[1] - one[0] == pytest.approx(2 * (half[1] - half[0]), abs=0.3)


def test_one_line_says_how_much_is_edited() -> None:
    edit = made(name="kind")
    whole = N_LAYERS * N_HEADS
    told = f"“kind”, by hand: 2 of {whole} heads, 3 neurons, sum of |λ| {5.125:.3g}"
    assert views.edit_map(edit).subtitle == told  # nothing is known of layer 1's neurons
    more = replace(edit, embeddings=Embeddings(draws(D_MODEL)), maker="", importance={})
    more = replace(more, factors=tuple(replace(each, bias=0.5) for each in edit.factors))
    assert views.edit_map(more).subtitle == (
        "“kind”: 2 heads, 3 neurons, embeddings, biases, sum of |λ| 5.12"
    )
    every = tuple(factors(layer, "mlp", [0], [0.5]) for layer in range(N_LAYERS))
    known = views.edit_map(Edit(every), n_layers=N_LAYERS).subtitle
    assert f"3 of {N_LAYERS * D_MLP} neurons" in known


def test_sizes_come_from_what_is_known() -> None:
    bare = replace(made(), importance={})
    assert len(hovers(views.edit_map(bare))) == 3 * N_HEADS  # neurons of layer 2 are edited
    assert len(hovers(views.edit_map(bare, n_layers=5))) == 5 * N_HEADS
    with pytest.raises(BadInputError, match=r"layer 2, and n_layers is 2"):
        views.edit_map(bare, n_layers=2)


def test_only_heads_only_neurons_and_nothing() -> None:
    edit = made()
    heads = views.edit_map(replace(edit, factors=edit.factors[1:2]))
    assert "<svg" not in heads.static
    assert hovers(heads)
    neurons = views.edit_map(replace(edit, factors=edit.factors[2:]))
    assert not hovers(neurons)
    assert bars(neurons) == ["L2N7: +1"]
    assert "No head or neuron is edited" in views.edit_map(Edit(())).static
    assert "No head or neuron" not in views.edit_map(edit, neurons=0).static
    assert not bars(views.edit_map(edit, neurons=0))


def test_thousands_of_neurons_have_few_bars() -> None:
    many = list(range(D_MLP))
    edit = Edit((factors(0, "mlp", many, [-0.01 * (i + 1) for i in many]),))
    view = views.edit_map(edit)
    assert bars(view)[:2] == ["L0N47: −0.48", "L0N46: −0.47"]
    assert len(bars(view)) == 10
    assert f"The 10 strongest of {D_MLP} neurons" in view.static
    assert len(bars(views.edit_map(edit, neurons=100))) == D_MLP


def test_a_large_map_tells_what_is_edited_and_stays_small() -> None:
    size = (40, "attn", 64)
    at, strengths = torch.tensor([3, 63]), torch.tensor([0.5, -0.25])
    v = draws(D_MODEL)
    one = Factors((size[0], "attn"), size[2], at, strengths, draws(2, 8), v, v)
    view = views.edit_map(Edit((one,)))
    assert hovers(view) == [("L40H3", "+0.5"), ("L40H63", "−0.25")]
    assert len(view.static) < 60_000


def test_gated_heads_have_maps_of_their_own() -> None:
    view = views.edit_map(gated(), n_layers=3)
    told = hovers(view)
    gains, offsets = dict(told[: 3 * N_HEADS]), dict(told[3 * N_HEADS :])
    assert {name: cell for name, cell in gains.items() if cell != "0"} == {
        "L1H0": "−1",
        "L1H1": "−0.5",  # the entry farthest from 1, with its sign
    }
    assert {name: cell for name, cell in offsets.items() if cell != "0"} == {"L1H2": "5"}
    assert view.subtitle == "“edit”: 3 gated heads"


def test_the_largest_of_several_v_is_drawn() -> None:
    again = factors(1, "attn", [0], [2.5])
    view = views.edit_map(replace(made(), factors=(*made().factors, again)))
    assert dict(hovers(view))["L1H0"].startswith("+2.5")
    assert "2 of 12 heads" in view.subtitle


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "gemma2"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_acting_is_what_a_cache_says(host: str, architecture: str, batch_tokens: int) -> None:
    model = tiny(architecture, host)
    edit = made(D_HEAD[architecture])
    neuron, head = edit.factors[0], edit.factors[1]
    for component, each, row in (("L1H2", head, 1), ("L0N40", neuron, 1), ("L1H0", head, 0)):
        found = acting(edit, model, ITEMS, component, batch_tokens=batch_tokens)
        assert found.strength == float(each.strengths[row])
        for item, values, words in zip(ITEMS, found.values, found.tokens, strict=True):
            tokens = torch.tensor([encode(model, item).tokens])
            _, cache = model.run_with_cache(tokens)
            if component[2] == "H":
                along = cache["blocks.1.attn.hook_z"][0, :, int(component[3:])] @ each.reads[row]
            else:
                along = cache["blocks.0.mlp.hook_post"][0, :, 40] * each.reads[row, 0]
            wanted = each.strengths[row] * along
            torch.testing.assert_close(values, wanted.detach(), atol=1e-4, rtol=1e-4)
            assert len(words) == len(values) == tokens.shape[1]


@pytest.mark.host
@EACH_HOST
def test_all_that_acts_is_what_the_steering_writes(host: str) -> None:
    """Components of a block add up to what the edit, as hooks, writes there."""
    model, edit = tiny("llama", host), made()
    each = edit.factors[1]
    parts = [acting(edit, model, ITEMS, name).values for name in each.labels]
    alone = replace(edit, factors=(each,))
    for item, *values in zip(ITEMS, *parts, strict=True):
        tokens = torch.tensor([encode(model, item).tokens])
        _, base = model.run_with_cache(tokens)
        with alone.as_steering().on(model):
            _, steered = model.run_with_cache(tokens)
        written = (steered[each.name] - base[each.name])[0].detach()
        wanted = sum(values)[:, None] * each.writes
        torch.testing.assert_close(written, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.host
@EACH_HOST
def test_acting_reads_the_model_as_it_stands(host: str) -> None:
    model, edit = tiny("llama", host), made()
    plain = acting(edit, model, ITEMS, "L2N7").values[0]
    with edit.as_steering().on(model):
        hooked = acting(edit, model, ITEMS, "L2N7").values[0]
    with edit.applied(model):
        edited = acting(edit, model, ITEMS, "L2N7").values[0]
    torch.testing.assert_close(hooked, edited, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, edited, atol=1e-2)
    assert torch.equal(acting(edit, model, ITEMS, "L2N7").values[0], plain)


@pytest.mark.host
def test_tokens_are_coloured_by_what_acts() -> None:
    model, edit = tiny("llama", "bridge"), made()
    found = acting(edit, model, ITEMS, "L1H0")
    view = views.acts_on(edit, model, ITEMS, "L1H0")
    assert view.props is not None
    assert np.allclose(view.props["values"], torch.cat(found.values), atol=1e-3)
    marks = re.findall(r'class="sl-mark">([^<]*)<', view.static)
    assert marks == ["text 1", "text 2", "completion", "text 3"]
    value = shown(float(found.values[1][2]))
    assert f"{found.tokens[1][2]} · {value} · token 2 of text 2" in view.static
    assert view.subtitle.endswith("of 3 texts; λ = −1.5")
    alone = views.acts_on(edit, model, ITEMS[:1], "L1H0")
    assert "text 1" not in alone.static
    assert "token 2 of" not in alone.static


@pytest.mark.parametrize("index", range(2))
def test_hostile_text_is_shown_and_runs_nothing(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(HOSTILE)
    said = Acting("L1H0", 0.5, (tuple(HOSTILE), ("a",)), (draws(n), draws(1)), (3, 1))
    monkeypatch.setattr("steerlens.views.edits.acting", lambda *_, **__: said)
    model: Any = tiny("llama", "bridge")
    view = (
        views.edit_map(made(name=SAID), title=SAID)
        if index
        else views.acts_on(made(), model, ["a"], "L1H0", title=SAID)
    )
    fragment = Tags(view.fragment())
    assert not {"script", "iframe", "link", "object", "bos"} & set(fragment.tags)
    assert not [name for name in fragment.attributes if name.startswith("on")]
    assert "http" not in view.fragment()
    assert "⟨202E⟩right to left" in view.fragment()
    assert "<" not in view.request()


@pytest.mark.host
@pytest.mark.parametrize(
    ("edit", "items", "component", "error", "told"),
    [
        (made(), ITEMS, "L1H1", UnknownNameError, r"5 components.*'L1H0'"),
        (made(), ITEMS, "", UnknownNameError, "known: 'L0N3'"),
        (made(), "good", "L1H0", BadInputError, "a list of one item"),
        (made(), [], "L1H0", BadInputError, "a list of one item"),
        (gated(), ITEMS, "L1H2", UnknownNameError, "L1H2 is gated"),
        (gated(), ITEMS, "L1H3", UnknownNameError, "no head and no neuron"),
        (made(12), ITEMS, "L1H0", BadInputError, r"\(4, 8\) a token.*\(4, 12\)"),
        (
            Edit((factors(7, "attn", [0], [1.0]),)),
            ITEMS,
            "L7H0",
            UnknownNameError,
            "layers 0 to 2",
        ),
        (
            Edit((factors(1, "attn", [0], [1.0]), factors(1, "attn", [0], [2.0]))),
            ITEMS,
            "L1H0",
            BadInputError,
            "along 2 directions",
        ),
    ],
)
def test_what_cannot_be_read_is_told(
    edit: Edit, items: Any, component: str, error: type[SteerLensError], told: str
) -> None:
    model = tiny("llama", "bridge")
    calls: list[Callable[..., Any]] = [acting, views.acts_on]
    for call in calls:
        with pytest.raises(error, match=told):
            call(edit, model, items, component)


def test_a_number_of_bars_below_zero_is_told() -> None:
    with pytest.raises(BadInputError, match="neurons=-1"):
        views.edit_map(made(), neurons=-1)
