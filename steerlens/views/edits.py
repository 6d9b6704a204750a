"""An edit drawn: how strongly it changes which heads and neurons, and the tokens it acts on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import isnan

import numpy as np
from torch import Tensor

from steerlens.cards import count, number
from steerlens.editing import Edit, acting
from steerlens.editing.factors import Place
from steerlens.errors import BadInputError
from steerlens.host import Host
from steerlens.text import Item
from steerlens.views import axes
from steerlens.views.axes import Axis
from steerlens.views.maps import MOST_HOVERS, MOST_NUMBERS, Cells, headings, table
from steerlens.views.page import View
from steerlens.views.scale import Floats, signed
from steerlens.views.theme import BLUE, VERMILION, text
from steerlens.views.tokens import colored_tokens

WIDTH, LINE, HEIGHT, TOP = 360, 21, 13, 4
"""Of the neurons' bars, in pixels."""
CHARACTER = 7.6
"""Of a neuron's name: capitals and digits are wider than `axes.CHARACTER`."""
LENGTH = "length of the offset"
Numbers = Iterable[tuple[int, Tensor, Tensor]]
"""A layer, some of its heads, and a number for each."""


def edit_map(
    edit: Edit,
    n_layers: int | None = None,
    neurons: int = 10,
    *,
    title: str = "What the edit changes",
) -> View:
    """Draw the strength λ of every edited head, and bars of the strongest neurons; static.

    - `n_layers`: how many layers are drawn; by default those that the edit knows of.
    - `neurons`: at most how many neurons have a bar.

    Heads that are not edited are blank; hovers tell their importance g, where it is known. Gated
    heads have maps of their own: the gain farthest from 1, less 1, and the length of the offset.
    A component that is moved along several v is drawn by its largest λ. Raises BadInputError where
    there are fewer layers than the edit knows of, or `neurons` is below zero.

    >>> edit = sl.steer2edit(model, contrast, rho_attn=0.01, rho_mlp=0.01, progress=False)
    >>> view = edit_map(edit, title="Good & bad")
    >>> strongest = edit.frame().iloc[0]
    >>> f"{strongest['component']}: " in view.static, "of 48 heads" in view.subtitle
    (True, True)
    """
    if neurons < 0:
        raise BadInputError(f"The strongest neurons are a number of them; got neurons={neurons}.")
    sizes = _sizes(edit)
    known = 1 + max((layer for layer, _ in sizes), default=-1)
    layers = known if n_layers is None else n_layers
    if layers < known:
        raise BadInputError(
            f"The edit knows of layer {known - 1}, and n_layers is {layers}. Give the model's: "
            "model.cfg.n_layers."
        )
    heads = max((size for (_, block), size in sizes.items() if block == "attn"), default=0)
    drawn = [_map(edit, np.zeros((layers, heads)), values, unit) for unit, values in _by_head(edit)]
    if edit.frame().empty:
        drawn = ['<div class="sl-muted">No head or neuron is edited.</div>']
    static = "".join(drawn) + _bars(edit, neurons)
    return View(title, static, subtitle=_subtitle(edit, sizes, n_layers))


def acts_on(
    edit: Edit,
    model: Host,
    texts: Iterable[Item],
    component: str,
    *,
    batch_tokens: int = 4096,
    title: str | None = None,
) -> View:
    """Colour each token of some texts by what the edit of one component adds there along v.

    `component` is one that is edited, as L3H5 or L3N120. All texts have one scale: λ k·x, in units
    of the stream, in front of any norm after the block. Raises and costs what `acting` does.

    >>> edit = sl.steer2edit(model, contrast, rho_attn=0.01, rho_mlp=None, progress=False)
    >>> acts_on(edit, model, ["a good day", "a bad day"], edit.frame()["component"][0]).element
    'ColoredTokens'
    """
    found = acting(edit, model, texts, component, batch_tokens=batch_tokens)
    several = len(found.tokens) > 1
    tokens: list[str] = []
    details: list[str] = []
    marks: dict[int, str] = {}
    for i, (words, prompt) in enumerate(zip(found.tokens, found.prompt_lengths, strict=True), 1):
        if several:
            marks[len(tokens)] = f"text {i}"
        if 0 < prompt < len(words):
            marks[len(tokens) + prompt] = "completion"
        tokens += words
        details += [f"token {at} of text {i}" if several else "" for at in range(len(words))]
    view = colored_tokens(
        tokens,
        np.concatenate([each.numpy() for each in found.values]),
        unit="added along v: λ k·x",
        title=title or f"Where the edit of {component} acts",
        details=[details],
        marks=marks,
    )
    over = f" of {count(len(found.tokens), 'text')}" if several else ""
    return replace(view, subtitle=f"{view.subtitle}{over}; λ = {signed(found.strength)}")


def _sizes(edit: Edit) -> dict[Place, int]:
    """How many heads or neurons each block has that the edit knows of."""
    found = {place: len(g) for place, g in edit.importance.items()}
    found |= {each.place: each.of for each in edit.factors}
    return found | {(each.layer, "attn"): len(each.gain) for each in edit.gates}


