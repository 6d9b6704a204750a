"""Make the pictures of README and docs on Steerling: `make pictures` (needs a Chromium).

Seed 0, one thread; the README's first cell is what is run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

import steerlens as sl
from steerlens import views
from steerlens.demo import load_model, world

PROMPT = "On Friday I got the meal."
BLUE, ORANGE = "#0072b2", "#d55e00"
IMAGES = Path(__file__).with_name("images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--virtual-time-budget=8000", "--force-device-scale-factor=2"),
)


def photograph(view: views.View, name: str, width: int, height: int) -> None:
    """Draw a view's static twin in a browser and keep the picture."""
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        raise SystemExit("No Chromium is there to draw the pictures with.")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "view.html")
        page.write_text(views.page("", [view]).replace("<h1></h1>", ""), encoding="utf-8")
        command = [browser, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"]
        picture = f"--screenshot={IMAGES / name}"
        subprocess.run([*command, picture, page.as_uri()], check=True, capture_output=True)


def first_cell(model: Any, directions: Any) -> views.View:
    """The README's first cell: sentiment found, added, traced."""
    steering = sl.add(directions["resid_post", 0], coeff=3, positions="predicting")
    torch.manual_seed(0)
    with steering.trace(model) as trace:
        print(model.generate(PROMPT, max_new_tokens=40, verbose=False))
    return views.tokens(trace)


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure that needs no window, and its axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def under(axis: Any, strings: Any) -> None:
    """Write tokens under the bars of an axis, BOS left out."""
    shown = [repr(each) if each else "" for each in strings]
    axis.set_xticks(range(len(strings)), shown, rotation=60, ha="right")
    axis.set_xlim(0.4, len(strings) - 0.4)
    axis.tick_params(labelsize=7)


def keep(drawn: Any, name: str) -> None:
    """Write a figure."""
    IMAGES.mkdir(exist_ok=True)
    drawn.savefig(IMAGES / name, dpi=110)


def transforms() -> None:
    """Arrows from activations of a plane to where six transforms take them."""
    place = "blocks.0.hook_resid_post"
    right, up = (sl.Direction(place, vector) for vector in torch.eye(2))
    along = sl.Direction(place, torch.tensor([0.8, 0.6]))
    panels: list[tuple[str, Any, float]] = [
        ("add", sl.transforms.Add(along), 0.6),
        ("ablate", sl.transforms.Ablate(along), 1.0),
        ("clamp to -0.5 .. 0.5", sl.transforms.Clamp(along, -0.5, 0.5), 1.0),
        ("rotate by 0.5", sl.transforms.Rotate(right, up), 0.5),
        ("rotate to 0.64", sl.transforms.RotateTo(right, up, 0.64), 1.0),
        ("keep_norm(add)", sl.transforms.KeepNorm(sl.transforms.Add(along)), 0.6),
    ]
    ticks = torch.linspace(-1.5, 1.5, 8)
    x = torch.cartesian_prod(ticks, ticks)[None]
    drawn, axes = figure(2, 3, 9, 6.2)
    for axis, (title, transform, strength) in zip(axes.flat, panels, strict=True):
        change = transform.change(x, torch.tensor(strength)).expand_as(x)[0]
        axis.quiver(*x[0].T, *change.T, angles="xy", scale_units="xy", scale=1, color=BLUE)
        axis.plot([0, 0.8], [0, 0.6], color=ORANGE, linewidth=3)
        axis.set(title=title, aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
        axis.tick_params(labelsize=7)
    keep(drawn, "transforms.png")


def positions(model: Any) -> None:
    """Which tokens of a chat on Steerling each selector picks: a row a selector."""
    chat = [{"role": "user", "content": "Tell me of the cake. Be brief."}]
    prompt = model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    item = (prompt.removeprefix(model.tokenizer.bos_token), " The cake is not bad.")
    at = sl.positions
    selectors = [
        *(at.selector(name) for name in at.NAMED),
        *(at.first(3), at.last(3), at.span(4, 8), at.matching(" cake"), at.after("brief")),
        *(at.between("Tell", "."), at.role("assistant"), at.prompt & ~at.role("user")),
    ]
    rows = [each.show(model, item) for each in selectors]
    strings = rows[0].strings[0]
    drawn, axis = figure(1, 1, 10, 4.6)
    picked = torch.tensor([row.picked[0] for row in rows]).float()
    axis.pcolormesh(picked.flip(0), cmap=two_colours(), edgecolors="#cccccc", linewidth=0.5)
    ends = torch.arange(len(strings)) + 0.5
    axis.set_xticks(ends, [repr(text) for text in strings], rotation=60, ha="right")
    axis.set_yticks(torch.arange(len(rows)) + 0.5, [row.selector for row in rows][::-1])
    prompted = sum(at.prompt.show(model, item).picked[0]) + 1
    axis.axvline(prompted, color=ORANGE, linewidth=2)
    axis.set_title("orange: where the prompt ends", fontsize=9)
    axis.tick_params(labelsize=8, length=0)
    keep(drawn, "positions.png")


def two_colours() -> Any:
    """White for what is not picked, blue for what is."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(["white", BLUE])


def gates(model: Any, directions: Any) -> None:
    """The values of five gates as Steerling reads a text and goes on with it."""
    read = directions["resid_post", 3]
    score = sl.signals.Projection(read)
    _, scores, prompt = gate_values(model, score, directions)
    middle, slope = float(scores.nanmedian()), 1 / float(scores[1:].std())
    high = float(scores[1:prompt].max())
    probe = sl.signals.Probe(slope * read.unit(), bias=-slope * middle)
    panels = {
        "projection on sentiment": score,
        "probe": probe,
        "projection > its largest in the prompt": score > high,
        "latch of that": sl.signals.Latch(score > high),
        "hysteresis: opens there, shuts below the median": sl.signals.Hysteresis(
            score, high, middle
        ),
        "decay(half_life=6)": sl.signals.Decay(6),
        "steps(0, 5) | projection > its largest in the prompt": sl.signals.Steps(0, 5)
        | (score > high),
    }
    drawn, axes = figure(len(panels), 1, 10, 9)
    for axis, (title, signal) in zip(axes, panels.items(), strict=True):
        strings, values, prompt = gate_values(model, signal, directions)
        axis.bar(torch.arange(len(strings)), values.nan_to_num(), color=BLUE)
        axis.axvline(prompt - 0.5, color=ORANGE, linewidth=2)
        axis.set_title(title, fontsize=9, loc="left")
        under(axis, strings if axis is axes[-1] else [""] * len(strings))
    keep(drawn, "gates.png")


def gate_values(model: Any, signal: Any, directions: Any) -> tuple[tuple[str, ...], Any, int]:
    """Tokens of a text that Steerling goes on with, a gate's value at each, and the prompt's end.

    The gated direction has length 0, so that every gate sees the same text.
    """
    nothing = 0.0 * directions["resid_post", 3]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with sl.add(nothing).when(signal).trace(model) as trace:
            model.generate(PROMPT, max_new_tokens=22, verbose=False)
    text = trace.texts[0]
    return text.strings[0], text.gate[0, 0], int(text.prompt_lengths[0])


def coefficients(model: Any, directions: Any) -> None:
    """How far each token of a text is moved by a number, by a share, and by a decaying one."""
    direction = directions["resid_post", 3]
    length = float(direction.stream_norm or 1) * 0.1 / direction.norm
    panels = {
        f"coeff={length:.3g}": sl.add(direction, length),
        "coeff=of_stream(0.1)": sl.add(direction, sl.of_stream(0.1)),
        "coeff=of_stream(0.1), when(Decay(6))": sl.add(direction, sl.of_stream(0.1)).when(
            sl.signals.Decay(6)
        ),
    }
    drawn, axes = figure(len(panels), 1, 10, 6)
    for axis, (title, steering) in zip(axes, panels.items(), strict=True):
        torch.manual_seed(0)
        with steering.where("predicting").trace(model) as trace:
            model.generate(PROMPT, max_new_tokens=22, verbose=False)
        text = trace.texts[0]
        axis.bar(torch.arange(text.share.shape[2]), 100 * text.share[0, 0].nan_to_num(), color=BLUE)
        axis.set_ylabel("% of the norm", fontsize=7)
        axis.set_title(title, fontsize=9, loc="left")
        under(axis, text.strings[0])
    keep(drawn, "coefficients.png")


def together(model: Any, directions: Any) -> None:
    """The component along a direction, layer by layer, under sums and sequences of two."""
    direction = directions["resid_post", 2]
    add, ablate = sl.add(direction, 2), sl.ablate(direction)
    steerings = {
        "none": 0 * add,
        "add": add,
        "ablate": ablate,
        "add + ablate": add + ablate,
        "add >> ablate": add >> ablate,
        "ablate >> add": ablate >> add,
    }
    drawn, axis = figure(1, 1, 8, 3.6)
    marks = zip(steerings.items(), ("o", "s", "^", "v", "D", "x"), strict=True)
    for (name, steering), mark in marks:
        kept: list[float] = []

        def read(x: Any, hook: Any, kept: list[float] = kept) -> None:
            kept.append(float((x[:, 1:] @ direction.unit().vector).mean()))

        hooks = [(f"blocks.{layer}.hook_resid_post", read) for layer in range(6)]
        with torch.no_grad(), steering.on(model):
            model.run_with_hooks(PROMPT, fwd_hooks=hooks)
        axis.plot(kept, marker=mark, label=name, alpha=0.8)
    axis.set(xlabel="layer", ylabel="mean component")
    axis.legend(fontsize=8)
    keep(drawn, "together.png")


def main() -> None:
    """Draw them all."""
    torch.set_num_threads(1)
    model: Any = load_model()
    contrast = sl.Contrast.from_pairs(world.contrast("sentiment", "fit", 96))
    directions = sl.find_directions(model, contrast, name="sentiment", progress=False)
    transforms()
    positions(model)
    gates(model, directions)
    coefficients(model, directions)
    together(model, directions)
    photograph(first_cell(model, directions), "tokens.png", 900, 240)


if __name__ == "__main__":
    main()
