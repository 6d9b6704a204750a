"""A study from question to sentence: which finder makes text happier, at equal dose.

    python docs/study.py                                        on Steerling, its world as judge
    python docs/study.py --folder STORIES --pairs sentiment.jsonl --texts stories.json

The second runs on a folder of a pretrained model (stories260K) with pairs to find directions in and
a JSON list of stories whose beginnings are gone on with; there a public lexicon judges
(vaderSentiment). Seed 0, one thread, about a quarter of an hour each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pictures import photograph

import steerlens as sl
from steerlens import host, views
from steerlens.demo import load_model, world
from steerlens.demo.tasks import replies_in_world
from steerlens.evaluation import (
    Continuation,
    EqualDose,
    at_equal_dose,
    shuffled_directions,
    twin,
)

METHODS = ("mean_difference", "probe", "whitened")
LAYERS = (0, 1, 2, 3)
SHUFFLES = 10


class Lexicon:
    """The compound score of vaderSentiment, from -1 to 1."""

    def __init__(self) -> None:
        """Load the lexicon."""
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self.analyser = SentimentIntensityAnalyzer()

    def __call__(self, prompt: str, text: str) -> float:
        """Return the score of a continuation."""
        return float(self.analyser.polarity_scores(text)["compound"])


def steerings(model: Any, contrast: sl.Contrast) -> dict[str, list[sl.Steering]]:
    """Directions of each finder, at every layer that is a candidate."""
    found = {}
    for method in METHODS:
        directions = sl.find_directions(
            model, contrast, method, name=method, quality=False, progress=False
        )
        found[method] = [
            sl.add(directions["resid_post", layer], positions="predicting") for layer in LAYERS
        ]
    return found


def shuffled(model: Any, contrast: sl.Contrast) -> Callable[[sl.Steering], list[sl.Steering]]:
    """Makes placebos of a steering: its own finder on shuffled labels."""

    def placebos(chosen: sl.Steering) -> list[sl.Steering]:
        [leaf] = chosen.interventions
        direction: Any = leaf.transform.along  # type: ignore[attr-defined]
        found = shuffled_directions(
            model, contrast, direction, SHUFFLES, method=direction.name, progress=False
        )
        return [twin(chosen, each) for each in found]

    return placebos


def other_concept(model: Any, concept: str) -> Callable[[sl.Steering], list[sl.Steering]]:
    """Makes a placebo of a steering: another concept of the world, at its length."""
    contrast = sl.Contrast.from_pairs(world.contrast(concept, "fit", 96))
    directions = sl.find_directions(model, contrast, name=concept, quality=False, progress=False)
    return lambda chosen: [twin(chosen, directions)]


def on_steerling(placebos: int | None) -> EqualDose:
    """The world's sentiment, judged by the world."""
    model: Any = load_model()
    fit = sl.Contrast.from_pairs(world.contrast("sentiment", "fit", 96))
    validation, test = (
        replies_in_world("sentiment", split, n, max_new_tokens=28)
        for split, n in (("validation", 32), ("test", 96))
    )
    return at_equal_dose(
        model,
        steerings(model, fit),
        test,
        validation.prompts,
        kl=0.1,
        control=world.control("sentiment", "validation", 16),
        choose_on=validation,
        placebos=placebos,
        others={
            "shuffled labels": shuffled(model, fit),
            "honesty, another concept": other_concept(model, "honesty"),
        },
    )


def on_folder(folder: str, pairs: str, texts: str, placebos: int | None) -> EqualDose:
    """A pretrained model's stories, judged by a public lexicon."""
    model = host.load(folder)
    stories = json.loads(Path(texts).read_text(encoding="utf-8"))
    beginnings = list(dict.fromkeys(" ".join(story.split()[:12]) for story in stories))
    judge = Lexicon()
    fit = sl.Contrast.from_jsonl(pairs)
    validation = Continuation("sentiment", beginnings[:32], judge, max_new_tokens=40)
    test = Continuation("sentiment", beginnings[32:128], judge, max_new_tokens=40)
    return at_equal_dose(
        model,
        steerings(model, fit),
        test,
        validation.prompts,
        kl=0.1,
        control=[" ".join(story.split()[40:52]) for story in stories[128:144]],
        choose_on=validation,
        placebos=placebos,
        others={"shuffled labels": shuffled(model, fit)},
    )


def main() -> None:
    """Run one of the two, print table and sentence, and draw the plot where a name is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="a folder of a pretrained model")
    parser.add_argument("--pairs", help="JSONL of pairs to find directions in")
    parser.add_argument("--texts", help="JSON list of stories")
    parser.add_argument("--placebos", type=int, help="random twins a method; by default 59")
    parser.add_argument("--picture", help="a name for the plot among the docs' images, .png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.folder:
        given = arguments.folder, arguments.pairs, arguments.texts
        found = on_folder(*given, arguments.placebos)
    else:
        found = on_steerling(arguments.placebos)
    print(found.frame().round(3).to_string(index=False))
    print(found.sentence())
    if arguments.picture:
        photograph(views.effects(found), arguments.picture, 640, 260)


if __name__ == "__main__":
    main()
