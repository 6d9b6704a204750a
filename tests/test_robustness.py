"""What may go wrong around a steering: threads, kills, overflow, the ends of the context."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EACH_HOST
from models import D_MODEL, N_CTX, build, forward, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens import effects, evaluation
from steerlens.errors import BadInputError
from steerlens.evaluation import Choice, MultipleChoice
from steerlens.evaluation.choices import score
from steerlens.methods import Sets, lineas, sadi

ROWS = random_rows([5, 7, 4, 6, 8, 5] * 2, seed=3)
CONTRAST = sl.Contrast(ROWS[:6], ROWS[6:])
TOKENS = ROWS[4][None]
ANSWERS = (" happy", " sad")
GREEDY: dict[str, Any] = dict(do_sample=False, stop_at_eos=False, verbose=False)
QUIET: dict[str, Any] = dict(progress=False)


def direction(seed: int = 0) -> sl.Direction:
    generator = torch.Generator().manual_seed(seed)
    return sl.Direction("blocks.1.hook_resid_post", torch.randn(D_MODEL, generator=generator))


def hooks(model: Any) -> int:
    return sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in set(model.hook_dict.values()))


# Many at once, and many in turn


@pytest.mark.host
@EACH_HOST
def test_two_threads_with_a_model_each(host: str) -> None:
    """What either generates is what it generates alone."""
    pairs = [
        (build("gpt2", host), sl.add(direction(0), 3)),
        (build("llama", host), sl.ablate(direction(1))),
    ]

    def run(model: Any, steering: sl.Steering) -> Tensor:
        with torch.no_grad(), steering.on(model):
            made = [model.generate(TOKENS, max_new_tokens=4, **GREEDY) for _ in range(3)]
            return torch.cat([*made, forward(model, TOKENS).argmax(-1)], dim=1)

    alone = [run(*pair) for pair in pairs]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            together = [each.result() for each in [pool.submit(run, *pair) for pair in pairs]]
            assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert all(hooks(model) == 0 for model, _ in pairs)


@pytest.mark.host
@EACH_HOST
def test_a_hundred_steerings_keep_no_tensor(host: str) -> None:
    model = tiny("llama", host)

    def steer(seed: int) -> None:
        with torch.no_grad(), sl.add(direction(seed), positions="predicting").trace(model):
            forward(model, TOKENS)

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(each, Tensor) for each in gc.get_objects())

    steer(0)
    before = tensors()
    for seed in range(100):
        steer(seed)
    assert tensors() == before


# Interrupted


FITS: dict[str, Callable[[Any], Any]] = {
    "find_directions": lambda model: sl.find_directions(model, CONTRAST, **QUIET),
    "lineas": lambda model: lineas.fit(
        model,
        Sets(*([row.tolist() for row in ROWS[i : i + 4]] for i in (0, 4, 8))),
        lineas.Config(sites="blocks.1.hook_resid_post", steps=2),
        **QUIET,
    ),
    "attribute": lambda model: sl.attribute(
        model, CONTRAST, direction(), metric=lambda logits: logits[:, 5], **QUIET
    ),
    "effect": lambda model: sl.effect(model, sl.add(direction()), ["good w1"], ANSWERS),
    "calibrate": lambda model: sl.calibrate(
        sl.add(direction()), model, ["good w1"], kl=0.1, max_new_tokens=3
    ),
    "sadi": lambda model: sadi.fit(model, CONTRAST, sadi.Config(k=2), **QUIET),
}


@pytest.mark.host
@EACH_HOST
@pytest.mark.parametrize("fit", FITS)
def test_an_interrupt_in_a_fit_leaves_nothing(host: str, fit: str) -> None:
    """At the second time that a block runs, in whatever pass that is."""
    model = build("llama", host)
    with torch.no_grad():
        plain = forward(model, TOKENS)
    state = hooks(model), [each.requires_grad for each in model.parameters()]
    left = [2]

    def interrupt(module: Any, args: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    handle = model.blocks[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        FITS[fit](model)
        FITS[fit](model)
    handle.remove()
    assert (hooks(model), [each.requires_grad for each in model.parameters()]) == state
    assert "generate" not in vars(model)
    with torch.no_grad():
        assert torch.equal(forward(model, TOKENS), plain)


SAVING = """
import sys, torch
import steerlens as sl
value = [sl.Direction("blocks.1.hook_resid_post", torch.full((50_000,), float(i))) for i in (1, 2)]
print("ready", flush=True)
while True:
    for each in value:
        sl.save(each, sys.argv[1])
