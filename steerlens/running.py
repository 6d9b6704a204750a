"""A steering at work on a model: its callbacks, and what is checked before and after."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from steerlens.basis import Basis
from steerlens.clock import Clock
from steerlens.errors import BadInputError, HookError
from steerlens.host import (
    FwdHooks,
    HookFn,
    Host,
    check_read,
    check_written,
    layer_of,
)
from steerlens.interventions import (
    Change,
    Expression,
    Intervention,
    applied,
    change,
    in_turn,
    leaves,
    mapped,
    only,
    read_elsewhere,
    scaled,
    strength,
)
from steerlens.passes import following
from steerlens.positions import Span, missed
from steerlens.signals import Memory, Moment, fixed, looked_for
from steerlens.trace import Trace
from steerlens.transforms import Transform, moved


class Session:
    """One steering on one model, for the length of a `with` block or one pass.

    All state of a run lives here and in its clock: none on the steering, none global.
    """

    def __init__(
        self, expression: Expression, model: Host, clock: Clock, trace: Trace | None = None
    ) -> None:
        """Raise UnknownNameError or HookError on a hook point that cannot be steered."""
        self.expression = _placed(expression, model)
        self.model = model
        self.clock = clock
        self.trace = trace
        self.leaves = tuple(leaves(self.expression))
        self.names = tuple(dict.fromkeys(leaf.hook_name for leaf in self.leaves))
        self._number = {id(leaf): i for i, leaf in enumerate(self.leaves)}
        self.reads = tuple(dict.fromkeys(read_elsewhere(self.expression)))
        points = model.hook_dict  # a bridge makes it anew each time
        self._points = {name: id(points[name]) for name in (*self.names, *self.reads)}
        self._fired: dict[str, int] = {}
        self._read: dict[str, tuple[int, Tensor]] = {}
        self._memories = {id(leaf): Memory() for leaf in self.leaves}
        self._opened: dict[int, Tensor] = {}
        self._moved: dict[tuple[int, torch.device, torch.dtype], Transform] = {}

    def fwd_hooks(self) -> FwdHooks:
        """Return the callbacks: one a point written, then one a point read, which sees what was."""
        readers = [(name, self._reader(name)) for name in self.reads]
        return [*((name, self._callback(name)) for name in self.names), *readers]

    def _reader(self, name: str) -> HookFn:
        def read(activation: Tensor, hook: Any) -> None:
            self._check_shape(name, activation)
            if name not in self._read:
                self._check_fit(name, activation)
            self._read[name] = self.clock.serial, activation

        return read

    def _elsewhere(self, leaf: Intervention, name: str, h: Tensor) -> Tensor:
        """What stands at another hook point in this pass; at the leaf's own, what it sees there."""
        if self._points[name] == self._points[leaf.hook_name]:
            return h
        serial, activation = self._read.get(name, (-1, None))
        if activation is None or serial != self.clock.serial:
            raise HookError(
                f"{leaf!r} reads {name!r}, and in this pass nothing stands there yet: the model "
                "computes it later, or not at all. A signal reads at the point that it steers, or "
                "earlier in the pass."
            )
        return activation.to(torch.promote_types(activation.dtype, torch.float32))

    def _callback(self, name: str) -> HookFn:
        expression = only(self.expression, lambda leaf: leaf.hook_name == name)
        assert expression is not None

        def write(activation: Tensor, hook: Any) -> Tensor:
            self._arrive(name, activation)
            wide = torch.promote_types(activation.dtype, torch.float32)
            return applied(activation, change(expression, activation.to(wide), self._leaf_change))

        return write

    def _arrive(self, name: str, activation: Tensor) -> None:
        """Count the firing; refuse a pass that the clock did not see begin."""
        self._check_shape(name, activation)
        if self._fired.get(name) == self.clock.serial:
            raise HookError(
                f"{name!r} fired twice in what looks like one pass. Either a pass began unseen "
                "(start_at_layer, or hooks from fwd_hooks() used again), or the model computes "
                "this hook point more than once a pass; neither can be steered."
            )
        if name not in self._fired:
            self._check_fit(name, activation)
        self._fired[name] = self.clock.serial

    def _check_shape(self, name: str, activation: Tensor) -> None:
        window = self.clock.window
        if activation.shape[:2] != window.index.shape:
            raise HookError(
                f"{name!r} fired with {tuple(activation.shape[:2])} (batch, pos) in a pass of "
                f"{tuple(window.index.shape)}. Hooks from fwd_hooks() serve one pass over the "
                "tokens they were made for."
            )

    def _check_fit(self, name: str, activation: Tensor) -> None:
        """Raise BadInputError where what is looked for or written has another shape."""
        shape = tuple(activation.shape[2:])
        for leaf in self.leaves:
            place, unit = leaf.reads or leaf.hook_name, leaf.transform.unit_shape
            if name == place and unit not in (None, shape):
                raise BadInputError(
                    f"{leaf.transform!r} has shape {unit} and does not fit {name!r}, whose "
                    f"activations are {shape} a token. Use one made for that hook point."
                )
            for held, read in (
                each for part in (leaf.coeff, leaf.gate) for each in looked_for(part, place)
            ):
                own = held.only()[0] if isinstance(held, Basis) else held.vector
                if read == name and tuple(own.shape) != shape:
                    raise BadInputError(
                        f"{leaf!r} looks for {held.name!r}, of shape {tuple(own.shape)}, at "
                        f"{name!r}, whose activations are {shape} a token. Use one found at that "
                        "hook point, or read it where it was found: signal.at(hook_name)."
                    )

    def _leaf_change(self, leaf: Intervention, h: Tensor) -> Change:
        moment = Moment(
            x=h if leaf.reads is None else self._elsewhere(leaf, leaf.reads, h),
            window=self.clock.window,
            h=h,
            memory=self._memories[id(leaf)],
            elsewhere=lambda name: self._elsewhere(leaf, name, h),
        )
        mask = self.clock.where(leaf.positions).to(h.device)
        found = strength(moment, leaf, mask)
        values = found.product
        result = scaled(moment, values, self._transform(leaf, h))
        self._note_opening(leaf, found.gate)
        if self.trace is not None:
            self.trace.record(self.clock, self._number[id(leaf)], mask, found, result, h)
        return result, values != 0

    def _note_opening(self, leaf: Intervention, gate: Tensor) -> None:
        """Remember whether a gate that depends on what it reads has opened yet."""
        if not fixed(leaf.gate):
            opened, before = (gate != 0).any(), self._opened.get(id(leaf))
            self._opened[id(leaf)] = opened if before is None else before | opened

    def _transform(self, leaf: Intervention, x: Tensor) -> Transform:
        """The transform with its tensors beside x, moved there once."""
        key = id(leaf), x.device, x.dtype
        if key not in self._moved:
            with torch.inference_mode(False):
                self._moved[key] = moved(leaf.transform, x.device, x.dtype)
        return self._moved[key]

    def check_fired(self) -> None:
        """Raise HookError if a hook point did not fire in the latest pass through its layer."""
        for name in self.names:
            watched = layer_of(name)
            layer = self.model.cfg.n_layers - 1 if watched is None else watched
            if self._fired.get(name, 0) >= self.clock.reached.get(layer, 0):
                continue
            if watched is None:  # the pass may have stopped short of it
                warnings.warn(f"Hook point {name!r} did not fire in the last pass.", stacklevel=4)
            elif name in self._fired:
                raise HookError(
                    f"Hook point {name!r} fell silent: its layer ran again without our hook. Was "
                    "model.reset_hooks() called while the steering was on?"
                )
            else:
                raise HookError(
                    f"Hook point {name!r} never fired, though a pass ran its layer: nothing was "
                    "steered there. The model does not compute it as it is set up."
                )

    def check_picked(self) -> None:
        """Warn of positions that picked no token; an index or span past every text is an error."""
        for selector, picked in self.clock.picked.items():
            if bool(picked):
                continue
            if isinstance(selector, Span):
                raise BadInputError(
                    f"Positions {selector!r} lie past every text: nothing was steered."
                )
            warnings.warn(
                f"Positions {selector!r} picked no token: nothing was steered. {missed(selector)}",
                stacklevel=4,
            )

    def check_order(self) -> None:
        """Warn of sequences whose second part acts on an earlier place of the pass than the first.

        Points are written as the pass comes to them, whatever the order of the formula.
        """
        reached = list(self._fired)
        for first, second in in_turn(self.expression):
            late = [reached.index(name) for name in first if name in self._fired]
            early = [reached.index(name) for name in second if name in self._fired]
            if late and early and min(early) < max(late):
                warnings.warn(
                    f"In `{reached[max(late)]} >> {reached[min(early)]}` the second comes first in "
                    "the pass: it does not see what the first wrote. `+` says what happens.",
                    stacklevel=4,
                )

    def check_opened(self) -> None:
        """Warn of gates that stayed shut at every token."""
        for leaf in self.leaves:
            if not bool(self._opened.get(id(leaf), True)):
                warnings.warn(f"The gate of {leaf!r} never opened.", stacklevel=4)


def _placed(expression: Expression, model: Host) -> Expression:
    """The expression with one name for each hook point, and each leaf an object of its own."""
    names: dict[int, str] = {}

    def placed(leaf: Intervention) -> Intervention:
        point = id(model.hook_dict[leaf.hook_name])
        return replace(leaf, hook_name=names.setdefault(point, leaf.hook_name))

    return mapped(expression, placed)


def check_writable(expression: Expression, model: Host) -> None:
    """Raise UnknownNameError or HookError on a hook point that cannot be steered."""
    if not hasattr(model, "hook_dict"):
        raise BadInputError(
            f"A steering runs on a HookedTransformer or a TransformerBridge; got "
            f"{type(model).__name__}. Load the model first."
        )
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
            with model.hooks(fwd_hooks=session.fwd_hooks()):
                yield session
        finally:
            if trace is not None:
                trace.finish(clock)
        session.check_fired()
        if not may_miss and not clock.serial:
            warnings.warn("No pass was run while the steering was on.", stacklevel=3)
        elif not may_miss:
            session.check_picked()
            session.check_opened()
            session.check_order()
