"""Make the pictures of the page on views, from the code that stands in it (needs a Chromium)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pictures import photograph

from steerlens import views


def main() -> None:
    """Run the page's own blocks, and draw what they show."""
    torch.set_num_threads(1)
    page = Path(__file__).with_name("views.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page, re.DOTALL)):
        exec(compile(block, f"views.md, block {number}", "exec"), names)
    photograph(views.logit_lens(names["lens"]), "lens.png", 620, 380)
    rows = [names["sentiment"]["resid_post", layer] for layer in (0, 2, 4)]
    live = views.projections(names["model"], rows, names["text"])
    photograph(replace(live, element=None, props=None), "projections.png", 880, 250)
    photograph(names["view"], "dose.png", 720, 930)


if __name__ == "__main__":
    main()