"""


def test_a_kill_while_saving_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "direction.safetensors"
    for number in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.05 + 0.013 * number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        found = sl.load(path)
        assert isinstance(found, sl.Direction)
        assert found.vector.unique().tolist() in ([1.0], [2.0])


# Not a number


def broken(host: str) -> Any:
    model = build("llama", host)
    with torch.no_grad():
        model.blocks[1].attn.W_O[0, 0, 0] = torch.nan
    return model


@pytest.mark.host
@EACH_HOST
def test_a_model_of_nan_is_told(host: str) -> None:
    model, steering = broken(host), sl.add(direction())
    told = "unsteered model's logits are NaN"
    with pytest.raises(BadInputError, match=told):
        sl.effect(model, steering, ["good w1"], ANSWERS)
    with pytest.raises(BadInputError, match=told):
        effects.mediation(model, steering, ["good w1"], ANSWERS)
    with pytest.raises(BadInputError, match=told):
        sl.calibrate(steering, model, ["good w1"], kl=0.1, max_new_tokens=3)
    assert evaluation.log_probability(model, [("good w1", ANSWERS[0])]).isnan().all()
    task = MultipleChoice("words", [Choice("good w1", [" good", " bad"], [0])])
    assert task.scores(model, steering, [0.0, 1.0]).values.isnan().all()


def test_nan_is_no_tie() -> None:
    item = Choice("", ["a", "b"], [1])
    tied, lost = torch.zeros(1, 2), torch.tensor([[0.0, torch.nan]])
    assert score(tied, item, "accuracy").tolist() == [0.5]
    assert score(lost, item, "accuracy").isnan().all()


@pytest.mark.host
@EACH_HOST
def test_float16_that_overflows_is_told(host: str) -> None:
    """SADI's strengths write more than float16 holds; in bfloat16 the same is finite."""
    for dtype, overflows in ((torch.float16, True), (torch.bfloat16, False)):
        model = build("llama", host, dtype)
        config = sadi.Config(site="resid_post", k=8, strength=1e5)
        steering = sadi.fit(model, CONTRAST, config, **QUIET).where("every_token")
        with torch.no_grad(), warnings.catch_warnings(record=True) as told, steering.on(model):
            warnings.simplefilter("always")
            logits = forward(model, TOKENS)
        said = [each for each in told if "overflowed float16" in str(each.message)]
        assert bool(said) == overflows
        assert bool(logits.isnan().any()) == overflows


# The ends of the context


@pytest.mark.host
@EACH_HOST
def test_texts_at_the_context_limit(host: str) -> None:
    model = tiny("gpt2", host)
    steering = sl.add(direction(), 2, positions="predicting")
    whole, most = random_rows([N_CTX])[0][None], random_rows([N_CTX - 3])[0][None]
    with torch.no_grad(), steering.on(model):
        assert forward(model, whole).isfinite().all()
        made = model.generate(most, max_new_tokens=3, **GREEDY)
    with torch.no_grad(), steering.on(model, prompt_lengths=[N_CTX - 3]):
        assert forward(model, made)[0, -4:-1].argmax(-1).tolist() == made[0, -3:].tolist()
    with pytest.raises(BadInputError, match=r"8 new tokens after a prompt of 61 do not fit"):
        sl.compare(model, steering, [" ".join(["good"] * 60)], max_new_tokens=8)
    before = hooks(model)
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad(), steering.on(model):
        model.generate(most, max_new_tokens=9, **GREEDY)
    assert hooks(model) == before


@pytest.mark.host
@EACH_HOST
def test_one_row_one_token_no_token(host: str) -> None:
    model = tiny("llama", host)
    steering, one = sl.add(direction(), 3, positions="predicting"), TOKENS[:, :1]
    with torch.no_grad():
        with steering.on(model):
            made = model.generate(one, max_new_tokens=2, **GREEDY)
        with steering.on(model, prompt_lengths=[1]):
            assert forward(model, made)[0, :-1].argmax(-1).tolist() == made[0, 1:].tolist()
    before = hooks(model)
    with pytest.raises(ValueError, match="non-empty"), steering.on(model):  # the host's own
        model.generate(one, max_new_tokens=0, **GREEDY)
    assert hooks(model) == before
    assert "generate" not in vars(model)
    with pytest.raises(BadInputError, match="max_new_tokens"):
        sl.compare(model, steering, ["good"], max_new_tokens=0)
