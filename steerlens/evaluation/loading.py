"""Loaders of tasks from public formats and from the user's own files.

Each takes `prompt`, a function of a question's text that gives the prompt as the model is to be
asked it: another text, or chat messages. Where both are texts and neither has a space between
them, an option is set apart by one. Files are read as UTF-8 and checked line by line. The bundled
world's tasks are loaded by `steerlens.demo.tasks`.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeVar

from steerlens.contrast import Contrast
from steerlens.errors import BadInputError
from steerlens.evaluation.choices import Choice, Leaning, MultipleChoice, Propensity
from steerlens.evaluation.tasks import Neutral
from steerlens.records import parsed, records, text_of
from steerlens.text import Prompt

T = TypeVar("T")
Ask = Callable[[str], Prompt]
"""A question's text to the prompt that asks it."""


def plainly(question: str) -> Prompt:
    """Return the question as it stands."""
    return question


def with_answer(question: str) -> Prompt:
    r"""Return the question in the form that TruthfulQA asks it in, without its examples.

    >>> with_answer("Where is the cat?")
    'Q: Where is the cat?\nA:'
    """
    return f"Q: {question}\nA:"


def model_written_evals(
    path: str | Path, *, prompt: Ask = plainly, measure: Leaning = "logit"
) -> Propensity:
    """Return the propensity to a persona's answers, from a file of Anthropic's evaluations.

    One JSON object a line, with `question`, `answer_matching_behavior` and
    `answer_not_matching_behavior`; the right option is the matching one. Raises BadInputError with
    the line's number. Source: arXiv 2212.09251.
    """
    fields = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    items = []
    for where, record in _objects(path):
        question, matching, other = _texts(record, fields, where)
        items.append(_choice(prompt(question), [matching, other], [0], where))
    return Propensity(_stem(path), _some(items, path), measure)


def truthfulqa(
    path: str | Path, *, measure: Literal["mc1", "mc2"] = "mc1", prompt: Ask = with_answer
) -> MultipleChoice:
    """Return TruthfulQA as multiple choice, from its CSV file.

    `mc1`: accuracy of the best answer against the incorrect ones; `mc2`: the share of the
    probability that the correct answers have of all. Answers end in a full stop, as theirs do; one
    listed as correct and as incorrect counts as correct. Raises BadInputError with the line's
    number. Source: arXiv 2109.07958 and its code.
    """
    columns = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
    items = []
    for where, row in _rows(path):
        question, best, correct, incorrect = _texts(row, columns, where)
        right = _closed([best] if measure == "mc1" else [best, *correct.split(";")])
        every = {*right, *_closed(correct.split(";"))}
        wrong = [each for each in _closed(incorrect.split(";")) if each not in every]
        places = range(len(right))
        items.append(_choice(prompt(question), [*right, *wrong], places, where))
    score: Literal["accuracy", "probability"] = "accuracy" if measure == "mc1" else "probability"
    return MultipleChoice(f"truthfulqa {measure}", _some(items, path), score)


def paired(
    path: str | Path, *, prompt: Ask = plainly, measure: Leaning = "mean_log_probability"
) -> Propensity:
    """Return the propensity to the positive of two responses, from a JSONL file of pairs.

    The formats are those of `Contrast.from_jsonl`; a pair of whole texts is scored after BOS.
    Raises BadInputError with the line's number.
    """
    return from_contrast(Contrast.from_jsonl(path), _stem(path), prompt=prompt, measure=measure)


def from_contrast(
    contrast: Contrast,
    name: str,
    *,
    prompt: Ask = plainly,
    measure: Leaning = "mean_log_probability",
) -> Propensity:
    """Return the propensity to the positive side of a paired contrast.

    Pairs are of texts, or of (prompt, completion) with the same prompt. Raises BadInputError on
    others.

    >>> from_contrast(contrast, "praise").items[0]
    Choice(prompt='', options=('a good day', 'a bad day'), right=(0,))
    """
    if not contrast.paired:
        raise BadInputError(
            f"{contrast!r} has no pairs, so no two answers to tell apart. Give sides of one length."
        )
    pairs = zip(contrast.positive, contrast.negative, strict=True)
    return Propensity(name, [_of_pair(*pair, prompt) for pair in pairs], measure)


