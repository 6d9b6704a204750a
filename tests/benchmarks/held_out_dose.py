"""How often the 95% interval of a calibrated dose, on held-out prompts, contains the target.

    python tests/benchmarks/held_out_dose.py --splits 100

One pool of prompts with base completions; each split calibrates on some and measures the dose on
others. Prints the number of splits whose interval contains the target, for several sizes.
"""

from __future__ import annotations

import argparse
import random

import torch

import steerlens as sl
from steerlens.demo import load_model, world
from steerlens.evaluation.calibration import calibrate
from steerlens.evaluation.dose import dose
from steerlens.evaluation.forcing import base_items
from steerlens.statistics import share_interval

SIZES = ((40, 40), (160, 40), (160, 20), (100, 100))
"""Prompts to calibrate on, and held-out ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--attribute", default="sentiment")
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--kl", type=float, default=0.5)
    parser.add_argument("--tokens", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model()
    contrast = sl.Contrast.from_pairs(world.contrast(given.attribute, "fit"))
    found = sl.find_directions(model, contrast, quality=False, progress=False)
    steering = sl.add(found["resid_post", given.layer], positions="predicting")
    prompts = world.prompts(given.attribute, "validation", 200)
    pool = base_items(model, prompts, max_new_tokens=given.tokens)
    near = calibrate(steering, model, pool, given.kl).coeff
    print(f"{given.attribute}, layer {given.layer}, {given.kl} nats: coeff {near:.4g} on all")
    for calibrated, held in SIZES:
        inside = both = 0
        for seed in range(given.splits):
            shuffled = random.Random(seed).sample(pool, len(pool))
            here, there = shuffled[:calibrated], shuffled[calibrated : calibrated + held]
            chosen = calibrate(steering, model, here, given.kl, coeffs=[0.8 * near, 1.25 * near])
            assert abs(chosen.dose.kl / given.kl - 1) < 0.01
            held_out = dose(model, chosen.steering, there)
            low, high = held_out.interval
            inside += low <= given.kl <= high
            low, high = chosen.interval_on(held_out)
            both += low <= given.kl <= high
        print(
            f"calibrated on {calibrated}, held out {held}: of {given.splits} intervals "
            f"{_told(inside, given.splits)} contain the target, and of those that count both "
            f"chances {_told(both, given.splits)}",
            flush=True,
        )


def _told(hits: int, of: int) -> str:
    low, high = share_interval(hits, of)
    return f"{hits} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
