"""A steering explained from what is written to the logits: which heads carry it, on which tokens.

    python docs/circuit.py                                      on Steerling: one name for another
    python docs/circuit.py --folder STORIES --pairs sentiment.jsonl --texts stories.json

The second steers sadness on a folder of a pretrained model (stories260K), with pairs to find the
direction in and a JSON list of stories. Beside the account stands that of random twins of the
steering. Seed 0, one thread, one to three minutes each.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pictures import photograph

import steerlens as sl
from steerlens import host, views
from steerlens import positions as at
from steerlens.demo import load_model, world
from steerlens.effects import Metric, look, mediation, readers
from steerlens.evaluation import random_twins
from steerlens.statistics import band

ASKED = re.compile(r" Honoured (\w+),")


@dataclass(frozen=True)
class Case:
    """A steering, what it is seen on, and what its effect is measured in."""

    model: Any
    steering: sl.Steering
    direction: sl.Direction
    prompts: Sequence[str]
    metric: Metric


def one_name_for_another(count: int = 32) -> Case:
    """On Steerling: letters to Leo, whose name is moved towards Otto's where it stands."""
    model: Any = load_model()
    asked = [
        (text, ASKED.match(reply)) for (text, reply), _ in world.contrast("formality", "fit", 200)
    ]
    names = [(text, f" {found[1]}") for text, found in asked if found and f" {found[1]}" in text]
    texts = list(dict.fromkeys(text.replace(name, " Leo") for text, name in names))[:count]
    contrast = sl.Contrast.from_pairs([(text.replace(" Leo", " Otto"), text) for text in texts])
    found = sl.find_directions(
        model,
        contrast,
        hook_names="blocks.0.hook_resid_pre",
        positions=at.matching(" Leo") | at.matching(" Otto"),
        name="Otto, not Leo",
        progress=False,
    )
    direction = found["blocks.0.hook_resid_pre"]
    steering = sl.add(direction, positions=at.matching(" Leo"))
    return Case(
        model, steering, direction, [f"{text} Honoured" for text in texts], (" Otto", " Leo")
    )


def sadness(folder: str, pairs: str, texts: str, layer: int = 1, count: int = 32) -> Case:
    """On a pretrained model: beginnings of stories, sad at all of their tokens but the last."""
    model: Any = host.load(folder)
    stories = json.loads(Path(texts).read_text(encoding="utf-8"))
    beginnings = list(dict.fromkeys(" ".join(story.split()[:12]) for story in stories))[:count]
    contrast = sl.Contrast.from_jsonl(pairs)
    directions = sl.find_directions(model, contrast, name="sentiment", progress=False)
    direction = -directions["resid_post", layer]
    steering = sl.add(direction, coeff=4.0, positions=at.prompt & ~at.last(1))
    return Case(model, steering, direction, beginnings, None)


def tell(case: Case, twins: int) -> None:
    """Print the account, who carries it, and what random twins of the steering do."""
    account = sl.effect(case.model, case.steering, case.prompts, case.metric)
    print(case.direction)
    print(account)
    paths = mediation(case.model, case.steering, case.prompts, case.metric)
    print(paths)
    print(
        paths.frame().sort_values("carried", key=abs, ascending=False).head(8).round(3).to_string()
    )
    print(readers(case.model, case.direction))
    top = account.top(2)
    print("the two heads with the largest parts:", ", ".join(f"L{i}H{j}" for i, j in top))
    changes, shares = [], []
    for twin in random_twins(case.steering, twins, seed=0):
        other = sl.effect(case.model, twin, case.prompts, case.metric)
        changes.append(other.change)
        shares.append([float(other.heads[place]) for place in top])
    low, high = band(torch.tensor(changes))
    print(f"{twins} random twins: change {low:+.3g} to {high:+.3g} (central 95%)")
    for i, (layer, head) in enumerate(top):
        low, high = band(torch.tensor([each[i] for each in shares]))
        print(f"  part of L{layer}H{head}: {low:+.3g} to {high:+.3g}")


def change(case: Case, prompt: str) -> float:
    """How much the steering changes on one text."""
    return sl.effect(case.model, case.steering, [prompt], case.metric).change


def draw(case: Case, name: str) -> None:
    """Draw the map of parts, the flow down the layers, and two heads on the text of most change."""
    account = sl.effect(case.model, case.steering, case.prompts, case.metric)
    text = max(case.prompts, key=lambda each: change(case, each))
    heads = look(case.model, case.steering, text, account.top(2), case.metric)
    photograph(views.effect_map(account), f"{name}-map.png", 700, 520)
    photograph(views.flow(account), f"{name}-flow.png", 720, 660)
    photograph(views.rests_on(heads), f"{name}-tokens.png", 720, 200)
    photograph(views.looked(heads), f"{name}-heads.png", 720, 260)


def main() -> None:
    """Explain one of the two, and draw pictures where a name is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="a folder of a pretrained model")
    parser.add_argument("--pairs", help="JSONL of pairs to find directions in")
    parser.add_argument("--texts", help="JSON list of stories")
    parser.add_argument("--twins", type=int, default=20)
    parser.add_argument("--pictures", help="a name for the pictures among the docs' images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.folder:
        case = sadness(arguments.folder, arguments.pairs, arguments.texts)
    else:
        case = one_name_for_another()
    tell(case, arguments.twins)
    if arguments.pictures:
        draw(case, arguments.pictures)


if __name__ == "__main__":
    main()
