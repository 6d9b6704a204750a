"""Steering: interventions as a value that combines, and runs on a user's own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens import packing
from steerlens.cards import card
from steerlens.clock import Clock
from steerlens.errors import BadInputError
from steerlens.host import FwdHooks, Host
from steerlens.interventions import (
    Expression,
    Group,
    Intervention,
    leaves,
    mapped,
    only,
    read_elsewhere,
)
from steerlens.names import layer_of
from steerlens.positions import Positions, selector
from steerlens.provenance import Allow
from steerlens.running import check_picked, check_writable, running
from steerlens.session import Session, Untold
from steerlens.signals import Value, product, signal
from steerlens.trace import Trace
from steerlens.waiting import waits

PromptLengths = Sequence[int] | Int[Tensor, " batch"]


@dataclass(frozen=True, repr=False)
class Steering:
    """Interventions on a model, together (`a + b`) or one after another (`a >> b`).

    A steering holds no model and no state: the same value steers any model that it fits, as
    often as wanted, and leaves nothing behind.

    >>> steering = sl.add(directions["resid_post", 2], coeff=4, positions="predicting")
    >>> with steering.on(model):
    ...     text = model.generate("Once upon a time", max_new_tokens=8, verbose=False)
    """

    expression: Expression

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Its interventions, in reading order."""
        return tuple(leaves(self.expression))

    def fwd_hooks(
        self,
        model: Host,
        tokens: Tensor | str | Sequence[str] | None = None,
        *,
        attention_mask: Tensor | None = None,
        prompt_lengths: PromptLengths | None = None,
    ) -> FwdHooks:
        """Return [(hook_name, fn)] for one pass: TransformerLens's plain currency.

        `tokens` are those of the pass (ids, or text as the model tokenises it). Without them
        only positions by absolute index can be told. Without `prompt_lengths` (real tokens a row,
        BOS included) a text is all prompt, so that `generated` picks nothing: a warning says so.
        Raises BadInputError, at the latest when the hook runs, where a selector needs tokens that
        are not given, and HookError in a pass of another shape.

        >>> hooks = sl.add(directions["resid_post", 2]).fwd_hooks(model, tokens="A good day")
        >>> logits = model.run_with_hooks("A good day", fwd_hooks=hooks)
        """
        check_writable(self.expression, model)
        if tokens is None:
            _refuse_reading(self.expression)
            return Untold(self.expression, model, _lengths(prompt_lengths)).fwd_hooks()
        ids = (
            tokens
            if isinstance(tokens, Tensor)
            else model.to_tokens(tokens if isinstance(tokens, str) else list(tokens))
        )
        clock = Clock(model, _lengths(prompt_lengths))
        clock.begin(ids if ids.ndim == 2 else ids[None], attention_mask=attention_mask)
        session = Session(self.expression, model, clock)
        for leaf in leaves(self.expression):
            clock.where(leaf.positions)
        check_picked(session)
        return session.fwd_hooks()

    @waits("with steering.on(model):")
    @contextmanager
    def on(self, model: Host, *, prompt_lengths: PromptLengths | None = None) -> Iterator[Host]:
        """Steer everything the model does inside the block: run, cache, generate.

        Stores nothing. `prompt_lengths` (real tokens a row, BOS included) tell where prompts
        end in passes over prompts and completions; in `generate` they are known. On leaving
        without an exception, raises HookError if a hook never fired though its layer ran.
        The user's own hooks stay as they were, and none of ours stays behind.

        >>> with steering.on(model):
        ...     logits = model("A good day")
        """
        with running(self.expression, model, prompt_lengths=_lengths(prompt_lengths)):
            yield model

    @waits("with steering.trace(model) as trace:")
    @contextmanager
    def trace(
        self, model: Host, *, prompt_lengths: PromptLengths | None = None, max_tokens: int = 50_000
    ) -> Iterator[Trace]:
        """Steer as `on` does, and keep what was written: passes, each whole, up to `max_tokens`.

        >>> with steering.trace(model) as trace:
        ...     text = model.generate("Once upon a time", max_new_tokens=8, verbose=False)
        >>> trace.texts[0].share.shape
        torch.Size([1, 1, ...])
        """
        trace = Trace(self.interventions, max_tokens)
        lengths = _lengths(prompt_lengths)
        with running(self.expression, model, prompt_lengths=lengths, trace=trace):
            yield trace

    def __enter__(self) -> NoReturn:
        """Raise BadInputError: a steering knows no model."""
        raise BadInputError(
            f"{self!r} is a value, on no model yet. Write `with steering.on(model):`, or "
            "`with steering.trace(model) as trace:`."
        )

    def __exit__(self, *error: object) -> None:
        """Nothing is ever entered."""

    def where(self, positions: Positions) -> Steering:
        """Return the steering at other positions, in place of those it had.

        >>> steering.where("everywhere")
        Steering(4 * add('direction') @ blocks.2.hook_resid_post[everywhere])
        """
        chosen = selector(positions)
        return Steering(mapped(self.expression, lambda leaf: replace(leaf, positions=chosen)))

    def when(self, gate: Value) -> Steering:
        """Return the steering under a further gate, multiplied: a number, one a row, a signal.

        >>> steering.when([0, 1])
        Steering(4 * rows(0, 1) * add('direction') @ blocks.2.hook_resid_post[predicting])
        """
        added = signal(gate)
        return Steering(
            mapped(self.expression, lambda leaf: replace(leaf, gate=product(leaf.gate, added)))
        )

    def layers(self, *layers: int) -> Steering:
        """Return what it does at some layers alone. Raises BadInputError where it does nothing.

        >>> sl.add(directions).layers(1, 2).interventions[0].hook_name
        'blocks.1.hook_resid_post'
        """
        kept = only(self.expression, lambda leaf: layer_of(leaf.hook_name) in layers)
        if kept is None:
            own = ", ".join(dict.fromkeys(leaf.hook_name for leaf in self.interventions))
            raise BadInputError(
                f"Nothing is steered at layers {', '.join(map(str, layers))}; it is at {own}. Give "
                "one of these layers or more, as numbers: layers(3, 4)."
            )
        return Steering(kept)

    __array_ufunc__ = None  # an array times a steering is one coefficient a row

    def __add__(self, other: Steering) -> Steering:
        """Return both at once: each reads the same activation."""
        if not isinstance(other, Steering):
            return NotImplemented
        return Steering(Group((*_parts(self, False), *_parts(other, False))))

    def __rshift__(self, other: Steering) -> Steering:
        """Return both in turn: the second sees what the first wrote."""
        if not isinstance(other, Steering):
            return NotImplemented
        return Steering(Group((*_parts(self, True), *_parts(other, True)), in_turn=True))

    def __mul__(self, factor: Value) -> Steering:
        """Return the steering with every coefficient multiplied: a number, or one a row."""
        scale = signal(factor)
        return Steering(
            mapped(self.expression, lambda leaf: replace(leaf, coeff=product(scale, leaf.coeff)))
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Steering:
        """Return the steering with every coefficient divided."""
        return (1 / divisor) * self

    def __sub__(self, other: Steering) -> Steering:
        """Return both at once, the other negated."""
        return self + -other if isinstance(other, Steering) else NotImplemented

    def __neg__(self) -> Steering:
        """Return the steering with every coefficient negated."""
        return -1.0 * self

    def save(self, path: str | Path) -> None:
        """Write the steering as one safetensors file, or nothing at all.

        Raises BadInputError, naming the part, where it holds a function of the user's own.
        """
        packing.write(path, "steering", self.expression)

    @classmethod
    def load(cls, path: str | Path, model: Host | None = None, *, allow: Allow = ()) -> Steering:
        """Return a saved steering. With `model`, raise BadInputError if it was made on another.

        `allow` names differences that are meant; see `steerlens.load`. Raises BadInputError, naming
        the file, on one that is not there, broken, of a later layout or no steering. Nothing in a
        file is run.
        """
        return cls(packing.read(path, "steering", Expression, model, allow))

    def __repr__(self) -> str:
        """Return the formula."""
        return f"Steering({self.expression!r})"

    def _repr_html_(self) -> str:
        leaves = self.interventions
        return card("Steering", {str(i): repr(leaf) for i, leaf in enumerate(leaves)})


def together(parts: Sequence[Expression]) -> Steering:
    """Return the steering of expressions that act at once; of one, that one alone.

    >>> together(steering.interventions) == steering
    True
    """
    return Steering(parts[0] if len(parts) == 1 else Group(tuple(parts)))


def under(steering: Steering | None, model: Host) -> AbstractContextManager[Any]:
    """Return a block in which a steering, if any, is on, though its passes may come by none of it.

    >>> with under(steering, model), torch.no_grad():
    ...     logits = model("a good day")
    """
    if steering is None:
        return nullcontext()
    return running(steering.expression, model, may_miss=True)


def check_steering(value: object) -> None:
    """Raise BadInputError on what is no steering.

    >>> check_steering(steering)
    """
    if not isinstance(value, Steering):
        raise BadInputError(
            f"A steering goes here; got a {type(value).__name__}. sl.add(direction) makes one of a "
            "direction, edit.as_steering() one of an edit."
        )


def _refuse_reading(expression: Expression) -> None:
    for name in read_elsewhere(expression):
        raise BadInputError(f"A steering that reads {name!r} needs fwd_hooks(model, tokens=...).")


def _parts(steering: Steering, in_turn: bool) -> tuple[Expression, ...]:
    expression = steering.expression
    if isinstance(expression, Group) and expression.in_turn == in_turn:
        return expression.parts
    return (expression,)


def _lengths(lengths: PromptLengths | None) -> Tensor | None:
    """Lengths as a tensor. Raises BadInputError unless they are one whole number above 0 a row."""
    if lengths is None:
        return None
    try:
        given = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        given = torch.empty(0)
    whole = given.ndim == 1 and not given.is_floating_point() and not given.is_complex()
    if not whole or bool((given < 1).any()):
        raise BadInputError(
            f"prompt_lengths are one whole number a row, of real tokens, BOS included; got "
            f"{lengths!r}."
        )
    return given
