"""The clock: pads by runs, indices by real tokens, texts by passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trials import trials

from steerlens import positions as ps
from steerlens.clock import Clock, Generation, padding
from steerlens.errors import BadInputError, HookError


def model(pad: int | None = 0, bos: int | None = 1) -> Any:
    def none(*arguments: Any, **options: Any) -> None: ...

    tokenizer = SimpleNamespace(pad_token_id=pad, bos_token_id=bos)
    host = SimpleNamespace(cfg=None, tokenizer=tokenizer, hook_dict={})
    methods = dict.fromkeys(("hooks", "to_tokens", "parameters", "__call__"), none)
    return type("Fake", (), {**vars(host), **methods})()


@pytest.mark.parametrize(
    ("row", "pad", "bos", "wanted"),
    [
        ([0, 0, 1, 5, 0], 0, 1, "xx..x"),
        ([1, 5, 0, 6, 0], 0, 1, "....x"),
        ([0, 0, 0, 5, 6], 0, 0, "xx..."),  # pad is BOS is EOS: the last of the run is BOS
        ([0, 5, 6, 0, 0], 0, 0, "...xx"),
        ([0, 5, 6, 7, 8], 0, 0, "....."),
        ([1, 5, 6, 7, 8], None, 1, "....."),
        ([0, 0, 5, 6, 7], 0, None, "xx..."),
        ([0, 0, 0], 0, 0, "xx."),
    ],
)
def test_trap_pads_are_runs_at_the_ends(row: list[int], pad: Any, bos: Any, wanted: str) -> None:
    found = padding(torch.tensor([row]), pad, bos)[0].tolist()
    assert "".join("x" if each else "." for each in found) == wanted


words = st.lists(st.integers(2, 9), min_size=1, max_size=6)


@trials(100)
@given(st.lists(words, min_size=2, max_size=4), st.booleans(), st.booleans())
def test_padding_is_found_on_either_side(rows: list[list[int]], left: bool, shared: bool) -> None:
    """`shared`: pad, BOS and EOS are one id, as in GPT-2."""
    bos = 0 if shared else 1
    longest = max(map(len, rows)) + 1
    tokens, wanted = [], []
    for row in rows:
        text, pads = [bos, *row], [0] * (longest - len(row) - 1)
        tokens.append(pads + text if left else text + pads)
        real = [False] * len(text)
        wanted.append([True] * len(pads) + real if left else real + [True] * len(pads))
    assert padding(torch.tensor(tokens), 0, bos).tolist() == wanted


def test_indices_count_real_tokens() -> None:
    clock = Clock(model())
    clock.begin(torch.tensor([[0, 0, 1, 5], [1, 5, 6, 7]]))
    assert clock.window.index.tolist() == [[-1, -1, 0, 1], [0, 1, 2, 3]]
    assert clock.window.prompt_lengths.tolist() == [2, 4]
    assert clock.window.opens_with_bos.tolist() == [True, True]
    clock.begin(torch.tensor([[8], [9]]), past=4)
    assert clock.window.index.tolist() == [[2], [4]]
    assert clock.window.history.tolist() == [[0, 0, 1, 5, 8], [1, 5, 6, 7, 9]]
    assert clock.window.prompt_lengths is None


def test_pads_that_close_what_goes_on() -> None:
    """As in a fresh pass over the same text; what `generate` appends is real, whatever its id."""
    whole, clock = Clock(model()), Clock(model())
    text = torch.tensor([[0, 1, 5, 6, 0, 7], [1, 5, 6, 7, 0, 0]])
    whole.begin(text)
    clock.begin(text[:, :3])
    clock.begin(text[:, 3:], past=3)
    assert clock.window.real_so_far.tolist() == whole.window.real_so_far.tolist()
    clock.begin(text[:, :1] + 8, past=6)
    assert clock.window.index.tolist() == [[5], [4]]
    with clock.generating(Generation()):
        clock.begin(text[:, :3])
        clock.begin(text[:, :1] * 0, past=3)
        assert clock.window.index.tolist() == [[2], [3]]


def test_a_single_row_has_no_pads() -> None:
    clock = Clock(model())
    clock.begin(torch.tensor([[1, 5, 0, 0]]))
    assert clock.window.real.all()


def test_the_hosts_mask_is_believed() -> None:
    clock = Clock(model())
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    clock.begin(torch.tensor([[1, 5, 0, 6], [1, 0, 0, 0]]), attention_mask=mask)
    assert clock.window.real_so_far.tolist() == mask.bool().tolist()


def test_texts_are_told_apart() -> None:
    clock = Clock(model())
    tokens = torch.tensor([[1, 5, 6]])
    texts = []
    for past in (0, 3, 4, 0):
        clock.begin(tokens if past == 0 else tokens[:, :1], past=past)
        texts.append(clock.text.number)
    assert texts == [0, 0, 0, 1]
    with clock.generating(Generation()):
        for width in (3, 3, 3):  # uncached generation: every pass is a whole text
            clock.begin(tokens[:, :width])
            texts.append(clock.text.number)
            assert clock.window.prompt_lengths.tolist() == [3]
    assert texts[4:] == [2, 2, 2]


def test_uncached_generation_keeps_its_prompt_length() -> None:
    clock = Clock(model())
    with clock.generating(Generation()):
        clock.begin(torch.tensor([[1, 5]]))
        clock.begin(torch.tensor([[1, 5, 6]]))
        assert clock.window.prompt_lengths.tolist() == [2]
        assert clock.where(ps.generated).tolist() == [[False, False, True]]


def test_no_pass_no_window() -> None:
    with pytest.raises(HookError, match="start_at_layer"):
        _ = Clock(model()).window
    with pytest.raises(BadInputError, match="a tensor of its shape"):
        Clock(model()).begin(None)
    with pytest.raises(BadInputError, match="3 prompt_lengths were given for a batch of 1"):
        Clock(model(), torch.tensor([1, 2, 3])).begin(torch.tensor([[1, 5]]))


def test_told_holds_for_its_block_only() -> None:
    clock = Clock(model(), torch.tensor([1]))
    tokens, real = torch.tensor([[1, 5, 6]]), torch.tensor([[True, True, False]])
    with clock.told(torch.tensor([2]), real):
        clock.begin(tokens)
        assert clock.window.prompt_lengths.tolist() == [2]
        assert clock.window.real.tolist() == real.tolist()
    clock.begin(tokens)
    assert clock.window.prompt_lengths.tolist() == [1]
    assert clock.window.real.all()
