"""Make the pictures of README and docs on Steerling: `make pictures` (needs a Chromium).

Seed 0, one thread; the README's first cell is what is run.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

import steerlens as sl
from steerlens import views
from steerlens.demo import load_model, world

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


def first_cell() -> views.View:
    """The README's first cell: sentiment found, added, traced."""
    model: Any = load_model()
    contrast = sl.Contrast.from_pairs(world.contrast("sentiment", "fit", 96))
    directions = sl.find_directions(model, contrast, name="sentiment", progress=False)
    steering = sl.add(directions["resid_post", 2], coeff=2, positions="predicting")
    torch.manual_seed(0)
    with steering.trace(model) as trace:
        text = model.generate("Yesterday I tried the coat.", max_new_tokens=40, verbose=False)
    print(text)
    return views.tokens(trace)


def transforms() -> None:
    """Arrows from activations of a plane to where six transforms take them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

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
    figure, axes = pyplot.subplots(2, 3, figsize=(9, 6.2), constrained_layout=True)
    for axis, (title, transform, strength) in zip(axes.flat, panels, strict=True):
        change = transform.change(x, torch.tensor(strength)).expand_as(x)[0]
        axis.quiver(*x[0].T, *change.T, angles="xy", scale_units="xy", scale=1, color="#0072b2")
        axis.plot([0, 0.8], [0, 0.6], color="#d55e00", linewidth=3)
        axis.set(title=title, aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
        axis.tick_params(labelsize=7)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "transforms.png", dpi=110)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transforms()
    photograph(first_cell(), "tokens.png", 900, 330)
