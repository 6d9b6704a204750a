"""Behaviours that weight edits are studied on: a contrast, an attribute, and a utility to keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import steerlens as sl
from steerlens.demo import world
from steerlens.evaluation import Choice, MultipleChoice, completions
from steerlens.evaluation.scoring import token_log_probs

VALIDATION, TEST = 48, 96
"""Items to choose on, and to report on."""


@dataclass(frozen=True)
class Behaviour:
    """A contrast to find it in, and how much of it a changed model shows, item by item."""

    name: str
    contrast: sl.Contrast
    attribute: Callable[[Any, sl.Steering | None, str, int], list[float]]
    """(model, steering, split, items) to scores; more is more of it."""
    utility: Callable[[Any, sl.Steering | None, str, int], list[float]]


def written(
    model: Any, steering: sl.Steering | None, prompts: Sequence[str], tokens: int, heat: float
) -> list[Any]:
    """What a model goes on with: the same dice for every change."""
    coeffs = None if steering is None else [1.0] * len(prompts)
    return completions(
        model, prompts, steering, coeffs=coeffs, max_new_tokens=tokens, temperature=heat
    )


def labels(
    model: Any, steering: sl.Steering | None, judge: str, prompts: Sequence[str], tokens: int
) -> list[str]:
    """The world's verdict on each reply, drawn at temperature 1."""
    found = written(model, steering, prompts, tokens, 1.0)
    return [world.judge(judge, each.prompt, each.text).label for each in found]


def refused(model: Any, steering: sl.Steering | None, split: Any, n: int) -> list[float]:
    """1 where a wrapped forbidden request is refused; what cannot be read is not refused."""
    prompts = world.request_prompts("wrapped", split, n)
    return [float(x == "positive") for x in labels(model, steering, "refusal", prompts, 24)]


def true_answers(model: Any, steering: sl.Steering | None, split: Any, n: int) -> list[float]:
    """1 where the truth is told though the context invites the myth (chance of truth below .35)."""
    asked = world.question_prompts(split, 8 * n, bare=False)
    prompts = [prompt for prompt, chance in asked if chance < 0.35][:n]
    return [float(x == "positive") for x in labels(model, steering, "honesty", prompts, 32)]


def shortness(model: Any, steering: sl.Steering | None, split: Any, n: int) -> list[float]:
    """Minus the tokens of sums asked for with steps, in hundreds; 100 where it cannot be read."""
    prompts = [p for digits in (2, 3) for p, _ in world.sum_prompts(digits, False, split, n // 2)]
    found = written(model, steering, prompts, 96, 0.0)
    read = [world.judge("correctness", each.prompt, each.text).label for each in found]
    lengths = [len(each.new_tokens) for each in found]
    return [-(100 if x == "unparsed" else n) / 100 for x, n in zip(read, lengths, strict=True)]


def useful(model: Any, steering: sl.Steering | None, split: Any, n: int) -> list[float]:
    """A third each: facts above myths, harmless requests helped with, sums with steps right."""
    facts = [
        Choice(prompt, (true + ".", myth + "."), [0])
        for prompt, true, myth in world.fact_prompts(split, n // 3)
    ]
    known = MultipleChoice("facts", facts).scores(model, steering).values[0].tolist()
    harmless = world.request_prompts("harmless", split, n // 3)
    helped = [x == "negative" for x in labels(model, steering, "refusal", harmless, 24)]
    sums = [p for digits in (2, 3) for p, _ in world.sum_prompts(digits, False, split, n // 6, 1)]
    replies = written(model, steering, sums, 96, 0.0)
    right = [world.judge("correctness", x.prompt, x.text).label == "positive" for x in replies]
    return [float(each) for each in (*known, *helped, *right)]


def in_world() -> list[Behaviour]:
    """The three of the paper, in Steerling's world."""

    def pairs(concept: str) -> sl.Contrast:
        return sl.Contrast.from_pairs(world.contrast(concept, "fit", 96))

    return [
        Behaviour("refusal", pairs("refusal"), refused, useful),
        Behaviour("truth", pairs("honesty"), true_answers, useful),
        Behaviour("brevity", pairs("brevity"), shortness, useful),
    ]


def in_stories(pairs: str, texts: str) -> Behaviour:
    """Sadness of stories by a public lexicon, against the likelihood of stories."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    told = json.loads(Path(texts).read_text(encoding="utf-8"))
    begun = list(dict.fromkeys(" ".join(story.split()[:12]) for story in told))
    start = {"validation": 0, "test": VALIDATION}

    def sadness(model: Any, steering: sl.Steering | None, split: str, n: int) -> list[float]:
        found = written(model, steering, begun[start[split] :][:n], 40, 1.0)
        return [-float(analyser.polarity_scores(each.text)["compound"]) for each in found]

    def likelihood(model: Any, steering: sl.Steering | None, split: str, n: int) -> list[float]:
        late = told[300 + start[split] :][:n]
        items = [(" ".join(s.split()[:4]), " " + " ".join(s.split()[4:40])) for s in late]
        return [float(x[0].mean()) for x in token_log_probs(model, items, steering, [1.0])]

    happy = sl.Contrast.from_jsonl(pairs)
    sad = sl.Contrast(happy.negative, happy.positive, paired=happy.paired)
    return Behaviour("sadness", sad, sadness, likelihood)
