"""Completions of prompts, base or steered, in left-padded batches on either host."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from steerlens.errors import BadInputError
from steerlens.host import Host, device_of, need_tokenizer, token_id
from steerlens.steering import Steering
from steerlens.text import Encoded, encode


@dataclass(frozen=True)
class Completion:
    """A prompt, what the model wrote after it, and the ids of both."""

    prompt: str
    text: str
    encoded: Encoded


def completions(
    model: Host,
    prompts: Sequence[str],
    steering: Steering | None = None,
    *,
    coeffs: Sequence[float] | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.7,
    seed: int = 0,
    batch_rows: int = 64,
    progress: bool = False,
) -> list[Completion]:
    """Return a completion a prompt; with `coeffs`, one a prompt multiplies the steering.

    Temperature 0 is greedy. The seed is set for the call alone: the caller's generator is
    left as it was. A completion ends before EOS. Cost: one `generate` a batch.
    """
    need_tokenizer(model, "Generating from text")
    if coeffs is not None and (steering is None or len(coeffs) != len(prompts)):
        raise BadInputError(f"{len(coeffs)} coeffs need a steering and as many prompts.")
    written: list[Completion] = []
    bar = tqdm(total=len(prompts), desc="completions", disable=not progress)
    device = device_of(model)
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch_rows):
            rows = slice(start, start + batch_rows)
            steered = steering
            if steering is not None and coeffs is not None:
                steered = steering * torch.tensor(coeffs[rows])
            part = _batch(model, list(prompts[rows]), steered, max_new_tokens, temperature)
            written += part
            bar.update(len(part))
    return written


def _batch(
    model: Any,
    prompts: list[str],
    steering: Steering | None,
    max_new_tokens: int,
    temperature: float,
) -> list[Completion]:
    encoded = [encode(model, prompt) for prompt in prompts]
    width = max(len(each.tokens) for each in encoded)
    sampling = {"do_sample": False} if temperature == 0 else {"temperature": temperature}
    with nullcontext() if steering is None else steering.on(model):
        out = model.generate(
            prompts,
            max_new_tokens=max_new_tokens,
            return_type="tokens",
            verbose=False,
            **sampling,
        )
    new = torch.as_tensor(out)[:, width:].cpu()
    return [
        _completion(model, prompt, before, row)
        for prompt, before, row in zip(prompts, encoded, new, strict=True)
    ]


def _completion(model: Any, prompt: str, before: Encoded, new: Tensor) -> Completion:
    ids = new.tolist()
    eos = token_id(model, "eos")
    if eos in ids:
        ids = ids[: ids.index(eos)]
    whole = Encoded((*before.tokens, *ids), before.prompt_length)
    return Completion(prompt, _text_after(model, before, whole), whole)


def _text_after(model: Any, before: Encoded, whole: Encoded) -> str:
    """The completion's text, its leading space kept (decoding the ids alone may drop it)."""
    decode = model.tokenizer.decode
    prompt = str(decode(before.tokens, skip_special_tokens=True))
    text = str(decode(whole.tokens, skip_special_tokens=True))
    if text.startswith(prompt):
        return text[len(prompt) :]
    return str(decode(whole.tokens[before.prompt_length :], skip_special_tokens=True))
