"""How well directions tell the concepts of the world: `python -m steerlens.demo.readable`.

Mean differences found on the fit split tell the test split's pairs apart, at the embedding and
at every layer, so that what words alone tell stands beside what the layers have made of them.
"""

from __future__ import annotations

import argparse
from math import isnan
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from steerlens.activations import collect
from steerlens.contrast import Contrast
from steerlens.demo.model import load_model
from steerlens.demo.world import CONCEPTS, contrast
from steerlens.directions import find_directions
from steerlens.statistics import auc


def readable(model: Any, concept: str, n: int) -> list[float]:
    """Return the test AUC of a concept's fit direction at the embedding and after each layer.

    NaN at the embedding where both sides are made of the same words, and no direction is there.

    >>> len(readable(model, "brevity", 8))
    7
    """
    fit, test = (Contrast.from_pairs(contrast(concept, split, n)) for split in ("fit", "test"))
    sites = ["blocks.0.hook_resid_pre", "resid_post"]
    found = find_directions(model, fit, hook_names=sites, quality=False, progress=False)
    up, down = (
        collect(model, side, sites, progress=False) for side in (test.positive, test.negative)
    )
    return [
        float(auc(*(side.examples[hook] @ found[hook].vector for side in (up, down))))
        if hook in found
        else torch.nan
        for hook in up
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=96, help="pairs a split")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model: Any = load_model()
    table = Table("concept", "embed", *map(str, range(model.cfg.n_layers)))
    for concept in tqdm(["sentiment", *CONCEPTS]):
        values = readable(model, concept, arguments.n)
        table.add_row(concept, *("-" if isnan(value) else f"{value:.2f}" for value in values))
    Console().print(table)


if __name__ == "__main__":
    main()
