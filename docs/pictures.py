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


if __name__ == "__main__":
    torch.set_num_threads(1)
    photograph(first_cell(), "tokens.png", 900, 330)
