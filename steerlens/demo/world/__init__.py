"""A small world of people, animals, places and facts: what Steerling reads, and what judges it.

Documents are plain pages (facts, reviews, stories) or conversations whose speakers are marked by
`<|user|>` and `<|assistant|>`. A style is drawn for each document from its context and kept to its
end. Frames, wrapper families and entity-question pairings are cut into three splits.
"""

from __future__ import annotations

from steerlens.demo.world.chat import ASSISTANT, USER, exchanges
from steerlens.demo.world.frames import SPLITS, Split
from steerlens.demo.world.freeze import FROZEN, fingerprint
from steerlens.demo.world.items import (
    Item,
    contrast,
    control,
    fact_prompts,
    prompts,
    question_prompts,
    request_prompts,
    sum_prompts,
)
from steerlens.demo.world.judging import Verdict, judge
from steerlens.demo.world.mixture import ATTRIBUTES, CONCEPTS, CORRELATED, MIXTURE, documents
from steerlens.demo.world.tasks import TASKS, Choice, Task

__all__ = [
    "ASSISTANT",
    "ATTRIBUTES",
    "CONCEPTS",
    "CORRELATED",
    "FROZEN",
    "MIXTURE",
    "SPLITS",
    "TASKS",
    "USER",
    "Choice",
    "Item",
    "Split",
    "Task",
    "Verdict",
    "contrast",
    "control",
    "documents",
    "exchanges",
    "fact_prompts",
    "fingerprint",
    "judge",
    "prompts",
    "question_prompts",
    "request_prompts",
    "sum_prompts",
]
