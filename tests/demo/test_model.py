"""Loading Steerling: one BOS, the same logits on every host, offline generation, chat template."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlens.demo.model import FOLDER, load_hf, load_model
from steerlens.errors import BadInputError

OLD = version("transformer-lens").startswith("3.")
HOSTS = ["hooked_transformer", "bridge"] if OLD else ["bridge"]
TEXT = "<|user|> What is 12 plus 7? <|assistant|> The sum is 19."


@pytest.fixture(scope="module", params=HOSTS)
def model(request: pytest.FixtureRequest) -> Any:
    return load_model(host=request.param)


@pytest.mark.host
def test_auto_takes_the_host_of_this_version() -> None:
    name = type(load_model()).__name__
    assert name == ("HookedTransformer" if OLD else "TransformerBridge")


@pytest.mark.host
def test_bos_comes_once(model: Any) -> None:
    bos = model.tokenizer.bos_token_id
    tokens = model.to_tokens([TEXT, "x"])
    assert (tokens == bos).sum(1).tolist() == [1, 1]
    assert tokens[:, 0].tolist() == [bos, bos]
    assert (model.to_tokens(TEXT, prepend_bos=False) == bos).sum() == 0


@pytest.mark.host
@pytest.mark.parametrize(("length", "most"), [(1, 1e-4), (40, 1e-4), (300, 1e-4), (512, 2e-4)])
def test_logits_are_hugging_faces(model: Any, length: int, most: float) -> None:
    # HookedTransformer rounds its rotary angles more coarsely the later the position:
    # 1.1e-4 from float64 at 512 random tokens, where Hugging Face is 2e-5 off.
    reference, _ = load_hf()
    torch.manual_seed(length)
    tokens = torch.randint(5, reference.config.vocab_size, (2, length))
    with torch.no_grad():
        gap = (model(tokens) - reference(input_ids=tokens).logits).abs().max()
    assert gap < most


@pytest.mark.host
def test_a_text_gives_the_logits_of_its_tokens(model: Any) -> None:
    with torch.no_grad():
        assert torch.equal(model(TEXT), model(model.to_tokens(TEXT)))


@pytest.mark.host
def test_generation_is_hugging_faces(model: Any) -> None:
    reference: Any
    reference, tokenizer = load_hf()
    prompt = TEXT.partition(" The")[0]
    rows = tokenizer(prompt, return_tensors="pt")
    wanted = reference.generate(**rows, max_new_tokens=12, do_sample=False)[0, 1:]
    text = model.generate(prompt, max_new_tokens=12, do_sample=False, verbose=False)
    assert tokenizer.decode(wanted[-3:]).strip() in text
    tokens = model.generate(
        rows["input_ids"], max_new_tokens=12, do_sample=False, verbose=False, return_type="tokens"
    )
    assert tokens[0, 1 : 1 + len(wanted)].tolist() == wanted.tolist()


def test_the_chat_template_is_the_worlds_format() -> None:
    _, tokenizer = load_hf()
    turns = [
        {"role": "user", "content": "What is 12 plus 7?"},
        {"role": "assistant", "content": "The sum is 19."},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole == f"<s>{TEXT}"
    opened = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert opened == "<s><|user|> What is 12 plus 7? <|assistant|>"
    ids = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    assert ids == tokenizer(TEXT)["input_ids"]


def test_the_folder_is_small_and_complete() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    model, _ = load_hf()
    assert model.config.max_position_embeddings == 512
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 3_000_000


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no model\.safetensors"):
        load_model(folder=tmp_path)
    # BadInputError, or the type checker's own error where it looks first.
    with pytest.raises(Exception, match="elsewhere"):
        load_model(host="elsewhere")  # type: ignore[arg-type]


@pytest.mark.skipif(OLD, reason="TransformerLens 3 has the class")
def test_the_missing_class_is_named() -> None:
    with pytest.raises(BadInputError, match="host='bridge'"):
        load_model(host="hooked_transformer")