def _by_head(edit: Edit) -> list[tuple[str, Numbers]]:
    """What is known of each head: λ, and of gated ones gains and offsets, with their units."""
    factors = [each for each in edit.factors if each.place[1] == "attn" and len(each.units)]
    strengths = [(each.place[0], each.units, each.strengths) for each in factors]
    gains: list[tuple[int, Tensor, Tensor]] = []
    offsets: list[tuple[int, Tensor, Tensor]] = []
    for gate in edit.gates:
        far = (gate.gain - 1).gather(1, (gate.gain - 1).abs().argmax(1, keepdim=True)).flatten()
        lengths = gate.offset.norm(dim=1)
        for made, values in ((gains, far), (offsets, lengths)):
            units = values.nonzero().flatten()
            if len(units):
                made.append((gate.layer, units, values[units]))
    named = (("λ", strengths), ("gain − 1", gains), (LENGTH, offsets))
    return [(unit, values) for unit, values in named if values]


def _map(edit: Edit, grid: Floats, values: Numbers, unit: str) -> str:
    """Return the map of one number, with its legend; heads without it stay blank."""
    edited = np.zeros(grid.shape, dtype=bool)
    for layer, units, each in values:
        for i, value in zip(units.tolist(), each.tolist(), strict=True):
            edited[layer, i] = True
            if abs(value) > abs(grid[layer, i]):
                grid[layer, i] = value
    cells = Cells.of(grid)
    cells = replace(cells, scale=replace(cells.scale, signed=unit != LENGTH))
    if any(cells.written(value) == "0" for value in grid[edited].tolist()):
        cells = replace(cells, decimals=cells.decimals + 1)  # small strengths are edits too
    bare = grid.shape[1] > MOST_NUMBERS
    told = np.full(grid.shape, True) if grid.size <= MOST_HOVERS else edited
    told = told & (told.sum() <= MOST_HOVERS)
    rows = []
    for layer, line in enumerate(grid):
        g = edit.importance.get((layer, "attn"))
        row = []
        for head, value in enumerate(line.tolist()):
            hover = f"L{layer}H{head}: {cells.told(value)}"
            if g is not None and head < len(g):
                hover += f", g {signed(float(g[head]))}"
            cell, hovers = line[head : head + 1], [hover if told[layer, head] else ""]
            row.append(cells.row(cell, hovers, bare or not bool(edited[layer, head])))
        rows.append((str(layer), "".join(row)))
    width = 0 if bare else max(len(cells.written(value)) for value in grid.flat)
    drawn = table(headings(grid.shape[1]), rows, "sl-bare" * bare, width)
    return drawn + cells.legend(unit)


def _bars(edit: Edit, most: int) -> str:
    """Return a bar for each of the strongest neurons, from zero to its λ."""
    frame = edit.frame()
    found = frame[frame["block"] == "mlp"].drop_duplicates("component")
    top = found.head(most)
    if not len(top):
        return ""
    values = [float(value) for value in top["strength"]]
    names = [str(name) for name in top["component"]]
    left = 14 + CHARACTER * max(map(len, names))
    low, high = min(0.0, *values), max(0.0, *values)
    x = Axis(low, high if high > low else 1.0, left, left + WIDTH, ())
    bottom = TOP + LINE * len(values)
    body = axes.rule(x(0.0), TOP, x(0.0), bottom, 0.6)
    for i, (name, value, g) in enumerate(zip(names, values, top["importance"], strict=True)):
        y = TOP + LINE * (i + 0.5)
        hover = f"{name}: {signed(value)}" + ("" if isnan(g) else f", g {signed(g)}")
        colour = BLUE if value > 0 else VERMILION
        body += axes.bar_line(x, y, HEIGHT, name, (0.0, value), colour, value, hover)
    told = f"The {len(values)} strongest of {len(found):,} neurons: λ"
    if len(values) == len(found):
        told = f"{count(len(found), 'neuron')}: λ"
    drawing = axes.svg(round(left + WIDTH + 66), bottom + TOP, body, told)
    return f'<div class="sl-muted" style="margin:.8em 0 .3em">{text(told)}</div>{drawing}'


def _subtitle(edit: Edit, sizes: dict[Place, int], n_layers: int | None) -> str:
    """One line: what is edited, out of how much, how strongly, and what made the edit."""
    parts = []
    for block, noun in (("attn", "head"), ("mlp", "neuron")):
        edited = {label for f in edit.factors if f.place[1] == block for label in f.labels}
        known = {place: size for place, size in sizes.items() if place[1] == block}
        considered = [place for place in edit.importance if place[1] == block]
        whole = len(known) in (len(considered), n_layers)  # else other layers are not known of
        if edited or considered:
            of = f" of {sum(known.values()):,}" if whole else ""
            parts.append(f"{len(edited):,}{of} {noun}" + "s" * (bool(of) or len(edited) != 1))
    if edit.gates:
        parts.append(count(sum(len(each.units) for each in edit.gates), "gated head"))
    if edit.embeddings is not None:
        parts.append("embeddings")
    if any(each.bias for each in edit.factors):
        parts.append("biases")
    if edit.factors:
        parts.append(f"sum of |λ| {number(edit.total)}")
    by = f", by {edit.maker}" if edit.maker else ""
    return f"“{edit.name}”{by}: {', '.join(parts) or 'nothing is edited'}"
