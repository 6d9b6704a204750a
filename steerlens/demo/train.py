"""Train Steerling, the bundled model, from a seed: `python -m steerlens.demo.train --out FOLDER`.

The corpus is the endless stream of `steerlens.demo.world`; the model is a Llama of about a million
parameters; hidden matrices are trained by Muon, embedding and norms by AdamW. The same command
with another `--seed` makes another model on the same tokenizer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from steerlens.demo.muon import Muon
from steerlens.demo.recipe import Recipe, build_model
from steerlens.demo.resuming import go_on, keep, tensors
from steerlens.demo.tokens import PAD, document_batches, train_tokenizer
from steerlens.errors import BadInputError
from steerlens.host import no_bar

Stream = Callable[[int, str], Iterator[str]]


def world_stream(seed: int, split: str) -> Iterator[str]:
    """Return the world's documents of one split, an endless stream.

    >>> isinstance(next(world_stream(0, "fit")), str)
    True
    """
    from steerlens.demo.world import SPLITS, documents

    return iter(documents(seed, next(known for known in SPLITS if known == split)))


def repeats_a_name(text: str) -> bool:
    """Return whether a name inside a sentence comes twice.

    >>> repeats_a_name("I ask Max. Dear Max, come."), repeats_a_name("I ask Max. Come.")
    (True, False)
    """
    names = re.findall(r"(?<=[a-z,0-9] )[A-Z][a-z]+", text)
    return len(set(names)) < len(names)


def batches(
    recipe: Recipe, stream: Stream, tokenizer: PreTrainedTokenizerBase
) -> Iterator[torch.Tensor]:
    """Yield `row pos` batches of training documents without end.

    The first ones hold short documents that repeat a name: there, heads that copy formed within
    0.4M tokens; in the whole mixture they had not after 3.6M.
    """
    texts = stream(recipe.seed, "fit")
    easy = (text for text in texts if len(text) < recipe.short_length and repeats_a_name(text))
    first = document_batches(easy, tokenizer, recipe.batch, recipe.seed)
    yield from itertools.islice(first, recipe.copying_steps)
    yield from document_batches(texts, tokenizer, recipe.batch, recipe.seed)


def loss_of(model: Callable[..., Any], rows: torch.Tensor) -> torch.Tensor:
    """Return the mean next-token loss in nats over a `row pos` batch, pads left out."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    targets = rows[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, ignore_index=PAD)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, held: list[torch.Tensor]) -> float:
    """Return the loss in nats a token over held-out `row pos` batches."""
    counts = [int((rows[:, 1:] != PAD).sum()) for rows in held]
    losses = [float(loss_of(model, rows)) for rows in held]
    return sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)


def optimisers(model: LlamaForCausalLM, recipe: Recipe) -> tuple[Muon, torch.optim.AdamW]:
    """Return Muon for the hidden matrices and AdamW for the embedding and the norms."""
    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
    adamw = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0)
    return Muon(hidden, recipe.weight_decay), adamw


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    record: dict[str, Any],
    folder: Path,
    beside: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write a Hugging Face folder with bfloat16 weights and the record: all of it, or nothing.

    `beside` writes further files into it.
    """
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    rounded = LlamaForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.bfloat16()
    with no_bar():
        rounded.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh, save_jinja_files=False)
    (fresh / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


@dataclass
class Run:
    """A run under way: what it trains, and its record so far."""

    recipe: Recipe
    model: LlamaForCausalLM
    held_out: list[torch.Tensor]
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def count(self, loss: float, minutes: float) -> None:
        """Note one step; add a point to the curve when due, begin the fall when time presses."""
        self.step += 1
        self.losses.append(loss)
        recipe, elapsed = self.recipe, time.monotonic() - self.began
        every = max(1, recipe.steps // recipe.curve_points)
        if self.step % every == 0 or self.step == recipe.steps:
            self.curve.append(
                {
                    "tokens": self.step * recipe.batch,
                    "loss": round(sum(self.losses) / len(self.losses), 4),
                    "held_out": round(held_out_loss(self.model, self.held_out), 4),
                    "seconds": round(elapsed, 1),
                }
            )
            self.losses = []
        plateau = recipe.warmup < self.step < (1 - recipe.decay) * recipe.steps
        if plateau and elapsed / (1 - recipe.decay) > 60 * minutes:
            self.recipe = recipe.ending_now(self.step)

    def state(self) -> dict[str, Any]:
        """Return what goes on with the run where it was cut off, as JSON."""
        recipe, elapsed = asdict(self.recipe), time.monotonic() - self.began
        return {
            "recipe": recipe,
            "step": self.step,
            "curve": self.curve,
            "losses": self.losses,
            "elapsed": elapsed,
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Take up a run's state. Raises BadInputError on one of another seed."""
        recipe = Recipe(**state["recipe"])
        if recipe.seed != self.recipe.seed:
            raise BadInputError(
                f"The run in this folder has seed {recipe.seed}, not {self.recipe.seed}. Give "
                "another folder."
            )
        self.recipe, self.step, self.curve = recipe, state["step"], state["curve"]
        self.losses, self.began = state["losses"], time.monotonic() - state["elapsed"]

    def record(self, finished: bool) -> dict[str, Any]:
        """Return what is saved beside the weights: recipe, size, speed, curve."""
        last = self.curve[-1] if self.curve else {"tokens": 0, "seconds": 1.0}
        return {
            "recipe": asdict(self.recipe),
            "finished": finished,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "seconds": last["seconds"],
            "tokens_per_second": round(last["tokens"] / max(last["seconds"], 0.1)),
            "torch": torch.__version__,
            "curve": self.curve,
        }


