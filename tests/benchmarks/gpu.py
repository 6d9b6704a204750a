"""Everything that is asked of a GPU, in one call: `PYTHONPATH=tests python -m benchmarks.gpu`.

A Llama of 8B parameters' shape in bfloat16, randomly initialised, on a TransformerBridge:
collecting at all layers, decoding with a gate at every layer, candidates as rows of a batch, memory
beside the bare model, and whether a hook waits for the device. It prints a table and keeps it for
docs/performance.md; `--tiny` runs all of it at the smallest size, on a CPU where there is no GPU,
and keeps nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

import steerlens as sl
from benchmarks import shapes
from benchmarks.candidates import CANDIDATES, ITEMS, composed, sample_items
from benchmarks.measuring import Figure, Goal, interleaved, ratio
from benchmarks.results import Result, Row, machine, save, table, write_page
from benchmarks.shapes import Shape
from benchmarks.stepping import gated, generate, wrapped

FULL = Shape("llama", 32, 4096, 32, 8, 14336, 128256, 8192)
SMALL = shapes.shape("llama", tiny=True)


def rows(tiny: bool) -> Iterator[Row]:
    """Yield every row, the goals that say how little a GPU may be slowed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = SMALL if tiny else FULL
    model = built(shape, device)
    size = f"{shape.n_layers} layers, width {shape.d_model}, bfloat16"
    yield from _collecting(model, shape, device, size, tiny)
    yield from _decoding(model, shape, device, tiny)
    yield from _candidates(model, tiny)


def built(shape: Shape, device: str) -> Any:
    """Return a random bridge in bfloat16, drawn on its device: no weight is written to disk."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    config = shapes.config(shape)
    torch.manual_seed(0)
    with torch.device(device):
        bare = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(shapes.folder(SMALL))
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(
            folder, hf_model=bare, tokenizer=tokenizer, device=device, dtype=torch.bfloat16
        )


def waited(run: Callable[[], object], device: str) -> Callable[[], object]:
    """Return a run that ends when the device has done it."""

    def whole() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return whole


@torch.no_grad()
def _collecting(model: Any, shape: Shape, device: str, size: str, tiny: bool) -> Iterator[Row]:
    count, length, rounds = (4, 8, 2) if tiny else (256, 128, 7)
    tokens = shapes.sample(shape, count, length).clamp_max(SMALL.d_vocab - 1)
    room = 4096 if tiny else 16384
    batches = tokens.split(room // length)

    def bare() -> None:
        for batch in batches:
            model(batch.to(device))

    def ours() -> None:
        sl.collect(
            model, tokens.tolist(), "resid_post", max_examples=0, batch_tokens=room, progress=False
        )

    forward, forward_peak = _peak(bare, device)
    collected, collected_peak = _peak(ours, device)
    seconds = interleaved({"bare": forward, "ours": collected}, rounds)
    speed = ratio(seconds["bare"], seconds["ours"])
    note = f"{size}; {tokens.numel()} tokens"
    yield Row("tokens a second, collecting / bare forward", speed, Goal(0.95, at_least=True),
              note=note)  # fmt: skip
    if device == "cuda":
        more = (collected_peak() - forward_peak()) / 1e9
        yield Row("peak memory above the bare forward pass's", Figure(more), Goal(1.0), "GB")


def _peak(
    run: Callable[[], object], device: str
) -> tuple[Callable[[], object], Callable[[], float]]:
    """A run that waits for its end, and what it took at its peak the last time."""
    last = [0.0]

    def whole() -> None:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        waited(run, device)()
        if device == "cuda":
            last[0] = float(torch.cuda.max_memory_allocated())

    return whole, lambda: last[0]


@torch.no_grad()
def _decoding(model: Any, shape: Shape, device: str, tiny: bool) -> Iterator[Row]:
    steering = gated(model)
    new, rounds = (6, 2) if tiny else (64, 7)
    for batch in (1, 4) if tiny else (1, 64):
        tokens = shapes.sample(shape, batch, 16).clamp_max(SMALL.d_vocab - 1).to(device)
        bare = waited(partial(generate, model, tokens, new), device)

        def ours(tokens: torch.Tensor = tokens) -> None:
            with steering.on(model):
                waited(partial(generate, model, tokens, new), device)()

        seconds = interleaved({"ours": ours, "bare": bare}, rounds)
        what = f"generate with a gate at every layer / without, batch {batch}"
        yield Row(what, ratio(seconds["ours"], seconds["bare"]), Goal(1.05))
    waits = synchronisations(model, tokens, steering)
    yield Row("times that a hook waits for the device, a generation", Figure(waits), Goal(0.0))


def synchronisations(model: Any, tokens: torch.Tensor, steering: sl.Steering) -> int:
    """Return how often a callback or the clock makes the host wait for a CUDA device."""
    count = [0]

    def watched(function: Callable[..., Any], *, opens: bool) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                _debug("warn")
                try:
                    return function(*args, **options)
                finally:
                    _debug("default")
                    count[0] += sum("synchroniz" in str(each.message) for each in seen)

        return run

    with wrapped(watched), steering.on(model):
        generate(model, tokens, 2)  # constants move to the device in the first pass
        count[0] = 0
        generate(model, tokens, 6)
    return count[0]


def _debug(mode: str) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode(mode)


def _candidates(model: Any, tiny: bool) -> Iterator[Row]:
    items = sample_items(SMALL.d_vocab, 2 if tiny else ITEMS)
    together, alone = composed(model, items, 2 if tiny else CANDIDATES)
    seconds = interleaved({"rows": together, "alone": alone}, 2 if tiny else 5)
    what = "50 candidates on 12 items: as rows / one by one"
    yield Row(what, ratio(seconds["rows"], seconds["alone"]), Goal(0.15))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="smallest size; nothing is kept")
    tiny = parser.parse_args().tiny
    if not (tiny or torch.cuda.is_available()):
        parser.error("There is no GPU here. --tiny runs everything at the smallest size.")
    found = tuple(rows(tiny))
    print(table(found))
    if not tiny:
        save(Result("gpu", found, machine()))
        write_page()


if __name__ == "__main__":
    main()