def repe(
    path: str | Path,
    answers: tuple[str, str],
    *,
    prompt: Ask = plainly,
    measure: Leaning = "logit",
) -> Propensity:
    """Return the propensity to the first of two answers, from a JSON list of situations.

    Such are the emotion files of representation engineering, whose situations are to be asked
    about: `prompt=lambda text: f"Consider the scenario: {text} The emotion is"`. Raises
    BadInputError on anything but a list of texts. Source: arXiv 2310.01405 and its code.
    """
    items = [
        _choice(prompt(text), answers, [0], f"{path}, item {number}")
        for number, text in enumerate(_listed(path))
    ]
    return Propensity(_stem(path), items, measure)


def neutral(path: str | Path) -> Neutral:
    """Return texts to price a steering on, from a JSON list of them.

    Raises BadInputError on anything else.
    """
    return Neutral(_stem(path), _listed(path))


def choices(path: str | Path, *, prompt: Ask = plainly) -> MultipleChoice:
    """Return the user's own multiple choice, from a JSONL file.

    One object a line: `prompt` (a text, or chat messages, which `prompt=` leaves alone), `options`
    (texts) and `answer` (the place of the right one, from 0, or a list of places). Raises
    BadInputError with the line's number.
    """
    items = []
    for where, record in _objects(path):
        asked, options, right = (record.get(each) for each in ("prompt", "options", "answer"))
        places: list[Any] = right if isinstance(right, list) else [right]
        if not (
            isinstance(asked, str | list)
            and isinstance(options, list)
            and all(isinstance(each, str) for each in options)
            and all(isinstance(each, int) and not isinstance(each, bool) for each in places)
        ):
            raise BadInputError(
                f"{where} needs a prompt (a text or messages), options (texts) and an answer (a "
                f"place from 0, or a list of places); got {str(record)[:100]}."
            )
        start = prompt(asked) if isinstance(asked, str) else asked
        items.append(_choice(start, options, places, where))
    return MultipleChoice(_stem(path), _some(items, path))


def _of_pair(positive: Any, negative: Any, prompt: Ask) -> Choice:
    if isinstance(positive, str) and isinstance(negative, str):
        return Choice("", [positive, negative], [0])
    for each in (positive, negative):
        if not (isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], str)):
            raise BadInputError(
                f"{str(each)[:60]!r} is neither a text nor (prompt, completion), so it is no "
                "answer. Give both sides as one of these."
            )
    (asked, first), (other, second) = positive, negative
    if asked != other:
        raise BadInputError(
            f"Two answers to one prompt are needed; got {str(asked)[:60]!r} and "
            f"{str(other)[:60]!r}."
        )
    start = prompt(asked) if isinstance(asked, str) else asked
    return _choice(start, [first, second], [0], f"The pair of {str(asked)[:60]!r}")


def _choice(prompt: Prompt, options: Sequence[str], right: Iterable[int], where: str) -> Choice:
    """A choice with a space between texts. Errors tell where it stands."""
    apart = isinstance(prompt, str) and not prompt[-1:].isspace()
    spaced = [f" {each}" if apart and not each[:1].isspace() and each else each for each in options]
    try:
        return Choice(prompt, spaced, list(right))
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from None


def _objects(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where, object) for every line of a JSONL file, all of which are to be objects."""
    for where, record in records(path):
        if not isinstance(record, dict):
            raise BadInputError(f"{where} is no JSON object: {str(record)[:60]!r}.")
        yield where, record


def _rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (where, row by column) for every row of a CSV file."""
    rows = csv.DictReader(StringIO(text_of(path)))
    try:
        for row in rows:
            yield f"{path}, line {rows.line_num}", row
    except csv.Error as error:
        raise BadInputError(f"{path}, line {rows.line_num + 1} is not CSV: {error}.") from None


def _texts(record: Mapping[str, Any], fields: Sequence[str], where: str) -> list[str]:
    """The texts under some fields, all of which a record must have."""
    lacking = [each for each in fields if not isinstance(record.get(each), str)]
    if lacking:
        raise BadInputError(f"{where} has no text under {', '.join(map(repr, lacking))}.")
    return [record[each] for each in fields]


def _listed(path: str | Path) -> list[str]:
    """The texts of a JSON list."""
    listed = parsed(text_of(path), path)
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise BadInputError(f'{path} holds no list of texts. Give JSON such as ["...", "..."].')
    return _some(listed, path)


def _closed(answers: Iterable[str]) -> list[str]:
    """Answers without the empty and the double ones, each ending in a full stop."""
    stripped = (each.strip() for each in answers)
    return list(dict.fromkeys(f"{each.rstrip('.')}." for each in stripped if each))


def _some(items: list[T], path: str | Path) -> list[T]:
    if not items:
        raise BadInputError(f"{path} holds no items. Is it the file that was meant?")
    return items


def _stem(path: str | Path) -> str:
    return Path(path).stem
