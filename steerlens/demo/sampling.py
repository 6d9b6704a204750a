"""Ask Steerling in batches: sampled or greedy replies, and the log probability of completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from steerlens.demo import world
from steerlens.demo.world import Split


@dataclass(frozen=True)
class Subject:
    """A model, its tokenizer, and what to ask it: the split, items a figure, and the seed.

    >>> from steerlens.demo.model import load_hf
    >>> Subject(*load_hf(), split="test", n=128, seed=0).split
    'test'
    """

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerBase
    split: Split
    n: int
    seed: int


@torch.inference_mode()
def replies(
    subject: Subject, prompts: Sequence[str], greedy: bool = False, batch: int = 64
) -> list[str]:
    """Return one completion a prompt, sampled at temperature 1, cut where the next speaker begins.

    Left-padded batches; costs about 2 seconds for 64 prompts on one core.

    >>> replies(subject, ["<|user|> Hello. <|assistant|>"])  # doctest: +SKIP
    [' Everyone finds you kind.']
    """
    tokenizer: Any = subject.tokenizer
    model: Any = subject.model
    stop = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(world.USER)]
    torch.manual_seed(subject.seed)
    found: list[str] = []
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        rows = tokenizer(part, return_tensors="pt", padding=True, padding_side="left")
        out = model.generate(
            input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
            max_new_tokens=96,
            do_sample=not greedy,
            top_k=0,
            eos_token_id=stop,
            pad_token_id=tokenizer.pad_token_id,
        )
        new = out[:, rows["input_ids"].shape[1] :]
        found += [text.rstrip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return found


@torch.inference_mode()
def log_probs(subject: Subject, items: Sequence[tuple[str, str]], batch: int = 64) -> list[float]:
    """Return log p(completion | prompt) in nats for each (prompt, completion).

    >>> log_probs(subject, [("Cows eat", " grass.")])  # doctest: +SKIP
    [-0.2]
    """
    tokenizer: Any = subject.tokenizer
    found: list[float] = []
    for start in range(0, len(items), batch):
        part = items[start : start + batch]
        texts = [prompt + completion for prompt, completion in part]
        rows = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        ids, mask = rows["input_ids"], rows["attention_mask"]
        logits = subject.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        each = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0] * mask[:, 1:]
        begins = [len(tokenizer(prompt)["input_ids"]) - 1 for prompt, _ in part]
        found += [float(row[begin:].sum()) for row, begin in zip(each, begins, strict=True)]
    return found


def labels(
    subject: Subject, attribute: str, prompts: Sequence[str], greedy: bool = False
) -> list[str]:
    """Return the judge's label of one reply a prompt.

    >>> labels(subject, "rudeness", ["<|user|> Hello. <|assistant|>"])  # doctest: +SKIP
    ['negative']
    """
    texts = replies(subject, prompts, greedy)
    return [world.judge(attribute, p, t).label for p, t in zip(prompts, texts, strict=True)]


def share(found: Sequence[str], label: str) -> float:
    """Return the share of one label among all, those that did not parse included.

    >>> share(["positive", "unparsed"], "positive")
    0.5
    """
    return found.count(label) / len(found) if found else 0.0
