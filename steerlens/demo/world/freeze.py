"""The fingerprint of the world; `python -m steerlens.demo.world` writes it down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from steerlens.demo.world.frames import SPLITS, Split
from steerlens.demo.world.items import contrast, control, prompts
from steerlens.demo.world.judging import judge
from steerlens.demo.world.mixture import ATTRIBUTES, documents
from steerlens.demo.world.tasks import TASKS

FROZEN = Path(__file__).with_name("FROZEN")


def fingerprint() -> str:
    """Hash samples of all the world gives out, in all splits, and the judge's verdicts on them.

    Any change of a table, a frame, a split, a weight or the judge shows. Costs a few seconds.
    """
    total = hashlib.sha256()
    for split in SPLITS:
        for value in _samples(split):
            total.update(json.dumps(value, ensure_ascii=True).encode())
    return total.hexdigest()


def _samples(split: Split) -> Iterator[object]:
    for seed in range(2):
        yield list(islice(documents(seed, split), 400))
    for attribute in ATTRIBUTES:
        yield prompts(attribute, split, 16)
        for pair in contrast(attribute, split, 16):
            for item in pair:
                verdict = judge(attribute, *(("", item) if isinstance(item, str) else item))
                yield item, verdict.label, round(verdict.parsed_share, 6), verdict.detail
        yield control(attribute, split, 16)
    for task in TASKS.values():
        yield [(choice.prompt, choice.options, choice.answer) for choice in task.items(split, 16)]