def train(
    recipe: Recipe,
    folder: Path,
    *,
    stream: Stream = world_stream,
    device: str = "cpu",
    quiet: bool = False,
    minutes: float = 90.0,
    checkpoint_seconds: float = 300.0,
) -> dict[str, Any]:
    """Train a model by `recipe` into `folder` and return the training record.

    The weights depend on recipe, world and device alone, unless `minutes` run out: then the
    learning rate falls earlier, and the record holds the shorter recipe, which alone gives the
    same weights. A usable checkpoint is left in `folder` every `checkpoint_seconds`, and a run that
    was cut off goes on from it, to the same weights. Costs, for 21M tokens, an hour to an hour and
    a half on one CPU core.

    >>> train(Recipe(tokens=4096), Path("steerling"))["finished"]  # doctest: +SKIP
    True
    """
    texts = itertools.islice(stream(0, "fit"), recipe.tokenizer_documents)
    tokenizer = train_tokenizer(texts, recipe.vocabulary)
    model = build_model(recipe, len(tokenizer))
    torch.nn.Module.to(model, device)
    unseen = itertools.islice(stream(0, "validation"), recipe.held_out_documents)
    held = [rows.to(device) for rows in document_batches(unseen, tokenizer, recipe.batch)]
    muon, adamw = optimisers(model, recipe)
    run, saved = Run(recipe, model, held), time.monotonic()
    begun = go_on(folder, model, muon, adamw)
    if begun is not None:
        run.go_on(begun)
    data = itertools.islice(batches(recipe, stream, tokenizer), run.step, None)

    def state(fresh: Path) -> None:
        keep(fresh, tensors(model, muon, adamw), run.state())

    with tqdm(total=recipe.tokens, unit="tok", unit_scale=True, disable=quiet) as bar:
        bar.update(recipe.batch * run.step)
        while (step := run.step) < run.recipe.steps:
            loss = loss_of(model, next(data).to(device))
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            muon.step(recipe.learning_rate * run.recipe.rate(step))
            adamw.param_groups[0]["lr"] = recipe.embedding_rate * run.recipe.rate(step)
            adamw.step()
            adamw.zero_grad()
            bar.update(recipe.batch)
            run.count(float(loss.detach()), minutes)
            bar.set_postfix(run.curve[-1] if run.curve else {})
            bar.total = run.recipe.tokens
            if time.monotonic() - saved > checkpoint_seconds:
                save(model, tokenizer, run.record(finished=False), folder, state)
                saved = time.monotonic()
    save(model, tokenizer, run.record(finished=True), folder)
    return run.record(finished=True)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, train, and print the record as JSON."""
    parser = argparse.ArgumentParser(prog="python -m steerlens.demo.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokens", type=int, default=Recipe.tokens)
    parser.add_argument("--minutes", type=float, default=90.0, help="end earlier if need be")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1, help="on busy cores one beats two")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = Recipe(seed=options.seed, tokens=options.tokens)
    record = train(recipe, options.out, device=options.device, minutes=options.minutes)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
