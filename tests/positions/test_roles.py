"""Roles: the messages of real chat templates, found in what they write."""

from __future__ import annotations

from typing import Any

import pytest
from rows import host, picks, together

from steerlens import positions as ps
from steerlens.demo.tokens import CHAT_TEMPLATE, train_tokenizer
from steerlens.errors import BadInputError

ASK = "{% if add_generation_prompt %}"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    + ASK
    + "<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last and m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}" + ASK + "<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday: May\n\n{{ system }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}"
    "<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    + ASK
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}" + ASK + "<start_of_turn>model\n{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    + ASK
    + "<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
NAMELESS = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
ALIKE = "{% for m in messages %}# {{ m.content }}\n{% endfor %}"
SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|end|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",
)  # fmt: skip
TEMPLATES = {
    "steerling": CHAT_TEMPLATE, "chatml": CHATML, "qwen3": QWEN3, "llama2": LLAMA_2,
    "llama3": LLAMA_3, "gemma": GEMMA, "phi3": PHI_3,
}  # fmt: skip
PREFACED = ("qwen3", "llama3", "llama2")
"""Templates that put something of their own into a message."""
TALK = [
    ("user", "a cat sat"),
    ("assistant", "12 é (a day)"),
    ("user", "on a day"),
    ("assistant", "日 sat on"),
]


def model(template: str) -> Any:
    return host(special=SPECIAL, template=TEMPLATES.get(template, template))


def messages(talk: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in talk]


def spelt(model: Any, talk: list[tuple[str, str]]) -> tuple[list[int], list[set[str]]]:
    """Token ids of a chat, and for each token the roles whose contents it has characters of."""
    text = model.tokenizer.apply_chat_template(messages(talk), tokenize=False)
    spelt = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans, at = [], 0
    for role, content in talk:
        at = text.index(content, at)
        spans.append((role, at, at + len(content)))
    said = [
        {role for role, begin, end in spans if low < end and high > begin}
        for low, high in spelt["offset_mapping"]
    ]
    return spelt["input_ids"], said


@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_role_is_what_it_says(template: str, system: bool) -> None:
    """All of its messages; beyond them only what may yet have been one: a footer's beginning."""
    if system and template == "gemma":
        return
    host_ = model(template)
    talk = [("system", "a day on"), *TALK] if system else TALK
    ids, said = spelt(host_, talk)
    for role in {role for role, _ in talk}:
        found = picks(ps.role(role), ids, len(ids), host_)
        assert all(found[i] for i in range(len(ids)) if role in said[i]), role
        assert not any(found[i] for i in range(len(ids)) if said[i] - {role}), role
        starts = {i for i in range(1, len(ids)) if found[i] and not found[i - 1]}
        assert template in PREFACED or all(role in said[i] for i in starts), role
        assert together(
            ps.role(role), [ids, ids[:9]], [4, 4], cuts=range(1, 60), model=host_, left=True
        ) == [found, found[:9]]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_role_goes_on_where_the_model_does(template: str) -> None:
    """From the generation prompt on, with or without white space before the first word."""
    host_ = model(template)
    tokenizer = host_.tokenizer
    asked = tokenizer.apply_chat_template(
        messages(TALK[:1]), tokenize=False, add_generation_prompt=True
    )
    prompt = tokenizer(asked, add_special_tokens=False)["input_ids"]
    for words in (" cat sat", "cat"):
        said = tokenizer(words, add_special_tokens=False)["input_ids"]
        found = picks(ps.role("assistant"), [*prompt, *said], len(prompt), host_)
        assert found[len(prompt) :] == [True] * len(said)
        assert not any(found[: len(prompt)])


def test_a_markers_last_token_ends_a_message() -> None:
    steerling, chatml = model("steerling"), model("chatml")
    shown = ps.role("user").show(steerling, messages(TALK[:2]))
    assert "[ sat][ ]<|assistant|>" in repr(shown)
    shown = ps.role("user").show(chatml, messages(TALK[:2]))
    assert "<|im_start|>user\\n[a][ cat][ sat]<|im_end|>" in repr(shown)


@pytest.mark.parametrize(
    ("template", "role", "says"),
    [
        ("gemma", "system", "refuses messages of the roles system.*System role not supported"),
        ("llama2", "tool", "refuses"),
        (NAMELESS, "user", "does not tell messages of the role 'user'"),
        (ALIKE, "assistant", "does not tell messages of the role 'assistant'"),
        ("{{ messages[0].content }}", "user", "drops or repeats"),
        ("", "user", "has none. Set model.tokenizer.chat_template"),
    ],
)
def test_templates_that_do_not_tell(template: str, role: str, says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        ps.role(role).show(model(template), [3, 60, 61])


def test_text_without_a_template_has_no_roles() -> None:
    assert not any(picks(ps.role("user"), [60, 61, 62], 1, model("chatml")))
    assert train_tokenizer(["a"], 260).chat_template == CHAT_TEMPLATE
