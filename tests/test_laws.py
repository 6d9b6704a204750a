"""The laws of DESIGN section 5, on random steerings of random texts on tiny random models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import models
import pytest
import torch
from cases import EACH, Case, cases, examples
from hypothesis import strategies as st
from models import cached_forward, forward, hf, hosts, padded, random_rows, tiny
from torch import Tensor

import steerlens as sl
from steerlens.transforms import KeepNorm

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:Positions")]
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def gap(logits: Tensor, mask: Tensor, wanted: list[Tensor]) -> float:
    """The largest difference at real tokens."""
    rows = zip(logits, mask.bool(), wanted, strict=True)
    return max((row[real] - want).abs().max().item() for row, real, want in rows)


def close(one: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


def with_leaves(case: Case, **changes: Any) -> Case:
    return replace(case, leaves=tuple(replace(leaf, **changes) for leaf in case.leaves))


@EACH
def test_the_equation_by_hand(architecture: str, host: str) -> None:
    """Add is h + c * v, ablate the projection, where an oracle picks: masks, heads, + and >>."""
    model = tiny(architecture, host)

    def law(case: Case) -> None:
        close(case.alone(model), case.by_hand(model))

    examples(law, cases(architecture, host), salt=f"hand {architecture} {host}")


@EACH
def test_law_1_shut_is_bit_identical(architecture: str, host: str) -> None:
    model = tiny(architecture, host)

    def law(case: Case, how: str) -> None:
        if how == "when":
            shut = case.steering.when(0.0)
        else:
            rows = (0.0,) * len(case.rows)
            changes = {"coeff": {"coeff": (0.0,)}, "gate": {"gate": 0.0}, "rows": {"coeff": rows}}
            shut = with_leaves(case, **changes[how]).steering
        tokens, mask = case.batch
        plain = forward(model, tokens, mask)
        with shut.on(model, prompt_lengths=case.prompt_lengths):
            steered = forward(model, tokens, mask)
        assert torch.equal(steered, plain)

    how = st.sampled_from(["coeff", "gate", "rows", "when"])
    examples(law, cases(architecture, host), how, salt=f"shut {architecture} {host}")


@EACH
def test_law_1_shut_leaves_infinity_alone(architecture: str, host: str) -> None:
    """0 * inf is NaN: where nothing is written, h is returned and not multiplied."""
    model = tiny(architecture, host)
    tokens = random_rows([6])[0][None]
    huge = sl.Direction("blocks.1.hook_resid_post", torch.full((models.D_MODEL,), 3e38))
    plain = forward(model, tokens)
    for shut in (
        sl.add(huge, coeff=0.0),
        sl.add(huge, coeff=1e30).when(0.0),
        sl.ablate(huge) * 0.0,
        sl.add(huge, coeff=1e30, positions="generated"),
    ):
        with shut.on(model):
            assert torch.equal(forward(model, tokens), plain)


@EACH
def test_law_1_open_gate_is_no_gate(architecture: str, host: str) -> None:
    model = tiny(architecture, host)

    def law(case: Case) -> None:
        tokens, mask = case.batch
        logits = []
        for steering in (case.steering, case.steering.when(1.0), 1 * case.steering):
            with steering.on(model, prompt_lengths=case.prompt_lengths):
                logits.append(forward(model, tokens, mask))
        assert torch.equal(logits[0], logits[1])
        assert torch.equal(logits[0], logits[2])

    examples(law, cases(architecture, host), salt=f"open {architecture} {host}", part=0.5)


@EACH
def test_law_2_cached_and_padded_equals_rows_alone(architecture: str, host: str) -> None:
    """Also law 11: with a coefficient a row, row i equals a run of row i alone."""
    model = tiny(architecture, host)

    def law(case: Case) -> None:
        _, mask = case.batch
        alone = case.alone(model)
        for cached in (False, True):
            assert gap(case.together(model, cached), mask, alone) < TOLERANCE, cached

    examples(law, cases(architecture, host), salt=f"padded {architecture} {host}")


@EACH
def test_law_2_pads_are_never_written(architecture: str, host: str) -> None:
    model = tiny(architecture, host)

    def law(case: Case, cached: bool) -> None:
        trace = case.traced(model, cached)
        _, mask = case.batch
        [text] = trace.texts
        assert torch.equal(text.real, mask.bool())
        assert text.prompt_lengths.tolist() == list(case.prompt_lengths)
        assert (text.strength[:, ~mask.bool()] == 0).all()
        assert (text.change_norm[:, ~mask.bool()] == 0).all()
        for number, leaf in enumerate(case.leaves):
            if isinstance(leaf.gate, str) or leaf.stream:
                continue
            for i in range(len(case.rows)):
                row = case.row(i)
                wanted = row.picked(leaf)[0] * row.leaves[number].coeff[0] * leaf.gate
                assert text.strength[number, i][mask[i].bool()].tolist() == wanted.tolist()

    examples(law, cases(architecture, host), st.booleans(), salt=f"pads {architecture} {host}")


@EACH
@pytest.mark.parametrize("side", ["left", "right"])
def test_law_2_activations_at_pads_keep_their_bits(architecture: str, host: str, side: str) -> None:
    model = tiny(architecture, host)
    tokens, mask = padded(random_rows([9, 4, 2]), side)
    direction = sl.Direction("blocks.1.hook_resid_pre", torch.ones(models.D_MODEL))
    kept: list[Tensor] = []

    def keep(tensor: Tensor, hook: Any) -> None:
        kept.append(tensor.clone())

    after_ours = [(direction.hook_name, keep)]
    model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=after_ours)
    for steering in (
        sl.add(direction, 4),
        sl.ablate(direction),
        sl.add(direction, 4, positions=-1),
    ):
        with steering.on(model):
            model.run_with_hooks(tokens, attention_mask=mask, fwd_hooks=after_ours)
        assert torch.equal(kept[0][mask == 0], kept[-1][mask == 0])
        assert not torch.equal(kept[0][mask == 1], kept[-1][mask == 1])


@EACH
def test_law_2_pads_are_never_read(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    names = ["resid_pre", "attn_out", "mlp_out", "z", "mlp_post"]

    def law(case: Case, positions: str) -> None:
        items = case.tensors
        reading = dict(hook_names=names, positions=positions, progress=False)
        together = sl.collect(model, items, **reading)
        for i, item in enumerate(items):
            alone = sl.collect(model, [item], **reading)
            for name in together:
                torch.testing.assert_close(
                    together.examples[name][i], alone.examples[name][0], atol=1e-5, rtol=1e-5
                )

    where = st.sampled_from(["everywhere", "last_prompt_token", "prompt"])
    examples(law, cases(architecture, host), where, salt=f"read {architecture} {host}", part=0.5)


@EACH
def test_law_3_ablating(architecture: str, host: str) -> None:
    """Twice is once; after adding, no component is left, of each head at z."""
    model = tiny(architecture, host)

    def law(case: Case) -> None:
        leaf = replace(case.leaves[0], kind="ablate", coeff=(1.0,), gate=1.0, stream=False)
        direction = leaf.direction(architecture)
        once = sl.ablate(direction, positions=leaf.selector())
        added = sl.add(direction, 3, positions=leaf.selector())
        left: list[Tensor] = []

        def read(x: Tensor, hook: Any) -> None:
            left.append((x.float() * direction.vector).sum(-1))

        tokens = case.tensors[0]
        row = case.row(0)
        logits = []
        for steering in (once, once >> once, added >> once, direction_doubled(once, direction)):
            with steering.on(model, prompt_lengths=row.prompt_lengths):
                hooks = [(direction.hook_name, read)]
                logits.append(model.run_with_hooks(tokens[None], fwd_hooks=hooks)[0])
        here = row.picked(leaf)[0]
        for component in left:
            assert component[0][here].abs().max() < 1e-4 if here.any() else True
        close([logits[0]] * 3, logits[1:])

    examples(law, cases(architecture, host, 1), salt=f"ablate {architecture} {host}", part=0.5)


def direction_doubled(once: sl.Steering, direction: sl.Direction) -> sl.Steering:
    """Trap 10: the length of a direction plays no part in ablation."""
    return sl.ablate(-2 * direction, positions=once.interventions[0].positions)


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_law_4_dtype_is_kept(architecture: str, host: str, dtype: torch.dtype) -> None:
    model = tiny(architecture, host, dtype)
    seen: set[torch.dtype] = set()

    def look(x: Tensor, hook: Any) -> None:
        seen.add(x.dtype)

    names = [f"blocks.{layer}.hook_{at}" for layer in range(3) for at in ("attn_out", "resid_post")]

    def law(case: Case) -> None:
        tokens, mask = case.batch
        with case.steering.on(model, prompt_lengths=case.prompt_lengths):
            logits = model.run_with_hooks(
                tokens, attention_mask=mask, fwd_hooks=[(name, look) for name in names]
            )
        assert logits.dtype == dtype
        assert seen == {dtype}

    examples(law, cases(architecture, host), salt=f"dtype {architecture} {host}", part=0.5)


@EACH
def test_law_4_bfloat16_is_as_close_as_the_unsteered_model(architecture: str, host: str) -> None:
    """The change is computed in float32 and cast once."""
    wide, narrow = tiny(architecture, host), tiny(architecture, host, torch.bfloat16)

    def law(case: Case) -> None:
        if any(leaf.gate == "hysteresis" for leaf in case.leaves):
            return  # DESIGN section 5: in bfloat16 the law is on continuous parts
        tokens, mask = case.batch
        real = mask.bool()
        own = forward(narrow, tokens, mask).float() - forward(wide, tokens, mask)
        steered = case.together(narrow, True).float() - case.together(wide, True)
        assert steered[real].abs().mean() < 3 * own[real].abs().mean() + 0.02

    examples(law, cases(architecture, host), salt=f"bfloat16 {architecture} {host}", part=0.5)


@pytest.mark.parametrize("host", hosts())
def test_law_4_a_small_vector_survives_bfloat16(host: str) -> None:
    """T(h) - h in bfloat16 loses a fifth of a small vector; one cast of h + change does not."""
    model = tiny("llama", host, torch.bfloat16)
    direction = sl.Direction("blocks.1.hook_resid_post", torch.full((models.D_MODEL,), 0.7001))
    kept: list[Tensor] = []
    tokens = random_rows([8])[0][None]
    hooks = [(direction.hook_name, lambda x, hook: kept.append(x.clone()))]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    with sl.add(direction, 1 / 3).on(model):
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    wanted = kept[0] + (direction.vector / 3).bfloat16()
    assert torch.equal(kept[1][:, 1:], wanted[:, 1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("host", hosts())
def test_law_4_a_users_transform_is_moved_once_beside_what_it_reads(
    host: str, dtype: torch.dtype
) -> None:
    """However deep in wrappers, and not at every step."""
    seen: list[tuple[Any, torch.dtype, torch.dtype]] = []

    @dataclass(frozen=True)
    class Own:
        along: sl.Direction
        hook_name: ClassVar[str] = "blocks.1.hook_resid_post"
        unit_shape: ClassVar[None] = None
        scales: ClassVar[str] = "amplitude"

        def change(self, x: Tensor, strength: Tensor, window: Any = None) -> Tensor:
            seen.append((self, x.dtype, self.along.vector.dtype))
            return torch.sin(strength) * self.along.vector

    own = Own(sl.Direction(Own.hook_name, torch.ones(models.D_MODEL)))
    with sl.steer(KeepNorm(KeepNorm(own))).on(tiny("llama", host, dtype)) as model:
        tokens = random_rows([8])[0][None]
        model.generate(tokens, max_new_tokens=4, do_sample=False, stop_at_eos=False, verbose=False)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert len(seen) > 3
    assert {(id(each), *dtypes) for each, *dtypes in seen} == {(id(seen[0][0]), wide, wide)}
    assert own.along.vector.dtype == torch.float32


@EACH
def test_law_8_shards_and_batches(architecture: str, host: str) -> None:
    model = tiny(architecture, host)
    names = ["resid_post", "z"]

    def law(case: Case, more: Case, batch_tokens: int) -> None:
        items = [*case.tensors, *more.tensors]
        whole = sl.collect(model, items, names, progress=False)
        small = sl.collect(model, items, names, progress=False, batch_tokens=batch_tokens)
        cut = len(case.rows)
        shards = [
            sl.collect(model, part, names, progress=False) for part in (items[:cut], items[cut:])
        ]
        merged = shards[0].merged(shards[1])
        assert merged.rows == whole.rows
        for other in (small, merged):
            for name in whole:
                pairs = ((whole[name], other[name]), (whole.norms[name], other.norms[name]))
                for a, b in pairs:
                    assert a.count == b.count
                    torch.testing.assert_close(a.mean, b.mean, atol=1e-4, rtol=1e-4)
                    torch.testing.assert_close(a.squares, b.squares, atol=1e-4, rtol=1e-4)
                torch.testing.assert_close(
                    whole.examples[name], other.examples[name], atol=TOLERANCE, rtol=0
                )

    drawn = cases(architecture, host), cases(architecture, host), st.integers(1, 40)
    examples(law, *drawn, salt=f"shards {architecture} {host}", part=0.5)


@pytest.mark.skipif(len(hosts()) < 2, reason="TransformerLens 4 has one host only")
@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_law_9_hooked_transformer_is_the_bridge(architecture: str) -> None:
    both = [tiny(architecture, host) for host in hosts()]

    def law(case: Case) -> None:
        close(case.alone(both[0]), case.alone(both[1]))
        _, mask = case.batch
        one, other = (case.together(model, True)[mask.bool()] for model in both)
        torch.testing.assert_close(one, other, atol=TOLERANCE, rtol=0)

    examples(law, cases(architecture, "bridge"), salt=f"hosts {architecture}")


@EACH
def test_law_9_a_plain_torch_hook_on_hugging_faces_model(architecture: str, host: str) -> None:
    model, source = tiny(architecture, host), hf(architecture)
    decoder = getattr(
        source, {"gpt2": "transformer", "pythia": "gpt_neox"}.get(architecture, "model")
    )
    layers = decoder.h if architecture == "gpt2" else decoder.layers
    tokens = random_rows([12])[0][None]
    for layer in range(models.N_LAYERS):
        vector = torch.randn(models.D_MODEL, generator=torch.Generator().manual_seed(layer))

        def write(module: Any, args: Any, output: Any, vector: Tensor = vector) -> Any:
            h = output[0] if isinstance(output, tuple) else output
            h = torch.cat([h[:, :1], h[:, 1:] + 2 * vector], 1)
            return (h, *output[1:]) if isinstance(output, tuple) else h

        handle = layers[layer].register_forward_hook(write)
        wanted = source(tokens).logits
        handle.remove()
        with sl.add(sl.Direction(f"blocks.{layer}.hook_resid_post", vector), 2).on(model):
            torch.testing.assert_close(forward(model, tokens), wanted, atol=TOLERANCE, rtol=0)


@EACH
@pytest.mark.parametrize("method", ["mean_difference", "pca", "probe"])
def test_law_10_the_positive_side_scores_higher(architecture: str, host: str, method: str) -> None:
    model = tiny(architecture, host)
    rows = random_rows([6] * 12, seed=3)
    sides = rows[:6], rows[6:]
    finding = dict(method=method, hook_names=["resid_post", "z"], quality=False, progress=False)
    found = sl.find_directions(model, sl.Contrast(*sides), **finding)
    swapped = sl.find_directions(model, sl.Contrast(*sides[::-1]), **finding)
    read = [sl.collect(model, side, ["resid_post", "z"], progress=False) for side in sides]
    for name, direction in found.items():
        scores = [(x[name].mean.float() * direction.vector).sum() for x in read]
        assert scores[0] > scores[1]
        assert direction.cosine(swapped[name]) == pytest.approx(-1, abs=1e-4)
        along = (read[0][name].mean - read[1][name].mean).float() * direction.unit().vector
        assert direction.norm == pytest.approx(along.sum().item(), rel=1e-3)


@EACH
def test_law_12_algebra(architecture: str, host: str) -> None:
    """+ commutes and associates, >> associates, scaling distributes over both."""
    model = tiny(architecture, host)

    def law(case: Case, which: int) -> None:
        a, b, c = (leaf.steering(architecture) for leaf in case.leaves)
        half = 0.5
        equal = [
            (a + b, b + a),
            ((a + b) + c, a + (b + c)),
            ((a >> b) >> c, a >> (b >> c)),
            (half * (a + b), half * a + half * b),
            ((a >> b) * half, half * a >> half * b),
            (a.where("prompt") + b.where("prompt"), (a + b).where("prompt")),
        ]
        tokens, mask = case.batch
        logits = []
        for steering in equal[which]:
            with steering.on(model, prompt_lengths=case.prompt_lengths):
                logits.append(forward(model, tokens, mask)[mask.bool()])
        torch.testing.assert_close(*logits, atol=TOLERANCE, rtol=0)

    which = st.integers(0, 5)
    examples(
        law, cases(architecture, host, 3), which, salt=f"algebra {architecture} {host}", part=0.5
    )


@pytest.mark.parametrize("host", hosts())
def test_order_matters_only_in_turn(host: str) -> None:
    model = tiny("gpt2", host)
    direction = sl.Direction("blocks.1.hook_resid_post", torch.arange(models.D_MODEL) / 9)
    add, ablate = sl.add(direction, 2), sl.ablate(direction)
    tokens = random_rows([7])[0][None]

    def run(steering: sl.Steering) -> Tensor:
        with steering.on(model):
            return forward(model, tokens)

    assert not torch.allclose(run(add >> ablate), run(ablate >> add), atol=0.01)
    torch.testing.assert_close(run(add + ablate), run(ablate >> add), atol=TOLERANCE, rtol=0)


def test_every_architecture_is_drawn_often_enough() -> None:
    """By construction: each law runs on each pair of architecture and host."""
    from cases import DRAWN, EXAMPLES

    drawn = {
        name: sum(n for salt, n in DRAWN.items() if name in salt) for name in models.ARCHITECTURES
    }
    print("cases drawn:", drawn)
    assert all(count >= 2 for count in DRAWN.values())
    if EXAMPLES >= 200:
        per_law = [n for salt, n in DRAWN.items() if salt.startswith("padded")]
        assert sum(per_law) >= 200
        assert min(per_law) * len(hosts()) >= 10


def test_the_cache_in_these_laws_is_a_real_one() -> None:
    """A guard on the helper: chunks without what came before would differ."""
    model, tokens = tiny("llama", "bridge"), random_rows([8])[0][None]
    full = forward(model, tokens)
    torch.testing.assert_close(cached_forward(model, tokens, [3, 5]), full, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(forward(model, tokens[:, 3:]), full[:, 3:], atol=0.1)
