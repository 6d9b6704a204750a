"""A steering at work until a block is left, and what is checked on leaving it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from jaxtyping import Int
from torch import Tensor

from steerlens.errors import BadInputError, HookError, warn
from steerlens.host import Host, check_read, check_written
from steerlens.interventions import Expression, Group, leaves, read_elsewhere
from steerlens.names import layer_of
from steerlens.passes import following, hooked
from steerlens.positions import Span, missed
from steerlens.provenance import strange
from steerlens.session import Session
from steerlens.trace import Trace


def check_writable(expression: Expression, model: Host) -> None:
    """Raise UnknownNameError or HookError on a hook point that cannot be steered.

    Warns of what was made on another model, by name: a few microseconds.
    """
    if not hasattr(model, "hook_dict"):
        raise BadInputError(
            f"A steering runs on a HookedTransformer or a TransformerBridge; got "
            f"{type(model).__name__}. Load the model first."
        )
    for leaf in leaves(expression):
        if other := strange(model, leaf.sources):
            warn(
                f"{leaf!r} {other}: a direction is a claim about one model. Make one on this model."
            )
            break
    for name in dict.fromkeys(leaf.hook_name for leaf in leaves(expression)):
        check_written(model, name)
    for name in dict.fromkeys(read_elsewhere(expression)):
        check_read(model, name)


@contextmanager
def running(
    expression: Expression,
    model: Host,
    *,
    prompt_lengths: Int[Tensor, " batch"] | None = None,
    trace: Trace | None = None,
    may_miss: bool = False,
) -> Iterator[Session]:
    """Steer every pass of the model until the block is left; then check that every hook fired.

    With `may_miss`, positions that pick no token are nobody's concern: one batch of several.
    """
    check_writable(expression, model)
    last = model.cfg.n_layers - 1
    found = (layer_of(leaf.hook_name) for leaf in leaves(expression))
    layers = {last if layer is None else layer for layer in found}
    with following(model, layers=layers, prompt_lengths=prompt_lengths) as clock:
        session = Session(expression, model, clock, trace)
        try:
            with hooked(model, session.fwd_hooks()):
                yield session
        finally:
            if trace is not None:
                trace.finish(clock)
        _check_fired(session)
        if not may_miss and not clock.serial:
            warn("No pass was run while the steering was on.")
        elif not may_miss:
            check_picked(session)
            _check_opened(session)
            _check_overflow(session)
            _check_order(session)


def _check_fired(session: Session) -> None:
    """Raise HookError if a hook point did not fire in the latest pass through its layer."""
    for name in session.names:
        watched = layer_of(name)
        layer = session.model.cfg.n_layers - 1 if watched is None else watched
        if session.fired.get(name, 0) >= session.clock.reached.get(layer, 0):
            continue
        if watched is None:  # the pass may have stopped short of it
            warn(f"Hook point {name!r} did not fire in the last pass.")
        elif name in session.fired:
            raise HookError(
                f"Hook point {name!r} fell silent: its layer ran again without our hook. Was "
                "model.reset_hooks() called while the steering was on?"
            )
        else:
            raise HookError(
                f"Hook point {name!r} never fired, though a pass ran its layer: nothing was "
                "steered there. The model does not compute it as it is set up."
            )


def check_picked(session: Session) -> None:
    """Warn of positions that picked no token; an index or span past every text is an error."""
    for selector, picked in session.clock.picked.items():
        if bool(picked):
            continue
        if isinstance(selector, Span):
            raise BadInputError(f"Positions {selector!r} lie past every text: nothing was steered.")
        warn(f"Positions {selector!r} picked no token: nothing was steered. {missed(selector)}")


def _check_order(session: Session) -> None:
    """Warn of sequences whose second part acts on an earlier place of the pass than the first.

    Points are written as the pass comes to them, whatever the order of the formula.
    """
    reached = list(session.fired)
    for first, second in _in_turn(session.expression):
        late = [reached.index(name) for name in first if name in session.fired]
        early = [reached.index(name) for name in second if name in session.fired]
        if late and early and min(early) < max(late):
            warn(
                f"In `{reached[max(late)]} >> {reached[min(early)]}` the second comes first in "
                "the pass: it does not see what the first wrote. `+` says what happens."
            )


def _in_turn(expression: Expression) -> Iterator[tuple[set[str], set[str]]]:
    """Yield the hook points of each two parts that act one after the other."""
    if isinstance(expression, Group):
        names = [{leaf.hook_name for leaf in leaves(part)} for part in expression.parts]
        if expression.in_turn:
            yield from pairwise(names)
        for part in expression.parts:
            yield from _in_turn(part)


def _check_opened(session: Session) -> None:
    """Warn of gates that stayed shut at every token."""
    for each in session.acting.values():
        ran = each.leaf.hook_name in session.fired
        if ran and each.opened is not None and not each.opened:
            warn(
                f"The gate of {each.leaf!r} never opened: nothing was steered there. That is right "
                "if it should open for none of these texts."
            )


def _check_overflow(session: Session) -> None:
    """Warn of hook points where what was written does not fit float16."""
    for name, overflowed in session.overflowed.items():
        if bool(overflowed):
            warn(
                f"What was written at {name!r} overflowed float16 and became infinite. Lower the "
                "strength, or load the model in bfloat16 or float32."
            )
