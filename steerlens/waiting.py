"""What waits for `with`: a block that says so where it is used before it is entered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ContextDecorator
from functools import wraps
from sys import is_finalizing
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from steerlens.errors import BadInputError, NotEnteredError, warn

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Waiting(AbstractContextManager[T], ContextDecorator):
    """A context manager that does nothing until `with` enters it, and warns if nothing ever does.

    What `with` gives has the attributes that are wanted: asking this for one raises
    NotEnteredError.

    >>> steering.on(model)
    <nothing yet: enter it with `with steering.on(model):`>
    """

    def __init__(self, block: Any, way: str) -> None:
        """Take one of contextlib's blocks, and how it is written."""
        self._block = block
        self._way = way
        self._used = False

    def __enter__(self) -> T:
        """Enter the block. Raises BadInputError where it was entered before."""
        if self._used:
            raise BadInputError(f"This block was entered before. Write `{self._way}` for each.")
        self._used = True
        entered: T = self._block.__enter__()
        return entered

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave the block."""
        left: bool | None = self._block.__exit__(kind, error, traceback)
        return left

    def __call__(self, function: F) -> F:
        """Return a function around whose every call the block stands. Raises BadInputError."""
        self._used = True
        if not callable(function):
            raise BadInputError(f"This runs nothing by itself. Enter it: `{self._way}`.")
        inside: F = self._block(function)
        return inside

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what notebooks and copies look for
            raise AttributeError(name)
        raise NotEnteredError(
            f"There is no {name!r} here: it belongs to what `with` gives. Write `{self._way}`."
        )

    def __repr__(self) -> str:
        """Return how to enter it."""
        if self._used:
            return f"<entered by `{self._way}`>"
        return f"<nothing yet: enter it with `{self._way}`>"

    def __del__(self) -> None:
        """Warn where nobody entered it."""
        if not self._used and not is_finalizing():
            warn(f"Nothing was done: a block was made and never entered. Write `{self._way}`.")


def waits(way: str) -> Callable[[Callable[P, AbstractContextManager[T]]], Callable[P, Waiting[T]]]:
    """Make what returns one of contextlib's blocks return one that says where it was not entered.

    `way` is how it is written: "with steering.on(model):".
    """

    def told(make: Callable[P, AbstractContextManager[T]]) -> Callable[P, Waiting[T]]:
        @wraps(make)
        def made(*args: P.args, **options: P.kwargs) -> Waiting[T]:
            return Waiting(make(*args, **options), way)

        return made

    return told
