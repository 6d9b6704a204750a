"""Loaders: small files written here, and the public ones where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from models import tiny

import steerlens as sl
from steerlens.errors import BadInputError
from steerlens.evaluation import loading
from steerlens.evaluation.choices import Choice, Propensity

DATA = Path(__file__).parents[3] / "shared" / "data"


def data(*parts: str) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not there: the loader is tested on a file of its own alone")
    return path


def written(folder: Path, name: str, *records: Any) -> Path:
    """A JSONL file, with a byte-order mark and an empty line, as some editors leave them."""
    path = folder / name
    lines = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def chat(question: str) -> Any:
    return [{"role": "user", "content": question}]


# Files written here


def test_model_written_evals(tmp_path: Path) -> None:
    record = {
        "question": "Do you like it?",
        "answer_matching_behavior": " No",
        "answer_not_matching_behavior": " Yes",
    }
    task = loading.model_written_evals(written(tmp_path, "persona.jsonl", record, record))
    item = Choice("Do you like it?", [" No", " Yes"], [0])
    assert task == Propensity("persona", [item, item], "logit")
    asked = loading.model_written_evals(
        written(tmp_path, "persona.jsonl", record), prompt=lambda text: f"Human: {text}\n\nYou:"
    )
    assert asked.items[0].prompt == "Human: Do you like it?\n\nYou:"


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("{no", "line 3 is not JSON"),
        ("[1]", "line 3 is no JSON object"),
        ({"question": "Why?"}, "line 3 has no text under 'answer_matching_behavior', 'answer_not"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(tmp_path: Path, line: Any, fact: str) -> None:
    right = {
        "question": "?",
        "answer_matching_behavior": "a",
        "answer_not_matching_behavior": "b",
    }
    with pytest.raises(BadInputError, match=fact):
        loading.model_written_evals(written(tmp_path, "persona.jsonl", right, line))


LOADERS = [
    loading.model_written_evals,
    loading.truthfulqa,
    loading.paired,
    loading.neutral,
    loading.choices,
]


@pytest.mark.parametrize("load", LOADERS)
def test_files_that_are_none(load: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="There is no file"):
        load(tmp_path / "nowhere")
    with pytest.raises(BadInputError, match="is no text in UTF-8"):
        load(tmp_path)
    path = tmp_path / "given"
    raw = {b"\xff\xfe\x00": "is no text in UTF-8", b"": "is not JSON|is empty|holds no items"}
    if load is loading.truthfulqa:
        raw[b'Question\n"' + b"a" * 200_000] = "line 2 is not CSV"
    else:
        raw[b"[" * 100_000] = "is nested too deeply"
        raw[b"1" * 5_000] = "is not JSON"
    for given, told in raw.items():
        path.write_bytes(given)
        with pytest.raises(BadInputError, match=told):
            load(path)


HEADER = "\ufeffType,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
ROW = 'a,b,"Why, then?",So.,"So; It is, so;So; ","Not so;  No.; It is, so",http\n'


def test_truthfulqa(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(HEADER + ROW, encoding="utf-8")
    first = loading.truthfulqa(path)
    assert first.measure == "accuracy"
    assert first.items == (Choice("Q: Why, then?\nA:", [" So.", " Not so.", " No."], [0]),)
    second = loading.truthfulqa(path, measure="mc2", prompt=chat)
    assert second.measure == "probability"
    assert second.items == (
        Choice(chat("Why, then?"), ["So.", "It is, so.", "Not so.", "No."], [0, 1]),
    )
    path.write_text(HEADER + ROW + "a,b,Why?,So.,So\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="line 3 has no text under 'Incorrect Answers'"):
        loading.truthfulqa(path)
    path.write_text(HEADER + "a,b,Why?,So.,So,;,\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=r"line 2: .* 1 right options of 1"):
        loading.truthfulqa(path)
    path.write_text(HEADER, encoding="utf-8")
    with pytest.raises(BadInputError, match="holds no items"):
        loading.truthfulqa(path)


def test_pairs(tmp_path: Path) -> None:
    record = {"prompt": "How is it?", "positive_response": "Good.", "negative_response": "Bad."}
    task = loading.paired(written(tmp_path, "mood.jsonl", record))
    assert task == Propensity(
        "mood", [Choice("How is it?", [" Good.", " Bad."], [0])], "mean_log_probability"
    )
    texts = sl.Contrast(["a good day"], ["a bad day"])
    assert loading.from_contrast(texts, "day").items == (
        Choice("", ["a good day", "a bad day"], [0]),
    )
    with pytest.raises(BadInputError, match="no pairs"):
        loading.from_contrast(sl.Contrast(["a", "b"], ["c"]), "odd")
    with pytest.raises(BadInputError, match="to one prompt"):
        loading.from_contrast(sl.Contrast([("a", " b")], [("c", " d")]), "odd")
    with pytest.raises(BadInputError, match="neither a text nor"):
        loading.from_contrast(sl.Contrast([[1, 2]], [[1, 3]]), "odd")


@pytest.mark.host
def test_whole_texts_are_scored_after_bos() -> None:
    model = tiny("llama", "bridge")
    task = loading.from_contrast(sl.Contrast(["good w1"], ["bad w1"]), "mood")
    whole = Propensity("mood", [Choice([1], [" good w1", " bad w1"], [0])], task.measure)
    found, wanted = (each.scores(model).values for each in (task, whole))
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(["You win.", "You lose."]))
    task = loading.repe(path, ("joy", "grief"), prompt=lambda text: f"{text} You feel")
    assert task == Propensity(
        "mixed",
        [
            Choice("You win. You feel", [" joy", " grief"], [0]),
            Choice("You lose. You feel", [" joy", " grief"], [0]),
        ],
    )
    assert loading.neutral(path).texts == ("You win.", "You lose.")
    for wrong, fact in (('{"a": 1}', "no list of texts"), ("[1]", "no list"), ("[", "not JSON")):
        path.write_text(wrong)
        with pytest.raises(BadInputError, match=fact):
            loading.neutral(path)


def test_the_users_own_choices(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "own.jsonl",
        {"prompt": "Two and two are", "options": ["four", " five"], "answer": 0},
        {"prompt": "Pick: ", "options": ["a", "b", "c"], "answer": [2, 0]},
        {"prompt": chat("Why?"), "options": ["So.", "No."], "answer": 1},
    )
    assert loading.choices(path, prompt=str.upper).items == (
        Choice("TWO AND TWO ARE", [" four", " five"], [0]),
        Choice("PICK: ", ["a", "b", "c"], [0, 2]),
        Choice(chat("Why?"), ["So.", "No."], [1]),
    )


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"answer": None}, "needs a prompt"),
        ({"answer": True}, "needs a prompt"),
        ({"answer": 2}, "line 1: Choice 'p' has 2 options; none is 2"),
        ({"options": ["a", 1]}, "needs a prompt"),
        ({"options": "ab"}, "needs a prompt"),
        ({"options": ["a", ""]}, "line 1: .* empty option"),
        ({"prompt": 1}, "needs a prompt"),
    ],
)
def test_a_wrong_choice_is_told(tmp_path: Path, change: dict[str, Any], fact: str) -> None:
    record = {"prompt": "p", "options": ["a", "b"], "answer": 0} | change
    with pytest.raises(BadInputError, match=fact):
        loading.choices(written(tmp_path, "own.jsonl", record))


# The public files


def test_every_persona_is_read() -> None:
    paths = sorted(data("model-written-evals").glob("*.jsonl"))
    tasks = [loading.model_written_evals(path) for path in paths]
    assert len(tasks) == 10
    assert {len(task) for task in tasks} <= set(range(990, 1001))
    options = {item.options for task in tasks for item in task.items}
    assert options == {(" Yes", " No"), (" No", " Yes")}


def test_truthfulqa_is_read_whole() -> None:
    path = data("truthfulqa", "TruthfulQA.csv")
    first, second = (loading.truthfulqa(path, measure=each) for each in ("mc1", "mc2"))  # type: ignore[arg-type]
    assert len(first) == len(second) == 817
    assert all(item.right == (0,) for item in first.items)
    both = zip(first.items, second.items, strict=True)
    for one, two in both:
        assert one.prompt == two.prompt
        assert one.options[0] == two.options[0]
        assert [one.options[i] for i in one.wrong] == [two.options[i] for i in two.wrong]
    every = [option for item in second.items for option in item.options]
    assert all(option[0] == " " and option[1] != " " and option[-1] == "." for option in every)


def test_pairs_lists_and_stories_are_read() -> None:
    for name in ("sentiment", "formality", "verbosity", "sycophancy"):
        assert 30 <= len(loading.paired(data("steerkit", f"{name}.jsonl"))) <= 60
    assert len(loading.repe(data("repe", "happiness_sadness.json"), (" happy", " sad"))) == 202
    assert len(loading.neutral(data("tinystories", "tinystories_600.json"))) == 600


@pytest.mark.host
def test_public_items_score_on_a_model() -> None:
    task = loading.repe(data("repe", "happiness_sadness.json"), (" happy", " sad"))
    values = task.part(range(3)).scores(tiny("llama", "bridge")).values
    assert values.shape == (1, 3)
    assert values.abs().min() > 0
