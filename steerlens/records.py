"""What users keep in text files: JSON, as one value or as one a line. Errors name the place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steerlens.errors import BadInputError


def text_of(path: str | Path) -> str:
    """Return a file's text. Raises BadInputError where there is none, or none in UTF-8."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadInputError(f"There is no file {path}.") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise BadInputError(f"{path} is no text in UTF-8: {error}.") from None


def parsed(text: str, where: str | Path) -> Any:
    """Return what a text of JSON holds. Raises BadInputError that says where it stands.

    >>> parsed('{"a": [1]}', "here")
    {'a': [1]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise BadInputError(f"{where} is nested too deeply.") from None
    except ValueError as error:  # of JSON, or of a number beyond Python's limit of digits
        raise BadInputError(f"{where} is not JSON: {error}.") from None


def records(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) for every line of a JSONL file that is not blank.

    Raises BadInputError with the line's number.
    """
    # Not splitlines(), which also cuts at characters that JSON leaves as they are.
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, parsed(line, where)
